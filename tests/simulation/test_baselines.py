"""Every published policy on cases computed by hand: its thresholds, its ties, its bounds, and what it forgets."""

from collections.abc import Iterable, Sequence
from itertools import count
from random import Random

import pytest

from engines.reports import LoadReport
from gateway.simulation.baselines import aibrix, consistent_hash
from gateway.simulation.baselines.base import Baseline, Prompt, Worker
from gateway.simulation.baselines.prefill_time import prefill_s
from gateway.simulation.baselines.registry import BASELINES

BLOCK = 256
numbers = count()


def prompt(blocks: Iterable[int] = (), *, tokens: int | None = None, session: str | None = None) -> Prompt:
    names = tuple(blocks)
    return Prompt(next(numbers), len(names) * BLOCK if tokens is None else tokens, names, BLOCK, session)


class Play:
    """A baseline and its workers, driven as the simulation does."""

    def __init__(self, name: str, workers: int = 3, *, seed: int = 1, kv_tokens: int = 1_000_000) -> None:
        self.workers = [Worker(slot, f"w{slot}", "pool", kv_tokens, BLOCK, 8192) for slot in range(workers)]
        self.up: Sequence[Worker] = self.workers
        self.policy: Baseline = BASELINES[name](tuple(self.workers), Random(seed))

    def choose(self, one: Prompt, now: float = 0.0) -> int:
        return self.policy.choose(one, self.up, now).slot

    def choices(self, one: Prompt, times: int = 50) -> set[int]:
        return {self.choose(one) for _ in range(times)}

    def send(self, one: Prompt, slot: int, now: float = 0.0) -> Prompt:
        worker = self.workers[slot]
        worker.inflight[one.number] = worker.unstarted[one.number] = one
        self.policy.sent(one, worker, now)
        return one

    def ask(self, one: Prompt, now: float = 0.0) -> int:
        slot = self.choose(one, now)
        self.send(one, slot, now)
        return slot

    def first_token(self, one: Prompt, slot: int, ttft_s: float = 1.0, now: float = 0.0) -> None:
        self.workers[slot].unstarted.pop(one.number)
        self.policy.first_token(one, self.workers[slot], 0, ttft_s, now)

    def finish(self, one: Prompt, slot: int, now: float = 0.0) -> None:
        self.workers[slot].inflight.pop(one.number)
        self.workers[slot].unstarted.pop(one.number, None)
        self.policy.finished(one, self.workers[slot], now)

    def served(self, one: Prompt, slot: int, now: float = 0.0) -> Prompt:
        self.send(one, slot, now)
        self.first_token(one, slot, now=now)
        self.finish(one, slot, now + 1)
        return one

    def busy(self, *loads: int) -> None:
        """Prompts in flight that the policy was not told of."""
        for worker, load in zip(self.workers, loads, strict=True):
            worker.inflight = {-number: prompt() for number in range(1, load + 1)}

    def holds(self, slot: int, *blocks: int) -> None:
        self.policy.stored(self.workers[slot], blocks)

    def lose(self, slot: int) -> None:
        self.up = [worker for worker in self.workers if worker.slot != slot]
        self.policy.lost(self.workers[slot])

    def rise(self) -> None:
        self.up = self.workers


# ── blind policies ───────────────────────────────────────────────────────────────────────────────────


def test_random_takes_any_that_is_up() -> None:
    play = Play("random")
    assert play.choices(prompt()) == {0, 1, 2}
    play.lose(1)
    assert play.choices(prompt()) == {0, 2}


def test_round_robin_takes_turns() -> None:
    play = Play("round-robin")
    assert [play.choose(prompt()) for _ in range(4)] == [0, 1, 2, 0]


def test_least_requests_breaks_ties_at_random() -> None:
    play = Play("least-requests")
    play.busy(1, 0, 1)
    assert play.choices(prompt()) == {1}
    play.busy(1, 1, 2)
    assert play.choices(prompt()) == {0, 1}


# ── consistent hash ──────────────────────────────────────────────────────────────────────────────────


