"""Who is changed next, and who else must be there meanwhile."""

from random import Random

from engines.reports import ModelCard
from gateway.prefill.order import next_replica, open_beside, others_known, others_up
from gateway.routing.facts import ReplicaDown, ReplicaDraining, ReplicaUp
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router
from gateway.routing.snapshot import ReplicaView


def views(
    *, down: tuple[str, ...] = (), draining: tuple[str, ...] = (), adapters: tuple[str, ...] = ()
) -> list[ReplicaView]:
    """Pool p with three replicas and pool q with one, all of the model m; `adapters` of p-0 only."""
    pools = {"p": 3, "q": 1}
    specs = [
        PoolSpec(name, "m", tuple(ReplicaSpec(f"{name}-{n}", f"http://{name}{n}") for n in range(count)))
        for name, count in pools.items()
    ]
    router = Router(specs, policy="ttft", rng=Random(1))
    for name in ("p-0", "p-1", "p-2", "q-0"):
        models = [ModelCard("m"), *(ModelCard(one, parent="m") for one in adapters if name == "p-0")]
        router.observe(ReplicaUp(name, 1.0, tuple(models)))
    for name in down:
        router.observe(ReplicaDown(name, 2.0, "gone"))
    for name in draining:
        router.observe(ReplicaDraining(name, 2.0))
    return list(router.snapshot(3.0).replicas)


def named(replicas: list[ReplicaView], name: str) -> ReplicaView:
    return next(one for one in replicas if one.name == name)


def test_who_serves_nobody_is_next() -> None:
    assert next_replica(views()).name == "p-0"
    assert next_replica(views(down=("p-2",))).name == "p-2"
    assert next_replica(views(draining=("p-1",))).name == "p-1"


def test_others_are_those_that_serve_the_same_model_in_any_pool() -> None:
    seen = views(down=("p-1",), draining=("p-2",))
    assert others_up(seen, named(seen, "p-0")) == 1  # q-0
    assert others_known(seen, named(seen, "p-0")) == 3


def test_the_scarcest_of_its_models_counts() -> None:
    seen = views(adapters=("lora",))
    assert others_up(seen, named(seen, "p-0")) == 0
    assert others_up(seen, named(seen, "p-1")) == 3


def test_pools_that_get_no_clients_requests_do_not_count() -> None:
    seen = views()
    assert others_up(open_beside(seen, "p", ["q"]), named(seen, "p-0")) == 2
    assert others_up(open_beside(seen, "q", ["q"]), named(seen, "q-0")) == 3
