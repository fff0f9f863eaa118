"""Where cached tokens were lost: by replica, tenant and prefix family."""

import pytest

from engines.reports import Usage

LONG = "a long system prompt. " * 1600
TOKENS = 8800
FAMILY_BYTES = 256


def views(driver):
    return driver.router.snapshot(driver.now)


def test_tenants_are_counted_one_by_one(drive, pool_of):
    driver = drive(pool_of("p", "r1"))
    driver.serve(LONG, tenant="ann", usage=Usage(TOKENS, 1, 0))
    driver.serve(LONG, tenant="bob", usage=Usage(TOKENS, 1, 8704))
    driver.serve(LONG, usage=Usage(TOKENS, 1, 4352))
    assert [view.name for view in views(driver).tenants] == ["ann", "bob", "anonymous"]
    assert [driver.tenant(name).delivered_tokens for name in ("ann", "bob", "anonymous")] == [0, 8704, 4352]
    assert driver.tenant("bob").hit_rate == pytest.approx(8704 / TOKENS)
    assert driver.tenant("anonymous").index_loss_tokens == driver.tenant("anonymous").routed_tokens - 4352


def test_prefix_families_are_counted_one_by_one(drive, pool_of):
    driver = drive(pool_of("p", "r1"))
    for question in ("what?", "and why?"):
        driver.serve(LONG + question, usage=Usage(TOKENS, 1, 0))
    driver.serve("another. " * 300, usage=Usage(700, 1, 0))
    driver.serve("hello", usage=Usage(2, 1, 0))
    families = views(driver).families
    assert [(view.requests, view.prompt_tokens) for view in families] == [(2, 2 * TOKENS), (1, 700), (1, 2)]
    name = driver.request(LONG).chain.family
    assert [view.name for view in families][::2] == [f"{name:016x}", "short"]


def test_what_a_pin_or_a_retry_gives_up_is_a_loss_of_routing(drive):
    """Available is what the best replica has, whether or not it may be chosen."""
    driver = drive()
    driver.serve(LONG, pinned_replica="r1", usage=Usage(TOKENS, 1, 0))
    for way in ({"pinned_replica": "r2"}, {"tried": frozenset({"r1"})}):
        decision = driver.route(LONG, tenant="ann", **way)
        assert (decision.chosen.replica, decision.chosen.cached_tokens) == ("r2", 0)
        assert decision.available_tokens > 8700
        driver.finish(decision, usage=Usage(TOKENS, 1, 0))
        driver.restarted("r2")
    view = driver.tenant("ann")
    assert view.routing_loss_tokens == view.available_tokens > 2 * 8700
    assert view.index_loss_tokens == view.index_gain_tokens == 0


def test_replicas_that_are_down_have_nothing_available(drive):
    driver = drive()
    driver.serve(LONG, pinned_replica="r1")
    driver.down("r1")
    assert driver.route(LONG).available_tokens == 0


def test_requests_whose_cached_tokens_are_not_reported_are_left_out(drive, pool_of):
    driver = drive(pool_of("p", "r1"))
    driver.serve(LONG, tenant="ann", usage=Usage(TOKENS, 1))
    driver.serve(LONG, tenant="ann")
    assert views(driver).tenants == views(driver).families == ()


def test_the_largest_are_shown_and_the_others_together(drive, pool_of):
    driver = drive(pool_of("p", "r1"))
    for n in range(70):
        driver.serve("hello", tenant=f"tenant {n}", usage=Usage(1000 + n, 1, 10))
    tenants = views(driver).tenants
    assert [view.name for view in tenants] == [*(f"tenant {n}" for n in range(69, 19, -1)), ""]
    assert tenants[-1].requests == 20
    assert tenants[-1].prompt_tokens == sum(1000 + n for n in range(20))
    assert tenants[-1].delivered_tokens == 200


def test_records_of_tenants_are_bounded_and_their_tokens_are_not_lost(drive, pool_of, monkeypatch):
    monkeypatch.setattr("gateway.routing.scoreboard.TENANTS", 3)
    driver = drive(pool_of("p", "r1"))
    for n in range(10):
        driver.serve("hello", tenant=f"tenant {n}", usage=Usage(100, 1, 10))
    tenants = views(driver).tenants
    assert len(tenants) == 4
    assert sum(view.delivered_tokens for view in tenants) == 100