def test_consistent_hash_keeps_a_key_until_the_load_is_over_the_bound() -> None:
    play = Play("consistent-hash")
    one = prompt([1, 2])
    home = play.choose(one)

    def loads(of_home: int) -> None:
        play.busy(*(of_home if slot == home else 4 for slot in range(3)))

    loads(6)  # 1.25 × 15 / 3 = 6.25
    assert play.choose(one) == home
    loads(7)  # 1.25 × 16 / 3 = 6.67
    assert play.choose(one) != home


def test_consistent_hash_keys_are_sessions_or_the_first_256_tokens() -> None:
    play = Play("consistent-hash", 16)
    homes = {play.choose(prompt([first], session="s")) for first in range(20)}
    assert len(homes) == 1
    assert len({play.choose(prompt([5, after])) for after in range(20)}) == 1
    assert len({play.choose(prompt([first, 5])) for first in range(20)}) > 1
    small = [Prompt(next(numbers), 640, (1, 2, 3, 4, after), 64) for after in range(20)]
    assert len({play.choose(one) for one in small}) == 1
    assert len({play.choose(Prompt(next(numbers), 640, (1, 2, 3, fourth), 64)) for fourth in range(20)}) > 1


def test_consistent_hash_moves_only_the_keys_of_a_lost_worker() -> None:
    play = Play("consistent-hash", 8)
    prompts = [prompt([first]) for first in range(100)]
    before = [play.choose(one) for one in prompts]
    play.lose(3)
    after = [play.choose(one) for one in prompts]
    assert {was for was, now in zip(before, after, strict=True) if was != now} == {3}


def test_consistent_hash_without_a_key_takes_the_least_busy() -> None:
    play = Play("consistent-hash")
    play.busy(1, 2, 0)
    assert play.choose(prompt(tokens=100)) == 2
    assert (consistent_hash.VIRTUAL_NODES, consistent_hash.LOAD_FACTOR) == (150, 1.25)


# ── SGLang ───────────────────────────────────────────────────────────────────────────────────────────


def test_sglang_follows_a_match_above_three_tenths() -> None:
    play = Play("sglang-cache-aware")
    play.send(prompt([1, 2, 3, 4]), 1)
    assert play.choose(prompt([1, 2, 3, *range(11, 18)])) == 0  # 3 of 10
    assert play.choose(prompt([1, 2, 3, 4, *range(11, 17)])) == 1  # 4 of 10


@pytest.mark.parametrize(
    ("loads", "chosen"),
    [((0, 64, 0), 1), ((0, 65, 0), 0), ((130, 195, 130), 1), ((131, 196, 130), 2), ((129, 130, 128), 1)],
)
def test_sglang_takes_the_shortest_queue_when_imbalanced(loads: tuple[int, ...], chosen: int) -> None:
    for name in ("sglang-cache-aware", "sglang-cache-aware-events"):
        play = Play(name)
        play.served(prompt([1, 2]), 1)
        play.holds(1, 1, 2)
        play.busy(*loads)
        assert play.choose(prompt([1, 2])) == chosen


def test_sglang_learns_while_imbalanced_and_means_the_last_worker() -> None:
    play = Play("sglang-cache-aware")
    play.served(prompt([1, 2]), 0)
    play.served(prompt([1, 2, 3]), 2)
    assert play.choose(prompt([1, 2])) == 2
    play.busy(0, 100, 100)
    assert play.ask(prompt([1, 2, 3])) == 0
    play.busy(0, 0, 0)
    assert play.choose(prompt([1, 2, 3])) == 0


def test_sglang_shortest_queue_counts_load_then_processed_then_slot() -> None:
    play = Play("sglang-cache-aware")
    play.served(prompt(), 0)
    assert play.choose(prompt()) == 1
    play.busy(0, 1, 1)
    assert play.choose(prompt()) == 0


def test_sglang_keeps_stale_entries_but_sends_nothing_to_the_dead() -> None:
    play = Play("sglang-cache-aware")
    play.served(prompt([1, 2]), 1)
    play.lose(1)
    assert play.choose(prompt([1, 2])) == 0
    play.rise()
    assert play.choose(prompt([1, 2])) == 1


