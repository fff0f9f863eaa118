"""Trust in our token ids: one wrong count loses it, agreements in a row win it back."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.token_trust import AGREEMENTS, TokenTrust


def test_a_shape_is_trusted_until_the_engine_counts_otherwise() -> None:
    trust = TokenTrust()
    assert trust.trusts("chat")
    assert trust.observe("chat", 100, 100)
    assert trust.trusts("chat")
    assert not trust.observe("chat", 100, 101)
    assert not trust.trusts("chat")
    assert trust.trusts("chat with tools"), "each shape is rendered by itself"


def test_eight_agreements_in_a_row_are_wanted() -> None:
    trust = TokenTrust()
    trust.observe("chat", 100, 101)
    for _ in range(AGREEMENTS - 1):
        trust.observe("chat", 100, 100)
    trust.observe("chat", 100, 99)
    for _ in range(AGREEMENTS):
        assert not trust.trusts("chat")
        trust.observe("chat", 100, 100)
    assert trust.trusts("chat")


def test_a_doubt_is_said_with_the_last_counts_and_goes_with_it() -> None:
    trust = TokenTrust()
    assert trust.sentences == []
    trust.observe("chat", 12_345, 12_350)
    trust.observe("chat", 7, 7)
    trust.observe("completion", 9, 9)
    (sentence,) = trust.sentences
    for word in ("chat", "12,345", "12,350"):
        assert word in sentence
    for _ in range(AGREEMENTS):
        trust.observe("chat", 7, 7)
    assert trust.sentences == []
    assert (trust.shapes["chat"].agreed, trust.shapes["chat"].disagreed) == (AGREEMENTS + 1, 1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80))
def test_a_shape_is_trusted_if_its_last_eight_agreed_or_all_did(history: list[tuple[str, bool]]) -> None:
    trust = TokenTrust()
    for shape, agrees in history:
        assert trust.observe(shape, 10, 10 if agrees else 11) is agrees
    for shape in "abc":
        own = [agrees for one, agrees in history if one == shape]
        assert trust.trusts(shape) == (all(own) or (len(own) >= AGREEMENTS and all(own[-AGREEMENTS:])))
        if own:
            assert (trust.shapes[shape].agreed, trust.shapes[shape].disagreed) == (sum(own), len(own) - sum(own))


def test_the_record_is_bounded() -> None:
    trust = TokenTrust()
    for n in range(1000):
        trust.observe(f"shape {n}", 1, 2)
    assert len(trust.shapes) == 256
    assert not trust.trusts("shape 999")
