"""What the router learns from facts: usage, token ratio, capacity, blocks, curves; and what it counts."""

from collections import Counter

import pytest

from engines.reports import PrefillSettings, RequestTiming, Usage
from gateway.routing.facts import Outcome
from gateway.routing.fleet import DEFAULT_KV_TOKENS

LONG = "a long system prompt. " * 1500


# ── cached tokens: reported, unreported, left out ────────────────────────────────────────────────


def test_an_engine_that_never_says_what_was_cached_is_counted_as_unreported(drive):
    driver = drive()
    for _ in range(3):
        driver.serve(LONG, usage=Usage(8000, 10), pinned_replica="r1")
    series = driver.series("r1")
    assert (series.prompt_tokens, series.unreported_prompt_tokens, series.completion_tokens) == (24_000, 24_000, 30)
    assert series.hit_rate is None
    assert series.available_tokens == series.routed_tokens == series.delivered_tokens == 0
    assert sum(series.histograms["prediction_error_tokens"].counts) == 0


def test_an_engine_that_says_so_sometimes_means_0_when_it_says_nothing(drive):
    """vLLM leaves the field out where nothing was cached."""
    driver = drive()
    driver.serve(LONG, usage=Usage(8000, 10, 6000), pinned_replica="r1")
    driver.serve(LONG, usage=Usage(8000, 10), pinned_replica="r1")
    series = driver.series("r1")
    assert (series.prompt_tokens, series.unreported_prompt_tokens) == (16_000, 0)
    assert series.delivered_tokens == 6000
    assert series.hit_rate == 6000 / 16_000
    assert driver.replica("r2").inflight == 0


def test_an_engine_set_up_to_report_means_0_from_the_start(drive):
    driver = drive(up=[])
    driver.up("r1", reports_cached_tokens=True)
    driver.serve(LONG, usage=Usage(8000, 10))
    assert driver.series("r1").hit_rate == 0.0


def test_what_was_unreported_before_the_first_word_stays_so(drive):
    driver = drive()
    driver.serve(LONG, usage=Usage(1000), pinned_replica="r1")
    driver.serve(LONG, usage=Usage(2000, 1, 500), pinned_replica="r1")
    series = driver.series("r1")
    assert (series.prompt_tokens, series.unreported_prompt_tokens) == (3000, 1000)
    assert series.hit_rate == 500 / 2000


def test_a_restarted_engine_must_show_again_that_it_reports(drive):
    driver = drive()
    driver.serve(LONG, usage=Usage(2000, 1, 500), pinned_replica="r1")
    driver.restarted("r1")
    driver.up("r1", reports_cached_tokens=False)
    driver.serve(LONG, usage=Usage(8000), pinned_replica="r1")
    series = driver.series("r1")
    assert series.unreported_prompt_tokens == 8000
    assert series.hit_rate == 500 / 2000


def test_the_waterfall_sums_what_was_available_routed_and_delivered(drive):
    driver = drive(policy="round-robin")
    driver.serve(LONG, usage=Usage(8250, 1, 0))
    elsewhere = driver.route(LONG)
    assert elsewhere.available_tokens > 8000
    assert elsewhere.chosen.cached_tokens == 0
    driver.first_token(elsewhere, 500)
    driver.finish(elsewhere, usage=Usage(8250, 1, 128))
    series = driver.series(elsewhere.chosen.replica)
    assert series.available_tokens == elsewhere.available_tokens
    assert (series.routed_tokens, series.delivered_tokens) == (0, 128)
    assert series.histograms["prediction_error_tokens"].total == 128


# ── sizes ────────────────────────────────────────────────────────────────────────────────────────