def test_sglang_with_events_has_no_threshold_and_breaks_ties_by_load_then_size() -> None:
    play = Play("sglang-cache-aware-events")
    play.holds(2, 1)
    play.busy(0, 0, 9)
    assert play.choose(prompt(range(1, 30))) == 2
    play.holds(1, 1, 50)
    assert play.choose(prompt(range(1, 30))) == 1  # less load
    play.busy(0, 9, 9)
    assert play.choose(prompt(range(1, 30))) == 2  # fewer blocks
    play.policy.removed(play.workers[2], [1])
    assert play.choose(prompt(range(1, 30))) == 1
    play.policy.lost(play.workers[1])
    assert play.choose(prompt(range(1, 30))) == 0


# ── llm-d ────────────────────────────────────────────────────────────────────────────────────────────


def report(play: Play, slot: int, waiting: int, kv_usage: float) -> None:
    play.workers[slot].report = LoadReport(waiting_requests=waiting, kv_usage=kv_usage)


@pytest.mark.parametrize(("kv_usage", "chosen"), [(0.9, 0), (0.7, 1)])
def test_llm_d_approximate_sums_3_2_2(kv_usage: float, chosen: int) -> None:
    play = Play("llm-d-approximate", 2)
    play.served(prompt([1]), 0)
    play.send(prompt([50]), 0)  # unstarted: the longer queue
    report(play, 0, waiting=0, kv_usage=0.5)  # 3 × 1/2 + 2 × 0 + 2 × 0.5 = 2.5
    report(play, 1, waiting=0, kv_usage=kv_usage)  # 0 + 2 × 1 + 2 × (1 - usage) = 2.2 or 2.6
    assert play.choose(prompt([1, 2])) == chosen


@pytest.mark.parametrize(("kv_usage", "chosen"), [(0.6, 0), (0.3, 1)])
def test_llm_d_precise_sums_2_1_1(kv_usage: float, chosen: int) -> None:
    play = Play("llm-d-precise", 2)
    play.holds(0, 1)
    play.send(prompt([50]), 0)
    report(play, 0, waiting=0, kv_usage=0.5)  # 2 × 1/2 + 0 + 0.5 = 1.5
    report(play, 1, waiting=0, kv_usage=kv_usage)  # 0 + 1 + (1 - usage) = 1.4 or 1.7
    assert play.choose(prompt([1, 2])) == chosen


def test_llm_d_scores_equal_queues_as_one_and_silence_as_no_room() -> None:
    play = Play("llm-d-approximate")
    report(play, 1, waiting=7, kv_usage=0.9)  # its own word on its queue is not looked at
    assert play.choices(prompt([1])) == {1}
    play.served(prompt([1]), 2)
    assert play.choices(prompt([1])) == {2}  # 3 against 0.2


def test_llm_d_rotates_among_ties() -> None:
    play = Play("llm-d-approximate")
    assert [play.choose(prompt([1])) for _ in range(4)] == [0, 1, 2, 0]


def test_llm_d_approximate_remembers_as_much_as_the_worker_holds() -> None:
    play = Play("llm-d-approximate", kv_tokens=5 * BLOCK)
    play.served(prompt([1, 2, 3]), 2)
    assert play.choices(prompt([1, 2, 3])) == {2}
    play.served(prompt([7, 8, 9]), 2)  # the head of the older prompt is the oldest
    assert play.choices(prompt([1, 2, 3])) == {0, 1, 2}
    play.lose(2)
    play.rise()
    assert play.choices(prompt([7, 8, 9])) == {0, 1, 2}


def test_llm_d_approximate_matches_no_more_than_131072_tokens() -> None:
    play = Play("llm-d-approximate", 2)
    play.served(prompt(range(1000)), 1)
    report(play, 0, waiting=0, kv_usage=0.0)  # 2 + 2
    report(play, 1, waiting=0, kv_usage=0.75)  # 2 + 0.5 + 3 × share
    half = prompt([*range(511), *range(2000, 2600)])
    assert play.choose(half) == 1  # 511 of 512 blocks count


