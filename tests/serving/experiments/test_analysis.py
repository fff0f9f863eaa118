"""What of a store is judged: after the warm-up, before an arm was stopped, and what all gateways of several keep."""

from pathlib import Path

from msgspec import structs

from gateway.config.experiments import ArmConfig, ExperimentConfig
from gateway.config.pools import PoolConfig
from gateway.experiments.terms import ArmTerms
from gateway.serving.experiments.analysis import Part, judged, part_of, report_of
from gateway.serving.experiments.judging import terms_of
from gateway.serving.experiments.store import Observed, Store
from gateway.serving.experiments.trial import RUNNING, STOPPED, StoppedArm, Trial
from gateway.serving.membership.member import Member

E = ExperimentConfig("e", {"a": 0.5, "b": 0.5}, warm_up_s=10.0)
TRIAL = Trial(E, state=RUNNING, began_at=100.0, counts_from=100.0)
POOLS = [
    PoolConfig(name, "vllm", gpus_per_replica=2, usd_per_gpu_hour=price) for name, price in (("a", 2.0), ("b", None))
]
MEMBERS = [Member("a-0", "a", "http://a0"), Member("a-1", "a", "http://a1"), Member("b-0", "b", "http://b0")]
TERMS = terms_of(TRIAL, POOLS, MEMBERS)


def observed(at: float, arm: str = "a", unit: int = 1, ttft_s: float | None = 0.5) -> Observed:
    return Observed("e", arm, unit, at, ttft_s, None, 1.0, 100, None, 8, False, False, False)


def stored(tmp_path: Path, trial: Trial, *rows: Observed) -> Part:
    store = Store(tmp_path / "s")
    store.keep([(trial, TERMS)], [])
    store.add(rows)
    part = part_of(store, store.trials()[0])
    store.close()
    return part


def test_terms_know_the_arms_gpus_and_their_price() -> None:
    assert TERMS.arms == (ArmTerms("a", 0.5, 4.0, 2.0), ArmTerms("b", 0.5, 2.0, None))


def test_arms_that_share_replicas_have_no_gpus_of_their_own() -> None:
    policies = ExperimentConfig("e", {"x": ArmConfig(policy="prefix"), "y": ArmConfig(policy="ttft")})
    assert [arm.gpus for arm in terms_of(Trial(policies), POOLS, MEMBERS).arms] == [None, None]


def test_the_warm_up_and_what_came_after_a_stopped_arm_do_not_count(tmp_path: Path) -> None:
    rows = [observed(at) for at in (99.0, 105.0, 110.0, 130.0, 150.0)]
    stopped = structs.replace(TRIAL, stopped_arms=(StoppedArm("b", 140.0, "too slow"),))
    part = stored(tmp_path, stopped, *rows)
    what = judged([part])
    assert what.observations.at_s.tolist() == [0.0, 20.0]
    assert what.terms.running_s == 30.0
    assert "b was stopped: too slow" in report_of(what).warnings[-1]


def test_several_gateways_are_judged_by_the_units_that_all_keep() -> None:
    ended = structs.replace(TRIAL, state=STOPPED, ended_at=200.0)
    whole = Part(ended, TERMS, 0, [observed(120.0, unit=unit) for unit in range(8)])
    thin = Part(ended, TERMS, 1, [observed(115.0, "b", unit=2, ttft_s=None)])
    what = judged([whole, thin])
    assert what.observations.unit.tolist() == [2, 0, 2, 4, 6]
    assert [arm.gpus for arm in what.terms.arms] == [None, None]
    assert any("one in 2 units" in warning for warning in report_of(what).warnings)