def test_the_token_ratio_is_learned_per_pool(drive, pool_of):
    driver = drive(pool_of("p", "r1"), pool_of("q", "s1"))
    for n in range(200):
        text = f"prompt {n} " * 300
        driver.serve(text, pinned_pool="p", usage=Usage(len(text) // 2))
    pools = {view.name: view for view in driver.router.snapshot(driver.now).pools}
    assert pools["p"].bytes_per_token == pytest.approx(2.0, rel=0.02)
    assert pools["q"].bytes_per_token == 4.0
    rows = {candidate.pool: candidate for candidate in driver.route("x" * 8000).candidates}
    assert rows["p"].prompt_tokens == pytest.approx(4000, rel=0.02)
    assert rows["q"].prompt_tokens == 2000


def test_capacity_is_assumed_until_it_is_reported(drive):
    driver = drive()
    driver.serve(LONG, pinned_replica="r1")
    view = driver.replica("r1")
    assert view.index_fill == pytest.approx(view.index_blocks * 64 / DEFAULT_KV_TOKENS)


def test_capacity_follows_the_load_report(drive):
    driver = drive()
    driver.serve(LONG, pinned_replica="r1")
    driver.serve(LONG, pinned_replica="r2")
    assert driver.replica("r1").index_blocks == len(LONG) // 256
    driver.load("r1", kv_capacity_tokens=3200)  # 50 blocks of 64 tokens
    assert (driver.replica("r1").index_blocks, driver.replica("r1").index_fill) == (50, 1.0)
    assert driver.replica("r2").index_blocks == len(LONG) // 256
    rows = {candidate.replica: candidate for candidate in driver.route(LONG).candidates}
    assert rows["r1"].cached_tokens == 3200, "the beginning is kept"
    assert rows["r2"].cached_tokens > 8000
    driver.load("r1", running_requests=3)
    assert driver.replica("r1").index_blocks == 50, "a report without capacity changes none"
    assert driver.replica("r1").report.running_requests == 3


def test_capacity_may_come_with_the_description(drive):
    driver = drive()
    driver.serve(LONG, pinned_replica="r1")
    driver.up("r1", kv_capacity_tokens=640)
    assert driver.replica("r1").index_blocks == 10


def test_a_tiny_capacity_still_holds_a_block(drive):
    driver = drive()
    driver.load("r1", kv_capacity_tokens=1)
    driver.serve(LONG, pinned_replica="r1")
    assert driver.replica("r1").index_blocks == 1


@pytest.mark.parametrize("source", ["load report", "description"])
def test_overlap_counts_full_blocks_of_the_engine_only(drive, source):
    driver = drive(up=[])
    driver.up("r1", block_tokens=256 if source == "description" else None)
    driver.load("r1", block_tokens=256 if source == "load report" else None)
    driver.serve("x" * 256 * 11)  # 704 tokens in 11 of our blocks
    decision = driver.route("x" * 256 * 11 + "y" * 2000)
    assert decision.chosen.cached_tokens == 512


def test_the_load_report_knows_the_block_better_than_the_description(drive):
    driver = drive(up=[])
    driver.up("r1", block_tokens=1024)
    driver.load("r1", block_tokens=128)
    driver.serve("x" * 256 * 11)
    assert driver.route("x" * 256 * 11 + "y" * 2000).chosen.cached_tokens == 640


# ── curves ───────────────────────────────────────────────────────────────────────────────────────


def fast_ms(tokens: int) -> float:
    return 5 + 0.02 * tokens


def measure(driver, replica, times=20, pace=1.0):
    """So many cold requests at a fast replica."""
    for n in range(times):
        decision = driver.route(f"{replica} warms up {n} " * (20 + 97 * n % 400), pinned_replica=replica)
        driver.first_token(decision, pace * fast_ms(decision.chosen.prompt_tokens))
        driver.finish(decision)
        driver.now += 1


def test_a_measured_replica_is_predicted_by_its_own_curve(drive):
    driver = drive()
    measure(driver, "r1", 60)
    row = next(row for row in driver.route(LONG).candidates if row.replica == "r1")
    assert row.prefill_ms == pytest.approx(fast_ms(row.prompt_tokens), rel=0.1)
    assert driver.replica("r1").curve_ms_per_token == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("pace", [0.1, 1.0, 10.0], ids=lambda pace: f"{pace} of a fast engine's time")
def test_a_new_replica_borrows_its_pools_curve_and_is_not_starved(drive, pace):
    """Not before it was measured, and not after: its own curve starts from the pool's."""
    driver = drive(up=["r1"])
    measure(driver, "r1", 60, pace)
    driver.up("r2")
    preview = driver.router.preview(driver.request(LONG), driver.now)
    rows = {row.replica: row for row in preview.candidates}
    assert rows["r2"].prefill_ms == pytest.approx(rows["r1"].prefill_ms, rel=0.1)
    chosen: Counter[str] = Counter()
    for n in range(200):
        decision = driver.route(f"cold {n} " * (20 + 97 * n % 400))
        driver.first_token(decision, pace * fast_ms(decision.chosen.prompt_tokens))
        driver.finish(decision)
        driver.now += 1
        chosen[decision.chosen.replica] += 1
    assert 50 < chosen["r2"] < 180


def test_a_new_pool_borrows_the_fleets_curve(drive, pool_of):
    driver = drive(pool_of("p", "r1"), pool_of("q", "s1"), up=["r1"])
    measure(driver, "r1", 60)
    driver.up("s1")
    rows = {row.replica: row for row in driver.route(LONG).candidates}
    assert rows["s1"].prefill_ms == pytest.approx(rows["r1"].prefill_ms, rel=0.1)


def test_replicas_of_different_pace_are_told_apart(drive, pool_of):
    driver = drive(pool_of("fast", "f1"), pool_of("slow", "s1"))
    for n in range(60):
        for replica, pace in (("f1", 1.0), ("s1", 4.0)):
            decision = driver.route(f"{replica} {n} " * (20 + 97 * n % 400), pinned_replica=replica)
            driver.first_token(decision, pace * fast_ms(decision.chosen.prompt_tokens))
            driver.finish(decision)
            driver.now += 1
    rows = {row.replica: row for row in driver.route("cold" * 8000).candidates}
    assert rows["s1"].prefill_ms == pytest.approx(4 * rows["f1"].prefill_ms, rel=0.15)
    assert driver.route("colder" * 8000).chosen.replica == "f1"


def test_the_wait_is_not_learned_as_prefill(drive):
    """Requests that queue behind each other teach the same line as requests one at a time."""
    driver = drive(up=["r1"])
    measure(driver, "r1", 60)
    for burst in range(20):
        queue = [driver.route(f"burst {burst} request {n} " * 200) for n in range(4)]
        for decision in queue:
            driver.first_token(decision, fast_ms(decision.chosen.prompt_tokens))
        for decision in queue:
            driver.finish(decision)
        driver.now += 1
    assert driver.replica("r1").curve_ms_per_token == pytest.approx(0.02, rel=0.1)
    assert driver.replica("r1").wait_ms == 0


def prompts(times):
    """Cold prompts of many lengths."""
    return [f"cold {n} " * (20 + 97 * n % 400) for n in range(times)]


def curve_ms(driver, tokens, replica="r1"):
    view = driver.replica(replica)
    return view.curve_base_ms + view.curve_ms_per_token * tokens + view.curve_ms_per_token2 * tokens**2


def test_the_curve_is_learned_at_the_end_and_once(drive):
    driver = drive(up=["r1"])
    assert driver.replica("r1").curve_observations == 0
    assert (driver.replica("r1").curve_bias, driver.replica("r1").curve_mape) == (None, None)
    for n, text in enumerate(prompts(20)):
        decision = driver.route(text)
        driver.first_token(decision, 40)
        before = driver.replica("r1").curve_observations
        driver.finish(decision, usage=Usage(decision.chosen.prompt_tokens, 4, 0), timing=RequestTiming(39.0, 0.5))
        assert (before, driver.replica("r1").curve_observations) == (n, n + 1)
    assert 0 < driver.replica("r1").curve_mape <= 1


def test_the_engines_own_time_of_prefill_is_believed(drive):
    """What the engine calls its queue is no prefill, however long it was and whatever wait was predicted."""
    driver = drive(up=["r1"])
    for text in prompts(80):
        decision = driver.route(text)
        tokens = decision.chosen.prompt_tokens
        driver.first_token(decision, fast_ms(tokens) + 5000)
        driver.finish(decision, usage=Usage(tokens, 4, 0), timing=RequestTiming(fast_ms(tokens), 5000.0))
        driver.now += 1
    assert curve_ms(driver, 1000) == pytest.approx(fast_ms(1000), rel=0.05)
    assert driver.replica("r1").curve_mape < 0.1


def test_plain_bodies_teach_where_the_engine_says_its_times(drive):
    driver = drive(up=["r1"])
    for text in prompts(80):
        decision = driver.route(text, streams=False)
        tokens = decision.chosen.prompt_tokens
        driver.now += 30
        driver.finish(decision, usage=Usage(tokens, 400, 0), timing=RequestTiming(fast_ms(tokens)))
    assert driver.replica("r1").curve_observations == 80
    assert curve_ms(driver, 1000) == pytest.approx(fast_ms(1000), rel=0.05)


def test_plain_bodies_without_times_teach_no_curve(drive):
    driver = drive(up=["r1"])
    decision = driver.route(LONG, streams=False)
    driver.now += 30
    driver.finish(decision, usage=Usage(8250, 400, 0))
    assert driver.replica("r1").curve_observations == 0


@pytest.mark.parametrize("timed", [False, True])
def test_the_curve_is_of_the_tokens_that_the_engine_had_to_compute(drive, timed):
    """Every prompt is twice as many tokens as its text looks like, and half of that comes from the cache."""
    driver = drive(up=["r1"])
    for n, text in enumerate(prompts(300)):
        tokens = 2 * len(text) // 4
        decision = driver.route(text)
        took_ms = fast_ms(tokens - tokens // 2)
        driver.first_token(decision, took_ms)
        timing = RequestTiming(took_ms, 0.0) if timed else None
        driver.finish(decision, usage=Usage(tokens + n % 2, 4, tokens // 2), timing=timing)
        driver.now += 1
    assert curve_ms(driver, 1000) == pytest.approx(fast_ms(1000), rel=0.03)


def test_without_the_engines_word_the_prediction_says_what_was_uncached(drive):
    driver = drive(up=["r1"])
    for text in prompts(80):
        decision = driver.route(text)
        driver.first_token(decision, fast_ms(decision.chosen.prompt_tokens))
        driver.finish(decision, usage=Usage(3 * decision.chosen.prompt_tokens, 4))
        driver.now += 1
    assert driver.replica("r1").curve_observations == 80
    assert driver.replica("r1").curve_mape < 0.5


@pytest.mark.parametrize("outcome", [Outcome.CLIENT_GONE, Outcome.ENGINE_FAILED, Outcome.TIMED_OUT])
def test_a_request_that_ended_badly_after_its_first_token_teaches_its_prefill(drive, outcome):
    driver = drive(up=["r1"])
    decision = driver.route(LONG)
    driver.first_token(decision, 300)
    driver.finish(decision, outcome)
    assert driver.replica("r1").curve_observations == 1


@pytest.mark.parametrize("outcome", [Outcome.CLIENT_GONE, Outcome.ENGINE_FAILED, Outcome.ENGINE_REJECTED])
def test_a_request_without_a_first_token_teaches_none(drive, outcome):
    driver = drive(up=["r1"])
    decision = driver.route(LONG)
    driver.now += 1
    driver.finish(decision, outcome)
    assert driver.replica("r1").curve_observations == 0


def test_a_curve_that_bends_is_borrowed_with_its_bend(drive):
    driver = drive(up=["r1"])
    for n in range(200):
        text = f"cold {n} " * (20 + 970 * n % 6000)
        decision = driver.route(text)
        tokens = decision.chosen.prompt_tokens
        driver.first_token(decision, 10 + 0.02 * tokens + 2e-6 * tokens**2)
        driver.finish(decision)
        driver.now += 1
    driver.up("r2")
    assert curve_ms(driver, 10_000) == pytest.approx(410, rel=0.05)
    assert driver.replica("r1").curve_ms_per_token2 == pytest.approx(2e-6, rel=0.25)
    assert driver.replica("r2").curve_ms_per_token2 == driver.replica("r1").curve_ms_per_token2
    driver.serve(LONG, after_ms=curve_ms(driver, 8250), pinned_replica="r2")
    row = next(row for row in driver.route("x" * 40_000).candidates if row.replica == "r2")
    assert row.prefill_ms == pytest.approx(curve_ms(driver, row.prompt_tokens), rel=0.05)


# ── counting ─────────────────────────────────────────────────────────────────────────────────────


def test_times_are_counted_from_accept_and_once(drive):
    driver = drive(up=["r1"])
    decision = driver.route(LONG, request_id="one")
    driver.dispatched(decision)
    driver.first_token(decision, 500)
    driver.first_token(decision, 100)  # a second first token is none
    driver.now += 0.9
    driver.finish(decision, usage=Usage(8000, 11, 0), content_frames=11)
    histograms = driver.series("r1").histograms
    assert sum(histograms["ttft_seconds"].counts) == 1
    assert histograms["ttft_seconds"].total == pytest.approx(0.5)
    assert sum(histograms["itl_seconds"].counts) == 10
    assert histograms["itl_seconds"].total == pytest.approx(1.0)
    assert histograms["request_seconds"].total == pytest.approx(1.5)
    assert histograms["route_seconds"].total == pytest.approx(0.0001)
    assert histograms["overhead_seconds"].total == pytest.approx(0.0003)
    error_s = 0.5 - decision.chosen.ttft_ms / 1000
    assert histograms["predicted_ttft_error_seconds"].total == pytest.approx(error_s)
    record = driver.router.record("one")
    assert record is not None
    assert record.ttft_s == pytest.approx(0.5)
    assert (record.outcome, record.usage) == (Outcome.COMPLETED, Usage(8000, 11, 0))


@pytest.mark.parametrize("frames", [0, 1])
def test_one_frame_has_no_gap(drive, frames):
    driver = drive(up=["r1"])
    decision = driver.route(LONG)
    driver.first_token(decision, 500)
    driver.finish(decision, content_frames=frames)
    assert sum(driver.series("r1").histograms["itl_seconds"].counts) == 0


def test_every_outcome_is_counted(drive):
    driver = drive(up=["r1"])
    for outcome in Outcome:
        driver.finish(driver.route(LONG), outcome)
    driver.finish(driver.route(LONG), Outcome.COMPLETED)
    assert driver.series("r1").outcomes == {outcome: 1 + (outcome is Outcome.COMPLETED) for outcome in Outcome}


def test_recent_requests_are_kept_newest_first_and_bounded(drive, monkeypatch):
    monkeypatch.setattr("gateway.routing.scoreboard.RECENT_REQUESTS", 5)
    driver = drive()
    for n in range(8):
        driver.serve("hello", request_id=f"request {n}")
    assert [record.decision.request_id for record in driver.router.recent(3)] == ["request 7", "request 6", "request 5"]
    assert len(driver.router.recent(100)) == 5
    assert driver.router.record("request 2") is None


def test_a_request_whose_record_was_dropped_still_counts(drive, monkeypatch):
    monkeypatch.setattr("gateway.routing.scoreboard.RECENT_REQUESTS", 1)
    driver = drive(up=["r1"])
    first, second = driver.route(LONG), driver.route(LONG)
    for decision in (first, second):
        driver.first_token(decision, 10)
        driver.finish(decision)
    assert driver.series("r1").outcomes == {"completed": 2}


def test_the_snapshot_shows_the_wished_and_the_actual_settings(drive):
    driver = drive(up=[])
    driver.up("r1", models=["m"], version="1.2", prefill=PrefillSettings(chunk_tokens=4096))
    view = driver.replica("r1")
    assert (view.state, view.reason, view.version, view.models) == ("up", "", "1.2", ("m",))
    assert view.prefill_actual.chunk_tokens == 4096
    assert view.prefill_desired == PrefillSettings()
    assert driver.replica("r2").state == "starting"