# ── Dynamo ───────────────────────────────────────────────────────────────────────────────────────────


def test_dynamo_adds_blocks_to_prefill_and_blocks_in_use() -> None:
    play = Play("dynamo", 2)
    play.holds(0, 0, 1, 2, 3)
    one = prompt(range(10))
    assert play.choices(one) == {0}  # 10 - 4 + 10 = 16 against 10 + 10
    other = play.send(prompt(range(100, 108)), 0)
    assert play.choices(one) == {1}  # 8 + 10 - 4 + 8 + 10 = 32
    play.first_token(other, 0)
    assert play.choices(one) == {1}  # 10 - 4 + 8 + 10 = 24
    play.finish(other, 0)
    assert play.choices(one) == {0}


def test_dynamo_counts_blocks_in_use_once() -> None:
    play = Play("dynamo", 2)
    first, second = prompt(range(10)), prompt(range(10))
    for one in (first, second):
        play.send(one, 0)
        play.first_token(one, 0)
    assert play.choices(prompt(range(10))) == {0, 1}  # 10 + 10 at both: all its blocks are in use at 0
    assert play.choices(prompt(range(50, 60))) == {1}  # 10 + 20 against 10 + 10
    play.finish(first, 0)
    assert play.choices(prompt(range(50, 60))) == {1}
    play.finish(second, 0)
    assert play.choices(prompt(range(50, 60))) == {0, 1}


def test_dynamo_never_credits_more_than_there_is() -> None:
    play = Play("dynamo", 2)
    play.holds(0, *range(10))
    play.holds(1, *range(10))
    assert play.choices(prompt(range(10), tokens=10 * BLOCK)) == {0, 1}
    play.lose(0)
    play.rise()
    assert play.choices(prompt(range(10))) == {1}


# ── AIBrix ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("loads", "chosen"), [((0, 8), 1), ((0, 9), 0), ((0, 0, 3), 3), ((1, 1, 2, 1), 1)])
def test_aibrix_follows_a_match_within_one_deviation(loads: tuple[int, ...], chosen: int) -> None:
    play = Play("aibrix", len(loads))
    holder = 1 if len(loads) == 2 else 2
    play.served(prompt([1, 2]), holder)
    play.busy(*loads)
    if loads == (0, 0, 3):  # 1 + 1.41 < 3
        assert play.choices(prompt([1, 2])) == {0, 1}
    elif loads == (1, 1, 2, 1):  # 1.25 + 0.43 < 2
        assert play.choices(prompt([1, 2])) == {0, 1, 3}
    else:  # 4 + 4 ≥ 8; 9 is imbalanced
        assert play.choices(prompt([1, 2])) == {chosen}


def test_aibrix_sorts_by_percent_then_requests_then_lot() -> None:
    play = Play("aibrix", 4)
    for slot, blocks in ((0, [1]), (1, [1, 2]), (2, [1, 2]), (3, [1, 2])):
        play.served(prompt(blocks), slot)
    play.busy(1, 2, 1, 1)
    assert play.choices(prompt([1, 2, 3])) == {2, 3}


def test_aibrix_forgets_after_20_minutes_and_with_the_pod() -> None:
    play = Play("aibrix")
    play.served(prompt([1, 2]), 2, now=10.0)
    assert {play.choose(prompt([1, 2]), now=1210.0) for _ in range(20)} == {2}
    assert {play.choose(prompt([1, 2]), now=1210.1) for _ in range(50)} == {0, 1, 2}
    play.served(prompt([1, 2]), 2, now=1300.0)
    play.lose(2)
    play.rise()
    assert play.choices(prompt([1, 2])) == {0, 1, 2}


def test_aibrix_has_one_table_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aibrix, "TABLE_BLOCKS", 3)
    play = Play("aibrix")
    play.served(prompt([1, 2]), 1)
    play.served(prompt([7, 8]), 2)
    assert play.choices(prompt([1, 2])) == {0, 1, 2}
    assert play.choices(prompt([7, 8])) == {2}


