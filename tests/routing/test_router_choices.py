"""Where requests go: affinity, bursts, retries, pins, models, health and stored responses."""

from collections import Counter

import pytest

from engines.reports import ModelCard, Usage
from gateway.routing.congestion import LEAST_SHARE
from gateway.routing.decision import RejectionReason
from gateway.routing.facts import Outcome, Refused, ReplicaUp
from gateway.routing.policies import POLICIES

LONG = "a long system prompt. " * 1500  # 33,000 bytes: about 8,250 tokens, 570 ms by the prior
OTHER = "something else again. " * 1500


# ── affinity ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("policy", ["ttft", "prefix"])
@pytest.mark.parametrize("seed", range(6))
def test_the_same_chain_goes_where_it_went_before(drive, policy, seed):
    driver = drive(policy=policy, seed=seed)
    first = driver.serve(LONG)
    for _ in range(5):
        again = driver.serve(LONG)
        assert again.chosen.replica == first.chosen.replica
        assert again.chosen.cached_tokens == again.available_tokens
        assert again.chosen.cached_tokens > 8000


@pytest.mark.parametrize("policy", ["ttft", "prefix"])
def test_a_shared_beginning_is_enough(drive, policy):
    driver = drive(policy=policy)
    first = driver.serve(LONG + "first question")
    second = driver.serve(LONG + "a second question, longer than the first. " * 40)
    assert second.chosen.replica == first.chosen.replica
    assert 8000 < second.chosen.cached_tokens < second.chosen.prompt_tokens - 300


def test_different_cold_prompts_fill_the_caches_evenly(drive):
    driver = drive()
    chosen = Counter(driver.serve(f"prompt {n} " * 400).chosen.replica for n in range(40))
    assert chosen == {"r1": 20, "r2": 20}


def test_a_prompt_is_never_predicted_to_be_cached_whole(drive):
    """The engine always computes the last token."""
    driver = drive()
    text = "x" * 256 * 4
    driver.serve(text)
    decision = driver.route(text)
    assert decision.chosen.cached_tokens == decision.chosen.prompt_tokens - 1


def test_the_decision_explains_itself(drive):
    driver = drive()
    driver.serve(LONG)
    decision = driver.route(LONG)
    chosen = decision.chosen
    assert {candidate.replica for candidate in decision.candidates} == {"r1", "r2"}
    assert chosen in decision.candidates
    terms = {"wait": chosen.wait_ms, "prefill": chosen.prefill_ms, "others": chosen.others_ms, "eviction": 0}
    assert {term.name: term.ms for term in chosen.terms} == terms
    assert chosen.others_ms == pytest.approx(LEAST_SHARE * chosen.prefill_ms, rel=0.1)
    assert chosen.cost_ms == sum(term.ms for term in chosen.terms)
    other = next(candidate for candidate in decision.candidates if candidate is not chosen)
    for word in ("ttft", chosen.replica, str(chosen.cached_tokens), other.replica):
        assert word in decision.why
    alone = driver.route(LONG, pinned_replica="r1")
    assert alone.why == "r1 is the only usable replica"


def test_a_preview_is_what_route_answers_and_books_nothing(drive):
    driver = drive()
    driver.serve(LONG)
    request = driver.request(LONG)
    previews = [driver.router.preview(request, driver.now) for _ in range(3)]
    assert previews[0] == previews[1] == previews[2] == driver.router.route(request, driver.now)
    assert sum(view.inflight for view in driver.router.snapshot(driver.now).replicas) == 1


# ── bursts ───────────────────────────────────────────────────────────────────────────────────────


def test_a_burst_of_a_cold_prompt_stays_together_until_waiting_costs_more_than_recomputing(drive):
    """Questions on one long text, 30 ms apart: each adds 40 ms or so of its own to the queue."""
    driver = drive()
    home = driver.route(LONG + "q0 " * 400).chosen.replica
    driver.now += 0.15
    for stayed in range(30):
        driver.now += 0.03
        decision = driver.route(LONG + f"q{stayed + 1} " * 400)
        if decision.chosen.replica != home:
            break
    assert 2 < stayed < 29
    queued = next(candidate for candidate in decision.candidates if candidate.replica == home)
    assert decision.chosen.wait_ms == decision.chosen.cached_tokens == 0
    assert queued.cached_tokens > 8000
    assert queued.prefill_ms < decision.chosen.prefill_ms
    assert queued.cost_ms > decision.chosen.cost_ms


