"""Where requests end faster than they teach anything, all is learned from some, and from those that surprise."""

from engines.reports import Usage
from gateway.routing.replica import LESSONS_PER_S, MOST_LESSONS

TEXT = "one system prompt, asked for again and again. " * 100
TOKENS = len(TEXT) // 4


def hit(cached: int | None = None) -> Usage:
    return Usage(TOKENS, 8, TOKENS // 64 * 64 if cached is None else cached)


def test_beyond_so_many_at_once_what_was_expected_teaches_no_more(drive, pool_of) -> None:
    driver = drive(pool_of("p", "r1"))
    driver.serve(TEXT, 0.0, hit(0))
    for _ in range(int(MOST_LESSONS) + 99):
        driver.serve(TEXT, 0.0, hit())
    seen = driver.replica("r1").cache.calibrated_on
    assert seen == MOST_LESSONS
    driver.serve(TEXT, 0.0, hit())
    assert driver.replica("r1").cache.calibrated_on == seen
    driver.now += 3.0 / LESSONS_PER_S
    for _ in range(9):
        driver.serve(TEXT, 0.0, hit())
    assert driver.replica("r1").cache.calibrated_on == seen + 3


def test_all_are_counted(drive, pool_of) -> None:
    driver = drive(pool_of("p", "r1"))
    times = 2 * int(MOST_LESSONS)
    for _ in range(times):
        driver.serve(TEXT, 0.0, hit())
    series = driver.series("r1")
    assert (series.outcomes, series.prompt_tokens) == ({"completed": times}, times * TOKENS)
    assert series.delivered_tokens == times * hit().cached_tokens


def test_a_surprise_always_teaches(drive, pool_of) -> None:
    driver = drive(pool_of("p", "r1"))
    for _ in range(int(MOST_LESSONS) + 9):
        driver.serve(TEXT, 0.0, hit())
    assert driver.predicted(TEXT, "r1") > TOKENS // 2
    seen = driver.replica("r1").cache.calibrated_on
    driver.serve(TEXT, 0.0, hit(0))
    driver.serve(TEXT, 0.0, hit(0))
    assert driver.replica("r1").cache.calibrated_on == seen + 2
    assert driver.predicted(TEXT, "r1") == 0


def test_without_a_lesson_what_is_there_is_still_known(drive, pool_of) -> None:
    driver = drive(pool_of("p", "r1"))
    for _ in range(int(MOST_LESSONS) + 9):
        driver.serve(TEXT, 0.0, hit())
    other = "another prompt, which nobody asked for before. " * 100
    driver.serve(other, 0.0, Usage(len(other) // 4, 8, 0))
    assert driver.predicted(other, "r1") > len(other) // 8