# ── production stack ─────────────────────────────────────────────────────────────────────────────────


def test_production_stack_takes_any_holder_of_the_longest_match_whatever_its_load() -> None:
    play = Play("production-stack-prefixaware", 4)
    assert play.choices(prompt([1, 2])) == {0, 1, 2, 3}
    play.served(prompt([1]), 0)
    play.served(prompt([1, 2]), 1)
    play.served(prompt([1, 2]), 2)
    play.busy(0, 500, 0, 0)
    assert play.choices(prompt([1, 2, 3])) == {1, 2}
    play.lose(1)
    assert play.choices(prompt([1, 2, 3])) == {2}
    play.rise()
    assert play.choices(prompt([1, 2, 3])) == {1, 2}  # nothing is forgotten


# ── Preble ───────────────────────────────────────────────────────────────────────────────────────────


def test_preble_exploits_what_is_known_of_most_of_a_prompt() -> None:
    play = Play("preble", 2)
    assert play.ask(prompt(range(6))) == 0
    assert play.choose(prompt([*range(6), *range(20, 25)])) == 0  # 5 new, 6 known
    assert play.choose(prompt([*range(6), *range(20, 26)])) == 1  # 6 new, 6 known
    assert play.ask(prompt(range(50, 60))) == 1


def test_preble_explores_where_the_window_is_lightest() -> None:
    play = Play("preble", 2)
    play.served(prompt(range(40)), 0)
    play.served(prompt(range(100, 110)), 1)
    play.served(prompt(range(200, 210)), 1)
    assert play.choose(prompt(range(300, 310))) == 1
    assert play.choose(prompt(range(300, 310)), now=181.0) == 0  # the window is empty


def test_preble_takes_the_lightest_holder() -> None:
    play = Play("preble")
    play.served(prompt(range(6)), 1)
    play.served(prompt(range(6)), 2)
    play.busy(0, 2, 1)
    assert play.choose(prompt(range(6))) == 2
    play.busy(0, 1, 2)
    assert play.choose(prompt(range(6))) == 1
    play.lose(1)
    assert play.choose(prompt(range(6))) == 2
    play.lose(2)
    play.rise()
    assert play.choose(prompt(range(6))) == 0


def test_preble_relieves_the_hottest_after_50_prompts() -> None:
    play = Play("preble", 2)
    for _ in range(49):
        play.send(prompt(range(6)), 0)
    assert play.choose(prompt(range(6))) == 0
    play.send(prompt(range(6)), 0)
    assert play.choose(prompt(range(6))) == 1
    play.busy(50, 40)
    assert play.choose(prompt(range(6))) == 0


def test_preble_replicates_what_became_twice_as_slow() -> None:
    play = Play("preble", 2)
    for now, ttft_s in ((0.0, 1.0), (100.0, 2.0)):
        one = play.send(prompt(range(6)), 0, now)
        play.first_token(one, 0, ttft_s, now)
        play.finish(one, 0, now + 1)
    assert play.ask(prompt(range(6)), now=120.0) == 1
    assert play.choose(prompt(range(6)), now=120.0) == 0  # from here on both hold it
    play.busy(3, 1)
    assert play.choose(prompt(range(6)), now=120.0) == 1


# ── LMetric ──────────────────────────────────────────────────────────────────────────────────────────


def test_lmetric_multiplies_tokens_to_prefill_by_the_batch() -> None:
    play = Play("lmetric", 2)
    play.holds(0, *range(6))
    play.busy(1, 0)
    assert play.choices(prompt(range(10))) == {0}  # 4 × 2 against 10 × 1 blocks
    play.busy(2, 0)
    assert play.choices(prompt(range(10))) == {1}  # 4 × 3
    play.busy(0, 0)
    waiting = play.send(prompt(range(100, 103)), 0)
    assert play.choices(prompt(range(10))) == {1}  # (3 + 4) × 2
    play.first_token(waiting, 0)
    assert play.choices(prompt(range(10))) == {0}  # 4 × 2
    play.policy.lost(play.workers[0])
    assert play.choices(prompt(range(10))) == {1}


