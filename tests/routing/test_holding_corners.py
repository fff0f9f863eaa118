"""Corners of holding that were once wrong: each starved, misled or overcounted somebody."""

import pytest

from gateway.routing.decision import Decision, Rejection


def learned(drive, *pools, hold_ms=600.0, **more):
    driver = drive(*pools, hold_ms=hold_ms, **more)
    for number in range(40):
        d = driver.route(f"short {number}", model=pools[number % len(pools)].model)
        driver.first_token(d, d.chosen.prefill_ms)
        driver.finish(d)
    driver.now += 120
    return driver


def text(ms, name="x"):
    return (name + "-") * round((ms - 17) / (547 / 8192 / 4) / (len(name) + 1))


def test_first_tokens_close_together_are_not_one_endless_step(drive, pool_of):
    driver = drive(pool_of("p", "r1"))
    ds = [driver.route(f"n {i}") for i in range(200)]
    for d in ds:
        driver.first_token(d, 4)
    replica = driver.router._fleet.replica("r1")
    assert len(replica._step) <= 3
    assert replica.bookings[ds[-1].ticket].service_ms < 9


def test_when_all_replicas_are_down_all_who_are_held_are_told(drive, pool_of):
    driver = learned(drive, pool_of("p", "r1"))
    driver.route(text(2000))
    held = [driver.hold(text(100, f"{n}")).ticket for n in range(5)]
    driver.down("r1")
    driver.now += 0.3
    assert list(driver.release()) == held


def test_those_whose_model_is_down_are_told_though_another_is_busy(drive, pool_of):
    driver = learned(drive, pool_of("p", "r1", model="a"), pool_of("q", "s1", model="b"))
    driver.route(text(2000), model="a")
    driver.route(text(2000), model="b")
    h = driver.hold(text(100, "h"), model="a")
    driver.down("r1")
    driver.now += 0.3
    assert isinstance(driver.release()[h.ticket], Rejection)


def test_the_price_of_work_is_that_of_the_replicas_that_share_it(drive, pool_of):
    driver = learned(drive, pool_of("p", "r1", model="a"), pool_of("q", *"stuvwxyz", model="b"), hold_ms=0)
    for n in range(900):
        d = driver.route(text(400, f"{n}"), model="b")
        driver.first_token(d, 100)
        driver.finish(d)
    c = driver.route(text(400), model="a").chosen
    assert c.others_ms == pytest.approx(0.25 * c.prefill_ms, rel=0.3), c.others_ms / c.prefill_ms


def test_others_queues_do_not_hold_ours(drive, pool_of):
    driver = learned(drive, pool_of("p", "r1"))
    driver.load("r1", waiting_uncached_tokens=100_000)
    a = driver.answer(text(100))
    assert isinstance(a, Decision), "others' queue never ends: held for ever"


def test_a_full_kv_cache_does_not_hold(drive, pool_of):
    driver = learned(drive, pool_of("p", "r1"))
    d = driver.route("x")
    driver.first_token(d, 20)
    driver.now += 20
    driver.finish(d)
    driver.load("r1", kv_usage=0.8, kv_capacity_tokens=10_000)
    a = driver.answer(text(300))
    assert isinstance(a, Decision), (a.best.wait_ms, "held while free by _free")


def test_nobody_is_held_for_a_replica_that_shows_no_progress(drive, pool_of):
    driver = drive(pool_of("p", "r1"), hold_ms=600.0)
    driver.route(text(2000), streams=False)
    assert isinstance(driver.answer(text(100)), Decision)