def test_a_burst_of_one_cold_prompt_whose_prefill_is_under_way_is_not_scattered(drive, pool_of):
    driver = drive(pool_of("p", "r1", "r2", "r3", "r4"))
    home = driver.route(LONG).chosen.replica
    for _ in range(12):
        driver.now += 0.025
        assert driver.route(LONG).chosen.replica == home


def test_a_burst_of_one_cold_prompt_in_the_same_instant_is_not_scattered(drive, pool_of):
    driver = drive(pool_of("p", "r1", "r2", "r3", "r4"))
    assert len({driver.route(LONG).chosen.replica for _ in range(6)}) == 1


def test_the_prefix_policy_keeps_a_burst_together_whatever_the_wait(drive):
    driver = drive(policy="prefix")
    assert len({driver.route(LONG).chosen.replica for _ in range(30)}) == 1


# ── failed attempts ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "end", [None, *(outcome for outcome in Outcome if outcome is not Outcome.COMPLETED)], ids=lambda end: end or "retry"
)
def test_an_attempt_that_dies_before_its_first_token_leaves_no_prediction(drive, end):
    driver = drive()
    decision = driver.route(LONG)
    replica = decision.chosen.replica
    assert driver.predicted(LONG, replica) > 8000
    driver.fail(decision) if end is None else driver.finish(decision, end)
    assert driver.predicted(LONG, replica) == 0
    assert driver.replica(replica).index_blocks == 0


@pytest.mark.parametrize("end", Outcome)
def test_what_a_first_token_has_shown_stays(drive, end):
    driver = drive()
    decision = driver.route(LONG)
    driver.first_token(decision, 500)
    driver.finish(decision, end)
    assert driver.predicted(LONG, decision.chosen.replica) > 8000


def test_a_plain_request_shows_its_prefill_by_completing(drive):
    driver = drive()
    decision = driver.route(LONG, streams=False)
    driver.finish(decision)
    assert driver.predicted(LONG, decision.chosen.replica) > 8000


def test_a_plain_request_that_completes_out_of_turn_was_what_the_engine_worked_on(drive):
    driver = drive(up=["r1"])
    head = driver.route(LONG)
    short = driver.route("short " * 200, streams=False)
    driver.now += 0.1
    driver.finish(short)
    assert driver.replica("r1").wait_ms == pytest.approx(head.chosen.prefill_ms)


def test_a_failed_attempt_does_not_take_what_others_in_flight_promise(drive):
    """One client of a burst leaves, and the next must still see what the first is computing."""
    driver = drive()
    first = driver.route(LONG + "first " * 200, pinned_replica="r1")
    second = driver.route(LONG + "second " * 200, pinned_replica="r1")
    driver.finish(second, Outcome.CLIENT_GONE)
    assert driver.predicted(LONG + "first " * 200, "r1") > 8500
    assert 8000 < driver.predicted(LONG + "second " * 200, "r1") < 8300
    driver.fail(first)
    assert driver.replica("r1").index_blocks == 0


def test_a_retry_goes_elsewhere_until_all_were_tried(drive, pool_of):
    driver = drive(pool_of("p", "r1", "r2", "r3"))
    tried: set[str] = set()
    for _ in range(3):
        decision = driver.route(LONG, request_id="one", tried=frozenset(tried))
        assert decision.chosen.replica not in tried
        assert not tried & {candidate.replica for candidate in decision.candidates}
        tried.add(decision.chosen.replica)
        driver.fail(decision)
    rejection = driver.refused(LONG, request_id="one", tried=frozenset(tried))
    assert rejection.reason is RejectionReason.ALL_TRIED
    assert rejection.retry_after_s is not None
    record = driver.router.record("one")
    assert record is not None
    assert record.attempts == 3
    assert sum(driver.series(name).retries for name in tried) == 3


# ── pins ─────────────────────────────────────────────────────────────────────────────────────────


def test_pins_are_obeyed(drive, pool_of):
    driver = drive(pool_of("p", "r1", "r2"), pool_of("q", "s1", "s2"))
    for name in ("r1", "r2", "s1", "s2"):
        assert driver.serve(LONG, pinned_replica=name).chosen.replica == name
    for name in ("p", "q"):
        assert driver.serve(OTHER, pinned_pool=name).chosen.pool == name
    assert driver.serve(LONG, pinned_pool="q", pinned_replica="s2").chosen.replica == "s2"