# ── SMetric ──────────────────────────────────────────────────────────────────────────────────────────


def learn_rate(play: Play, slot: int, tokens_per_s: float) -> None:
    for _ in range(8):
        one = play.send(prompt(tokens=1000), slot)
        play.first_token(one, slot, ttft_s=1000 / tokens_per_s)
        play.finish(one, slot)


def test_smetric_keeps_a_session_and_balances_first_turns() -> None:
    play = Play("smetric", 2)
    play.served(prompt(range(10), session="a"), 0)
    play.busy(3, 1)
    assert play.choices(prompt(range(12), session="a")) == {0}
    assert play.choices(prompt(range(12), session="b")) == {0}  # 2 × 3 against 12 × 1
    play.busy(13, 2)
    assert play.choices(prompt(range(12), session="a")) == {0}
    assert play.choices(prompt(range(12), session="b")) == {1}  # 2 × 13 against 12 × 2


def test_smetric_moves_a_session_whose_cache_is_half_gone() -> None:
    play = Play("smetric", 2)
    play.served(prompt(range(10), session="a"), 0)
    play.busy(30, 1)
    assert play.choose(prompt([*range(6), 50], session="a")) == 0  # 6 of 10
    assert play.choose(prompt([*range(5), 50], session="a")) == 1  # 5 of 10


def test_smetric_moves_a_session_that_would_miss_its_target() -> None:
    play = Play("smetric", 2)
    play.served(prompt(range(10), session="a"), 0)
    turn = prompt(range(10), session="a", tokens=4000)  # 1440 uncached; 1 + 0.25 s allowed
    play.busy(3, 1)  # 1440 × 3 against 4000 × 1
    assert play.choices(turn) == {0}  # no rate is known
    learn_rate(play, 0, 1000.0)
    play.busy(3, 1)
    assert play.choices(turn) == {1}
    learn_rate(play, 1, 3000.0)
    play.busy(3, 1)
    assert play.choices(turn) == {0}  # nobody meets it: 4000 / 3000 there


@pytest.mark.parametrize(("waiting", "chosen"), [(700, 0), (800, 1)])
def test_smetric_counts_what_waits(waiting: int, chosen: int) -> None:
    play = Play("smetric", 2)
    play.served(prompt(range(10), session="a"), 0)
    learn_rate(play, 0, 1000.0)
    before = play.send(prompt(tokens=waiting), 0)
    play.busy(9, 1)
    turn = prompt(range(10), session="a", tokens=3000)  # 440 uncached; 1.19 s allowed
    assert play.choices(turn) == {chosen}
    play.policy.finished(before, play.workers[0], 0.0)
    assert play.choices(turn) == {0}


def test_smetric_takes_turns_among_the_idle() -> None:
    play = Play("smetric")
    assert [play.choose(prompt([1])) for _ in range(4)] == [0, 1, 2, 0]


def test_smetric_learns_the_90th_percentile_of_64() -> None:
    play = Play("smetric", 1)
    rate = play.policy._rates[0]  # type: ignore[attr-defined]
    for value in range(1, 8):
        rate.sample(value, 1.0)
    assert rate.tokens_per_s is None
    rate.sample(8, 1.0)
    assert rate.tokens_per_s == 7.0  # the 6.3th of 0..7
    for value in range(100, 164):
        rate.sample(value, 1.0)
    assert rate.tokens_per_s == 157.0  # the 56.7th of 0..63
    rate.sample(0, 1.0)
    assert rate.tokens_per_s == 157.0


def test_smetric_knows_a_follow_up_without_a_session_by_its_prefix() -> None:
    play = Play("smetric", 2)
    play.served(prompt(range(10)), 0)
    play.busy(30, 1)
    assert play.choose(prompt(range(12))) == 0
    assert play.choose(prompt([*range(9), 50])) == 1  # does not extend it
    play.lose(0)
    play.rise()
    assert play.choose(prompt(range(12))) == 1


