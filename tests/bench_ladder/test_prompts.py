"""Prompts have as many tokens as were asked for, and none begins as another did."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.bench.prompts import IdPrompts, WordCount, WordPrompts, calibrated


@given(
    st.sets(st.integers(0, 200_000), min_size=16, max_size=60),
    st.lists(st.integers(1, 400), min_size=1, max_size=15),
    st.integers(),
)
def test_prompts_of_ids_are_exact_valid_and_begin_differently(ids: set[int], lengths: list[int], seed: int) -> None:
    prompts = IdPrompts(list(ids), random.Random(seed))
    made = [prompts.fresh(length) for length in lengths]
    assert [len(prompt.ids) for prompt in made] == lengths
    assert all(set(prompt.ids) <= ids for prompt in made)
    assert len({prompt.ids[0] for prompt in made}) == len(made)


@given(st.integers(1, 300), st.integers(1, 300))
def test_an_extended_prompt_begins_with_the_other(beginning: int, more: int) -> None:
    prompts = IdPrompts(range(100, 400), random.Random(1))
    first = prompts.fresh(beginning)
    whole, other = (prompts.extended(first, beginning + more) for _ in range(2))
    assert len(whole.ids) == beginning + more
    assert whole.ids[:beginning] == other.ids[:beginning] == first.ids


def test_two_runs_share_no_prompt() -> None:
    runs = [IdPrompts(range(4000), random.Random(seed)) for seed in (1, 2)]
    beginnings = [{prompts.fresh(64).ids[:8] for _ in range(200)} for prompts in runs]
    assert not beginnings[0] & beginnings[1]


def test_too_few_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        IdPrompts([7] * 100, random.Random(1))


@given(st.integers(0, 60), st.floats(0.5, 4), st.integers(500, 30_000))
@settings(max_examples=50)
def test_words_are_as_many_tokens_as_two_answers_say(overhead: int, per_word: float, wanted: int) -> None:
    def tokens_of(words: int) -> int:
        return round(overhead + per_word * words)

    count = calibrated((40, tokens_of(40)), (400, tokens_of(400)))
    made = WordPrompts(random.Random(1), count).fresh(wanted)
    tokens = tokens_of(len(made.text.split()))
    assert abs(tokens - wanted) <= 4 + 0.01 * wanted


def test_extended_words_begin_with_the_others() -> None:
    prompts = WordPrompts(random.Random(1), WordCount(10, 1))
    first = prompts.fresh(100)
    whole = prompts.extended(first, 200)
    assert whole.text.startswith(first.text + " ")
    assert len(whole.text.split()) == 190
    assert prompts.shared_tokens == 10


def test_a_count_that_does_not_grow_is_refused() -> None:
    with pytest.raises(ValueError, match="does not grow"):
        calibrated((40, 100), (400, 100))
