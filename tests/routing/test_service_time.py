"""What a prefill took of its engine's time: prompts of one step share it, and the curve learns the shares."""

import pytest

from engines.reports import RequestTiming
from gateway.routing.replica import STEP_SPREAD_S

SHORT, LONG = "short " * 700, "long " * 5000  # 87 and 434 ms by the prior


@pytest.fixture
def start(drive, pool_of):
    """A driver with one replica."""
    return lambda: drive(pool_of("p", "r1"))


def service_ms(driver, *decisions):
    bookings = driver.router._fleet.replica("r1").bookings
    return [bookings[decision.ticket].service_ms for decision in decisions]


def test_a_lone_prompt_took_all_of_it(start):
    driver = start()
    one = driver.route(SHORT)
    assert service_ms(driver, one) == [None]
    driver.first_token(one, 120)
    assert service_ms(driver, one) == pytest.approx([120])


def test_two_of_one_step_share_it_in_proportion(start):
    driver = start()
    short, long = driver.route(SHORT), driver.route(LONG)
    driver.first_token(short, 600)
    driver.first_token(long, 2)
    whole = short.chosen.prefill_ms + long.chosen.prefill_ms
    shares = [602 * decision.chosen.prefill_ms / whole for decision in (short, long)]
    assert service_ms(driver, short, long) == pytest.approx(shares)
    assert sum(shares) == pytest.approx(602), "the engine's time is counted once"


def test_the_shares_of_a_step_add_up_to_the_time_since_the_one_before(start):
    driver = start()
    before = driver.route(LONG)
    group = [driver.route(f"{name} " * 900) for name in "abcd"]
    driver.first_token(before, 500)
    for number, decision in enumerate(group):
        driver.first_token(decision, 300 if number == 0 else 1)
    assert sum(service_ms(driver, *group)) == pytest.approx(303)
    assert service_ms(driver, before) == pytest.approx([500])


def test_steps_apart_share_nothing(start):
    driver = start()
    short, long = driver.route(SHORT), driver.route(LONG)
    driver.first_token(short, 100)
    driver.first_token(long, 1000 * STEP_SPREAD_S + 1)
    assert service_ms(driver, short, long) == pytest.approx([100, 6])


def test_idle_time_is_not_service(start):
    driver = start()
    first = driver.route(SHORT)
    driver.first_token(first, 100)
    driver.now += 60
    second = driver.route(LONG)
    driver.first_token(second, 300)
    assert service_ms(driver, second) == pytest.approx([300])


def test_one_who_left_before_its_turn_takes_no_share(start):
    driver = start()
    first, gone, last = (driver.route(f"{name} " * 1000) for name in "abc")
    driver.first_token(first, 100)
    driver.fail(gone)
    driver.first_token(last, 150)
    assert service_ms(driver, first, last) == pytest.approx([100, 150])


def test_a_plain_request_shows_no_service_time(start):
    driver = start()
    plain = driver.route(SHORT, streams=False)
    driver.now += 0.3
    assert service_ms(driver, plain) == [None]
    driver.finish(plain)
    assert driver.replica("r1").curve_observations == 0


@pytest.mark.parametrize("in_a_step", [1, 2, 5])
def test_the_curve_is_that_of_single_prompts_however_many_share_a_step(start, in_a_step):
    """An engine of 5 + 0.02·u ms for each prompt, that says nothing until its whole step is done."""
    driver = start()
    for number in range(60):
        decisions = [driver.route(f"{number} {name} " * (300 + 90 * (number % 7))) for name in range(in_a_step)]
        driver.now += sum(true_ms(decision.chosen.prompt_tokens) for decision in decisions) / 1000
        for decision in decisions:
            driver.first_token(decision)
        for decision in decisions:
            driver.finish(decision)
    replica = driver.replica("r1")
    for tokens in (500, 1000, 2000):
        predicted = replica.curve_base_ms + tokens * (replica.curve_ms_per_token + tokens * replica.curve_ms_per_token2)
        assert predicted == pytest.approx(true_ms(tokens), rel=0.05)
    assert replica.curve_observations == 60 * in_a_step


def true_ms(tokens):
    return 5 + 0.02 * tokens


def test_the_engines_own_time_is_no_more_than_an_upper_limit(start):
    """It is that of the request, which shared its steps: of two that took 300 ms together, each says 300."""
    driver = start()
    for number in range(40):
        pair = [driver.route(f"{number} {name} " * 900) for name in "ab"]
        driver.now += 0.3
        for decision in pair:
            driver.first_token(decision)
        for decision in pair:
            driver.finish(decision, timing=RequestTiming(prefill_ms=300))
    assert driver.route("41 z " * 900).chosen.prefill_ms == pytest.approx(150, rel=0.15)


def test_a_shorter_time_by_the_engines_word_is_believed(start):
    """The rest was the network's, or its queue's."""
    driver = start()
    for number in range(40):
        decision = driver.route(f"{number} " * 2000)
        driver.first_token(decision, 400)
        driver.finish(decision, timing=RequestTiming(prefill_ms=100))
    assert driver.route("x " * 2500).chosen.prefill_ms == pytest.approx(100, rel=0.15)
