"""What retries and hedges may cost: a share of what comes, and a floor."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.serving.budget import HALF_S, Budget


def test_a_share_of_the_requests_may_be_spent() -> None:
    budget = Budget(0.1)
    assert not budget.spend(0.0)
    for _ in range(100):
        budget.earn(1.0)
    assert [budget.spend(1.0) for _ in range(12)] == [True] * 10 + [False] * 2


def test_the_floor_is_there_without_any_request() -> None:
    budget = Budget(0.0, floor_per_s=1.0)
    assert sum(budget.spend(0.0) for _ in range(100)) == 10
    assert sum(budget.spend(4 * HALF_S) for _ in range(100)) == 10


def test_what_was_earned_is_forgotten() -> None:
    budget = Budget(1.0)
    for _ in range(10):
        budget.earn(0.0)
    assert budget.spend(HALF_S)
    assert not budget.spend(3 * HALF_S + 0.1)


@given(
    share=st.floats(0, 1),
    floor=st.floats(0, 3),
    steps=st.lists(st.tuples(st.floats(0, 4), st.booleans()), max_size=200),
)
def test_no_window_spends_more_than_its_share(share: float, floor: float, steps: list[tuple[float, bool]]) -> None:
    budget, now = Budget(share, floor), 0.0
    earned: list[float] = []
    spent: list[float] = []
    for after_s, earns in steps:
        now += after_s
        if earns:
            budget.earn(now)
            earned.append(now)
        elif budget.spend(now):
            spent.append(now)
            # All of the shorter window are among those counted, and none but those of the longer one.
            recent = [at for at in spent if at > now - HALF_S]
            paying = [at for at in earned if at >= now - 2 * HALF_S - max(4.0, 0.0)]
            assert len(recent) <= share * len(paying) + floor * 2 * HALF_S
