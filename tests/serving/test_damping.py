"""A replica's looks, damped: one bad look is none, and who flaps must be well for longer."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.serving.damping import FLAP_S, MOST_LOOKS, Damping


def looks(damping: Damping, words: str, now: float = 0.0) -> str:
    """`.` a good look, `x` a bad one, `!` a certain failure; what each made of it: `u` or `d`."""
    states = ""
    for number, word in enumerate(words):
        up = damping.look(now + number, well=word == ".", at_once=word == "!")
        states += "u" if up else "d"
    return states


def test_the_first_good_look_is_enough_to_begin_with() -> None:
    assert looks(Damping(2), "x.") == "du"


def test_one_bad_look_is_none_and_the_second_counts() -> None:
    assert looks(Damping(2), ".x.xx") == "uuuud"


def test_a_refused_connection_counts_at_once() -> None:
    assert looks(Damping(3), ".!") == "ud"


def test_who_flaps_must_be_well_for_longer_each_time() -> None:
    damping, now = Damping(1), 0.0
    needed = []
    for _ in range(6):
        good = 1
        while not damping.look(now, well=True):
            good += 1
            now += 1
        needed.append(good)
        damping.look(now, well=False)
    assert needed == [1, 2, 4, MOST_LOOKS, MOST_LOOKS, MOST_LOOKS]


def test_after_a_calm_minute_one_good_look_is_enough_again() -> None:
    damping = Damping(1)
    assert looks(damping, ".x..") == "uddu"
    assert looks(damping, "x.", now=4 + FLAP_S) == "du"


@given(st.text(".x!", max_size=60))
def test_whatever_was_it_is_up_after_enough_good_looks_and_down_after_enough_bad_ones(words: str) -> None:
    damping = Damping(2)
    looks(damping, words)
    assert looks(damping, "." * MOST_LOOKS).endswith("u")
    assert looks(damping, "xx").endswith("d")
