"""Arms in the Router: candidates, policies and pins, and what happens when nobody of an arm can serve."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.routing.experiments.definition import Arm, Eligible, Experiment, Exposure
from gateway.routing.facts import AttemptFailed, ExperimentsChanged, Exposed
from gateway.routing.scope import Scope

TEXT = "what is a prefix cache? " * 40


def experiment(*arms: Arm, unit: str = "session", name: str = "e", **more: Any) -> Experiment:
    return Experiment(name, unit, arms, arms[0].name, **more)


HALVES = (Arm("a", pools=frozenset("p")), Arm("b", pools=frozenset("q")))


@pytest.fixture
def split(drive: Callable[..., Any], pool_of: Callable[..., Any]) -> Callable[..., Any]:
    """`split(*experiments)`: a driver over the pools p and q, of two replicas each."""

    def start(*running: Experiment, **settings: Any) -> Any:
        driver = drive(pool_of("p", "p1", "p2"), pool_of("q", "q1", "q2"), **settings)
        driver.router.observe(ExperimentsChanged(driver.now, running or (experiment(*HALVES),)))
        return driver

    return start


def session_in(driver: Any, arm: str) -> str:
    """A session that falls to the arm."""
    for number in range(100):
        answer = driver.router.preview(driver.request(TEXT, session=f"s{number}"), driver.now)
        if answer.exposure is not None and answer.exposure.arm == arm:
            return f"s{number}"
    raise AssertionError(f"no session falls to {arm}")


def test_a_unit_stays_in_its_arm_and_the_decision_says_so(split: Any) -> None:
    driver = split()
    seen = Counter()
    for number in range(40):
        first = driver.serve(TEXT + str(number), session=f"s{number}")
        for turn in range(3):
            again = driver.serve(f"{turn} other text " * 99, session=f"s{number}")
            assert again.exposure == first.exposure
        assert first.chosen.pool == {"a": "p", "b": "q"}[first.exposure.arm]
        assert {row.pool for row in first.candidates} == {first.chosen.pool}
        assert first.exposure.label in ("e=a", "e=b")
        assert first.exposure.arm in first.why
        seen[first.exposure.arm] += 1
    assert set(seen) == {"a", "b"}


def test_two_gateways_agree(split: Any) -> None:
    arms = [[split(seed=seed).route(TEXT, session=f"s{n}").exposure for n in range(20)] for seed in (1, 2)]
    assert arms[0] == arms[1]


def test_when_nobody_of_an_arm_is_left_the_request_crosses_and_is_marked(split: Any) -> None:
    driver = split()
    session = session_in(driver, "b")
    driver.down("q1", "q2")
    decision = driver.route(TEXT, session=session)
    assert (decision.chosen.pool, decision.exposure.crossed) == ("p", True)
    assert decision.exposure.label == "e=b;failover"
    assert "outside" in decision.why
    driver.up("q1")
    assert driver.route(TEXT, session=session).exposure.label == "e=b"


def test_a_retry_stays_in_the_arm_as_long_as_somebody_there_was_not_tried(split: Any) -> None:
    driver = split()
    session = session_in(driver, "a")
    tried: list[str] = []
    crossed = []
    for _ in range(4):
        decision = driver.route(TEXT, session=session, tried=frozenset(tried))
        tried.append(decision.chosen.replica)
        crossed.append(decision.exposure.crossed)
        driver.fail(decision)
    assert crossed == [False, False, True, True]
    assert {*tried[:2]} == {"p1", "p2"}
    assert driver.refused(TEXT, session=session, tried=frozenset(tried))
    assert sum(view.inflight for view in driver.router.snapshot(driver.now).replicas) == 0


def test_a_held_request_is_held_for_its_arm(split: Any) -> None:
    driver = split(hold_ms=1.0)
    session = session_in(driver, "a")
    driver.router.observe(ExperimentsChanged(driver.now, (experiment(*HALVES),)))
    busy = [driver.route(TEXT * 9 + str(n), pinned_replica=name) for n, name in enumerate(("p1", "p2"))]
    held = driver.hold(TEXT * 8, session=session)
    assert held.best.pool == "p"
    assert driver.release() == {}  # q1 and q2 are idle, and not its arm's
    driver.now += 1
    driver.first_token(busy[0])
    driver.finish(busy[0])
    (released,) = driver.release().values()
    assert (released.chosen.pool, released.exposure.label) == ("p", "e=a")
    driver.finish(released)
    driver.finish(busy[1])
    assert sum(view.inflight for view in driver.router.snapshot(driver.now).replicas) == 0


@pytest.mark.parametrize(
    ("eligible", "more"),
    [
        (Eligible(models=frozenset({"other"})), {}),
        (Eligible(tenants=frozenset({"t"})), {"tenant": "u"}),
        (Eligible(min_prompt_tokens=100_000), {}),
        (Eligible(max_prompt_tokens=10), {}),
        (Eligible(header="x-beta"), {}),
        (Eligible(header="x-beta", header_value="1"), {"headers": (("x-beta", "2"),)}),
        (Eligible(), {"pinned_pool": "p"}),
        (Eligible(), {"pinned_replica": "q1"}),
        (Eligible(), {"response_id": "resp_1"}),
        (Eligible(), {"scope": Scope(pools=frozenset("p"))}),  # one of the arms does not exist for it
    ],
)
def test_who_takes_no_part_goes_anywhere(split: Any, eligible: Eligible, more: dict[str, Any]) -> None:
    driver = split(experiment(*HALVES, eligible=eligible))
    assert driver.route(TEXT, session="s", **more).exposure is None


def test_who_is_asked_for_takes_part(split: Any) -> None:
    eligible = Eligible(frozenset("m"), frozenset("t"), "x-beta", "1", 10, 100_000)
    driver = split(experiment(*HALVES, eligible=eligible))
    assert driver.route(TEXT, tenant="t", headers=(("x-beta", "1"),)).exposure is not None


def test_a_request_takes_part_in_the_first_experiment_that_wants_it(split: Any) -> None:
    first = experiment(*HALVES, name="first", eligible=Eligible(min_prompt_tokens=1000))
    driver = split(first, experiment(*HALVES, name="second"))
    assert driver.route(TEXT * 20).exposure.experiment == "first"
    assert driver.route(TEXT).exposure.experiment == "second"


def test_arms_can_be_policies_replicas_and_chunks(split: Any) -> None:
    driver = split(experiment(Arm("rr", policy="round-robin"), Arm("t", policy="ttft")))
    rr, t = session_in(driver, "rr"), session_in(driver, "t")
    decisions = [driver.serve(TEXT, session=rr) for _ in range(4)]
    assert {decision.policy for decision in decisions} == {"round-robin"}
    assert {decision.chosen.replica for decision in decisions} == {"p1", "p2", "q1", "q2"}
    assert driver.route(TEXT, session=t).policy == "ttft"
    urls = experiment(Arm("x", replicas=frozenset({"p1", "http://q1"})), Arm("y", replicas=frozenset({"p2"})))
    driver.router.observe(ExperimentsChanged(driver.now, (urls,)))
    assert {row.replica for row in driver.route(TEXT, session=session_in(driver, "x")).candidates} == {"p1", "q1"}


def test_only_the_holding_policy_of_two_arms_holds(split: Any) -> None:
    driver = split(experiment(Arm("rr", policy="round-robin"), Arm("t", policy="ttft")), policy="random", hold_ms=1.0)
    rr, t = session_in(driver, "rr"), session_in(driver, "t")
    for name in ("p1", "p2", "q1", "q2"):
        driver.route(TEXT * 9 + name, pinned_replica=name)
    assert driver.hold(TEXT, session=t).best.replica
    assert driver.route(TEXT, session=rr).exposure.arm == "rr"


def test_a_stopped_arm_gives_its_units_to_the_control_uncounted(split: Any) -> None:
    driver = split()
    session, control = session_in(driver, "b"), session_in(driver, "a")
    stopped = tuple(msgspec.structs.replace(arm, stopped=arm.name == "b") for arm in HALVES)
    driver.router.observe(ExperimentsChanged(driver.now, (experiment(*stopped),)))
    decision = driver.route(TEXT, session=session)
    assert (decision.chosen.pool, decision.exposure) == ("p", None)
    assert driver.route(TEXT, session=control).exposure.arm == "a"


def test_exposures_are_counted(split: Any) -> None:
    driver = split()
    for arm in "aab":
        driver.router.observe(Exposed(driver.now, Exposure("e", arm, 1)))
    assert driver.router.snapshot(driver.now).exposures == {"e": {"a": 2, "b": 1}}


def test_what_is_available_elsewhere_is_known_also_from_within_an_arm(split: Any) -> None:
    driver = split()
    session = session_in(driver, "b")
    driver.serve(TEXT * 4, pinned_replica="p1")
    decision = driver.route(TEXT * 4, session=session)
    assert (decision.chosen.pool, decision.chosen.cached_tokens) == ("q", 0)
    assert decision.available_tokens > 0
    driver.router.observe(AttemptFailed(decision.ticket, driver.now))


def test_nothing_of_an_ended_experiment_is_left(split: Any) -> None:
    driver = split()
    driver.router.observe(ExperimentsChanged(driver.now, ()))
    assert driver.route(TEXT, session="s").exposure is None
