"""An engine whose counters move and whose events do not come."""

import pytest

from engines.reports import LoadReport
from gateway.serving.events.silence import Silence


def report(prompt: int, cached: int, finished: int, *, running: int = 0, block: int | None = 128) -> LoadReport:
    return LoadReport(
        running_requests=running,
        block_tokens=block,
        prompt_tokens_total=prompt,
        cached_tokens_total=cached,
        finished_requests_total=finished,
    )


def said(*looks: tuple[LoadReport, int]) -> list[bool]:
    silence = Silence()
    return [silence.observe(one, messages) for one, messages in looks]


def test_work_without_a_word_for_two_intervals() -> None:
    looks = (report(0, 0, 0), 5), (report(1000, 0, 1), 5), (report(2000, 0, 2), 5)
    assert said(*looks) == [False, False, True]


def test_one_word_is_enough() -> None:
    looks = (report(0, 0, 0), 5), (report(1000, 0, 1), 6), (report(2000, 0, 2), 6)
    assert said(*looks) == [False, False, False]


def test_less_than_a_block_of_each_request_goes_unsaid() -> None:
    looks = (report(0, 0, 0), 5), (report(9000, 8900, 1), 5), (report(18_000, 17_750, 2), 5)
    assert said(*looks) == [False, False, False]
    assert said((report(0, 0, 0), 5), (report(0, 0, 0), 5), (report(300, 0, 1, running=2), 5))[-1] is False


def test_what_is_said_again_is_found_again() -> None:
    silence = Silence()
    answers = [silence.observe(report(1000 * n, 0, n), 5) for n in range(7)]
    assert answers == [False, False, True, False, False, True, False]


def test_another_process_begins_anew() -> None:
    looks = (report(5000, 0, 9), 5), (report(100, 0, 1), 5), (report(5000, 0, 2), 5)
    assert said(*looks) == [False, False, False]


@pytest.mark.parametrize("unknown", [{"block_tokens": None}, {"finished_requests_total": None}])
def test_nothing_is_concluded_from_what_is_not_known(unknown: dict[str, None]) -> None:
    silence = Silence()
    for number in range(4):
        fields = {"block_tokens": 16, "finished_requests_total": 0, **unknown}
        assert not silence.observe(
            LoadReport(prompt_tokens_total=number * 9999, cached_tokens_total=0, **fields),  # type: ignore[arg-type]
            0,
        )