@pytest.mark.parametrize(
    "pin",
    [
        {"pinned_pool": "nowhere"},
        {"pinned_replica": "nobody"},
        {"pinned_pool": "p", "pinned_replica": "s1"},
        {"pinned_pool": "z"},
    ],
    ids=["no such pool", "no such replica", "replica of another pool", "pool of another model"],
)
def test_a_pin_that_fits_nothing_is_refused_for_good(drive, pool_of, pin):
    driver = drive(pool_of("p", "r1"), pool_of("q", "s1"), pool_of("z", "t1", model="another"))
    rejection = driver.refused(LONG, **pin)
    assert rejection.reason is RejectionReason.UNKNOWN_PIN
    assert rejection.retry_after_s is None
    assert list(pin.values())[-1] in rejection.message


def test_a_pin_to_a_replica_that_is_down_may_be_tried_later(drive):
    driver = drive()
    driver.down("r1", reason="timed out")
    rejection = driver.refused(LONG, pinned_replica="r1")
    assert rejection.reason is RejectionReason.NO_REPLICA
    assert "timed out" in rejection.message


# ── models ───────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_model_is_refused_with_the_served_ones(drive, pool_of):
    driver = drive(pool_of("p", "r1"), pool_of("q", "s1", model="n"))
    rejection = driver.refused(LONG, model="gpt")
    assert rejection.reason is RejectionReason.MODEL_NOT_FOUND
    assert rejection.retry_after_s is None
    assert all(f"`{name}`" in rejection.message for name in ("gpt", "m", "n"))


def test_no_model_means_the_only_one(drive):
    driver = drive()
    assert driver.route(LONG, model=None).model == "m"


def test_no_model_is_refused_where_several_are_served(drive, pool_of):
    driver = drive(pool_of("p", "r1"), pool_of("q", "s1", model="n"))
    rejection = driver.refused(LONG, model=None)
    assert rejection.reason is RejectionReason.MODEL_REQUIRED
    assert all(f"`{name}`" in rejection.message for name in ("m", "n"))


def test_each_model_has_its_own_replicas(drive, pool_of):
    driver = drive(pool_of("p", "r1", "r2"), pool_of("q", "s1", model="n"))
    assert {driver.serve(f"{n} " * 300, model="m").chosen.replica for n in range(10)} == {"r1", "r2"}
    assert {driver.serve(f"{n} " * 300, model="n").chosen.replica for n in range(10)} == {"s1"}
    assert driver.router.models() == {"m": ["r1", "r2"], "n": ["s1"]}


def test_models_are_discovered_when_replicas_come_up(drive, pool_of):
    driver = drive(pool_of("p", "r1", "r2", model=None), up=[])
    for model in ("found", None):  # it may well be served: the client shall ask again
        refused = driver.refused(LONG, model=model)
        assert refused.reason is RejectionReason.NO_REPLICA
        assert refused.retry_after_s
    assert driver.router.usable_models() == {}
    driver.up("r1", models=["found"])
    assert driver.route(LONG, model="found").chosen.replica == "r1"
    assert driver.route(LONG, model=None).model == "found"
    driver.up("r2", models=["found", "lora"])
    assert driver.router.models() == {"found": ["r1", "r2"], "lora": ["r2"]}
    assert driver.route(LONG, model="lora").chosen.replica == "r2"
    driver.up("r2", models=["found"])
    assert driver.refused(LONG, model="lora").reason is RejectionReason.MODEL_NOT_FOUND


def test_round_robin_takes_turns_within_each_model(drive, pool_of):
    """Requests of two models that alternate must not lock each model to one replica."""
    driver = drive(pool_of("p", "r1", "r2"), pool_of("q", "s1", "s2", model="n"), policy="round-robin")
    chosen = [driver.serve(LONG, model="mn"[turn % 2]).chosen.replica for turn in range(8)]
    assert chosen == ["r1", "s1", "r2", "s2"] * 2


# ── health ───────────────────────────────────────────────────────────────────────────────────────


def test_no_replica_up_is_a_refusal_to_try_again_after(drive):
    driver = drive(up=[])
    rejection = driver.refused(LONG)
    assert rejection.reason is RejectionReason.NO_REPLICA
    assert rejection.retry_after_s is not None
    assert rejection.retry_after_s > 0
    assert "r1: not probed yet" in rejection.message
    assert driver.router.usable_models() == {"m": False}
    driver.up("r2")
    assert driver.router.usable_models() == {"m": True}
    assert driver.route(LONG).chosen.replica == "r2"
    driver.down("r2", reason="connection refused")
    assert "r2: connection refused" in driver.refused(LONG).message


def test_a_replica_that_was_away_is_used_again_with_what_it_held(drive):
    driver = drive()
    home = driver.serve(LONG).chosen.replica
    driver.down(home)
    assert driver.serve(LONG).chosen.replica != home
    driver.up(home)
    assert driver.predicted(LONG, home) > 8000


