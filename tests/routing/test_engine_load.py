"""What an engine says of its load is used for what we cannot know: others' requests, and room in its KV cache."""

import pytest

from engines.reports import LoadReport
from gateway.routing.curves import PrefillCurve
from gateway.routing.engine_load import EngineLoad

CURVE = PrefillCurve(10.0, 0.1)


def loaded(report: LoadReport, *ours: int, capacity: int | None = 100_000) -> EngineLoad:
    load = EngineLoad()
    load.reported(report, capacity, list(ours), CURVE, now=50.0)
    return load


def test_waiting_tokens_beyond_our_own_are_others() -> None:
    load = loaded(LoadReport(waiting_uncached_tokens=30_000), 4000, 6000)
    assert load.wait_ms(50.0) == pytest.approx(CURVE.predict_ms(20_000))
    assert load.wait_ms(51.0) == pytest.approx(CURVE.predict_ms(20_000) - 1000)
    assert load.wait_ms(500.0) == 0.0


@pytest.mark.parametrize("waiting", [0, 9000, 14_000])
def test_waiting_tokens_that_may_be_our_own_count_once(waiting: int) -> None:
    assert loaded(LoadReport(waiting_uncached_tokens=waiting), 4000, 6000).wait_ms(50.0) == 0.0


def test_waiting_requests_count_at_our_mean_size_where_tokens_are_not_said() -> None:
    assert loaded(LoadReport(waiting_requests=5), 4000, 6000).wait_ms(50.0) == pytest.approx(3 * CURVE.predict_ms(5000))
    assert loaded(LoadReport(waiting_requests=2), 4000, 6000).wait_ms(50.0) == 0.0
    assert loaded(LoadReport(), 4000).wait_ms(50.0) == 0.0


def test_a_full_kv_cache_makes_a_prompt_wait_for_those_that_run() -> None:
    load = loaded(LoadReport(kv_usage=0.8))
    load.stayed(4000.0)
    assert load.room_ms(20_000) == 0.0
    assert load.room_ms(40_000) == pytest.approx(4000 * 20_000 / 80_000)
    load.sent(20_000)
    assert load.room_ms(20_000) == pytest.approx(4000 * 20_000 / 80_000)
    assert load.room_ms(10**9) == 4000.0


@pytest.mark.parametrize(("report", "capacity"), [(LoadReport(), 100_000), (LoadReport(kv_usage=0.9), None)])
def test_an_engine_that_says_nothing_of_its_cache_has_room(report: LoadReport, capacity: int | None) -> None:
    load = loaded(report, capacity=capacity)
    load.stayed(4000.0)
    load.sent(50_000)
    assert load.room_ms(90_000) == 0.0


def test_how_long_requests_stay_is_a_recent_mean() -> None:
    load = EngineLoad()
    load.stayed(1000.0)
    for _ in range(200):
        load.stayed(3000.0)
    assert load.stay_ms == pytest.approx(3000.0, rel=0.01)


def test_others_requests_at_an_engine_send_ours_elsewhere(drive, pool_of) -> None:
    driver = drive(pool_of("p", "r1", "r2"))
    driver.load("r1", waiting_uncached_tokens=50_000)
    assert {driver.route(f"prompt {n} " * 400).chosen.replica for n in range(3)} == {"r2"}