# ── Mooncake ─────────────────────────────────────────────────────────────────────────────────────────


def test_mooncake_adds_the_queue_to_the_prefill() -> None:
    play = Play("mooncake", 2)
    play.holds(0, *range(10))
    one = prompt(range(20))
    assert play.choose(one) == 0
    other = play.send(prompt(range(100, 105)), 0, now=0.0)
    assert play.choose(one, now=0.0) == 0  # 5 + 10 blocks and two steps against 20 blocks and one
    more = play.send(prompt(range(200, 206)), 0, now=0.0)
    assert play.choose(one, now=0.0) == 1
    assert play.choose(one, now=prefill_s(5 * BLOCK)) == 0  # that much has been done by now
    play.first_token(other, 0, now=0.05)
    assert play.choose(one, now=0.05) == 0  # 6 + 10 blocks
    play.finish(more, 0)
    play.finish(other, 0)
    play.lose(0)
    play.rise()
    play.busy(9, 9)
    assert play.choose(one, now=9.0) == 0  # the lowest slot


def test_mooncakes_queue_is_worked_off_only_since_it_is_there() -> None:
    play = Play("mooncake", 2)
    play.served(prompt([1]), 0, now=0.0)
    play.send(prompt(range(100, 110)), 0, now=50.0)
    assert play.choose(prompt(range(20)), now=50.0) == 1
    assert play.choose(prompt(range(20)), now=60.0) == 0


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────

ORDER = [
    "random",
    "round-robin",
    "least-requests",
    "consistent-hash",
    "sglang-cache-aware",
    "sglang-cache-aware-events",
    "llm-d-approximate",
    "llm-d-precise",
    "dynamo",
    "aibrix",
    "production-stack-prefixaware",
    "preble",
    "lmetric",
    "smetric",
    "mooncake",
]
HEARING = {"sglang-cache-aware-events", "llm-d-precise", "dynamo", "lmetric", "mooncake"}


def test_the_registry_is_in_order() -> None:
    assert list(BASELINES) == ORDER
    assert {name for name, baseline in BASELINES.items() if baseline.hears_events} == HEARING
    assert all(baseline.source and baseline.__doc__ for baseline in BASELINES.values())


def chosen_in(name: str, seed: int) -> list[int]:
    """A random day: follow-ups, events, polls, ends, and a worker that dies and comes back."""
    play, day = Play(name, 5, seed=seed, kv_tokens=60 * BLOCK), Random(7)
    chosen: list[int] = []
    alive: list[tuple[Prompt, int]] = []
    for step in range(400):
        now = step * 0.7
        family = day.randrange(12)
        blocks = [family * 1000 + block for block in range(day.randrange(25))]
        session = f"s{family}" if family % 3 else None
        one = prompt(blocks, tokens=len(blocks) * BLOCK + day.randrange(1, BLOCK), session=session)
        slot = play.ask(one, now)
        assert play.workers[slot] in play.up
        chosen.append(slot)
        alive.append((one, slot))
        play.holds(slot, *blocks)
        while len(alive) > 12:
            ended, at = alive.pop(day.randrange(len(alive)))
            if day.random() < 0.9:
                play.first_token(ended, at, ttft_s=day.random() + 0.1, now=now)
            play.finish(ended, at, now + 0.1)
        for worker in play.workers:
            report(play, worker.slot, waiting=day.randrange(4), kv_usage=day.random())
        if step == 150:
            play.lose(2)
            for ended, at in [pair for pair in alive if pair[1] == 2]:
                alive.remove((ended, at))
                play.finish(ended, at, now)
        if step == 250:
            play.rise()
    return chosen


@pytest.mark.parametrize("name", ORDER)
def test_the_same_seed_chooses_the_same(name: str) -> None:
    first = chosen_in(name, seed=3)
    assert first == chosen_in(name, seed=3)
    assert len(set(first)) > 1