def test_a_restarted_replica_holds_nothing(drive):
    driver = drive()
    home = driver.serve(LONG).chosen.replica
    driver.serve(OTHER, pinned_replica=home)
    other = ({"r1", "r2"} - {home}).pop()
    driver.serve(LONG, pinned_replica=other)
    driver.restarted(home)
    assert driver.predicted(LONG, home) == 0
    assert driver.replica(home).index_blocks == 0
    assert driver.predicted(LONG, other) > 8000
    assert driver.route(LONG).chosen.replica == other


def test_rejections_count_as_the_caller_says(drive):
    driver = drive()
    driver.router.observe(Refused(driver.now, "m", Outcome.REJECTED))
    driver.router.observe(Refused(driver.now, "m", Outcome.REJECTED))
    assert driver.series("").outcomes == {"rejected": 2}


# ── stored responses ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("policy", POLICIES)
def test_a_stored_response_goes_to_its_holder(drive, policy):
    driver = drive(policy=policy)
    driver.serve(LONG, pinned_replica="r1")
    driver.stored("r2", "resp_1")
    assert driver.router.holder("resp_1") == "r2"
    for _ in range(4):
        assert driver.route(LONG, response_id="resp_1").chosen.replica == "r2"


def test_a_stored_response_whose_holder_is_down_waits_for_it(drive):
    driver = drive()
    driver.stored("r2", "resp_1")
    driver.down("r2")
    rejection = driver.refused(LONG, response_id="resp_1")
    assert rejection.reason is RejectionReason.NO_REPLICA
    assert "r1: does not hold the response" in rejection.message
    assert driver.route(LONG).chosen.replica == "r1"


def test_an_unknown_response_may_go_anywhere(drive):
    driver = drive()
    assert driver.router.holder("resp_0") is None
    assert len(driver.route(LONG, response_id="resp_0").candidates) == 2


def test_the_oldest_stored_responses_are_forgotten(drive, monkeypatch):
    monkeypatch.setattr("gateway.routing.router.STORED_RESPONSES", 3)
    driver = drive()
    for n in range(5):
        driver.stored("r1", f"resp_{n}")
    assert [driver.router.holder(f"resp_{n}") for n in range(5)] == [None, None, "r1", "r1", "r1"]


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────


def test_a_session_keeps_its_replica(drive, pool_of):
    driver = drive(pool_of("p", "r1", "r2", "r3"), policy="session")
    homes = {}
    for session in ("ann", "bob", "cem", "dan"):
        homes[session] = {driver.serve(f"{n} " * 300, session=session).chosen.replica for n in range(6)}
    assert all(len(home) == 1 for home in homes.values())


def test_without_a_session_the_prefix_family_is_the_unit(drive, pool_of):
    driver = drive(pool_of("p", "r1", "r2", "r3"), policy="session")
    assert len({driver.serve(LONG + str(n)).chosen.replica for n in range(6)}) == 1
    assert len({driver.route("short").chosen.replica for _ in range(3)}) == 3, "no block: by load"


# ── broken promises ──────────────────────────────────────────────────────────────────────────────


def test_a_policy_that_does_not_exist_is_a_broken_promise(drive):
    with pytest.raises(KeyError):
        drive(policy="best")


def test_facts_about_replicas_that_are_gone_are_ignored(drive):
    """What a replica was asked may be answered after it was removed."""
    driver = drive()
    before = driver.router.snapshot(driver.now)
    driver.up("nobody")
    driver.stored("nobody", "resp_1")
    assert driver.router.snapshot(driver.now) == before
    assert driver.router.holder("resp_1") is None


def test_facts_about_tickets_that_ended_are_ignored(drive):
    driver = drive()
    decision = driver.serve(LONG, usage=Usage(8000, 5, 0))
    before = driver.router.snapshot(driver.now)
    driver.dispatched(decision)
    driver.first_token(decision)
    driver.fail(decision)
    driver.finish(decision, Outcome.ENGINE_FAILED, Usage(1, 1, 1))
    assert driver.router.snapshot(driver.now) == before


def test_the_context_of_a_model_is_what_all_of_its_replicas_can_take(drive, pool_of):
    router = drive(pool_of("p", "r1", "r2", "r3"), up=[]).router
    assert router.context_tokens("m") is None
    for replica, context_tokens in (("r1", 8192), ("r2", 4096), ("r3", None)):
        router.observe(ReplicaUp(replica, 0.0, (ModelCard("m", context_tokens),)))
    assert router.context_tokens("m") == 4096
    assert router.context_tokens("unknown") is None
