"""What the dashboard costs: time until something is seen, and CPU of the gateway while somebody looks."""

import time
from typing import Any

import pytest
from browser_fleet import Fleet

from gateway.demo.replay import chat_body

pytestmark = pytest.mark.browser

FIRST_PAINT_MS = 1000
CPU_SHARE = 0.05
RATE = 200.0
WINDOW_S = 6.0
WINDOWS = 4
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


def test_something_is_seen_within_a_second(fleet: Fleet, browser: Any) -> None:
    """Best of five, each in a fresh context: other work on this machine is not the page's."""
    fleet.flows.set()
    paints = []
    for _ in range(5):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        page.goto(fleet.admin_url)
        page.wait_for_function(_PAINT + " !== null")
        paints.append(page.evaluate(_PAINT))
        sent = page.evaluate(
            "performance.getEntriesByType('resource').reduce((sum, one) => sum + one.encodedBodySize, 0)"
        )
        context.close()
    print(
        f"\nfirst contentful paint: {', '.join(f'{one:.0f}' for one in paints)} ms; modules and styles: {sent:,} bytes"
    )
    assert min(paints) < FIRST_PAINT_MS


def test_a_page_that_is_open_costs_the_gateway_little(fleet: Fleet, browser: Any) -> None:
    """Windows with and without a page take turns; what a request costs is known from those without. CPU time.

    A machine that is busy otherwise gets through fewer requests; the page costs the same.
    """
    fleet.rate, fleet.body = RATE, chat_body([{"role": "user", "content": "Is it raining? " * 100}], 2)
    fleet.flows.set()
    time.sleep(3)
    without, extra = [], []
    try:
        for _ in range(WINDOWS):
            without.append(_window(fleet))
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            context.new_page().goto(fleet.admin_url)
            time.sleep(1)
            extra.append(_window(fleet))
            context.close()
    finally:
        fleet.rate, fleet.body = 15.0, None
    requests, cpu_s = (sum(column) for column in zip(*without, strict=True))
    each_s = cpu_s / requests
    seen, used = (sum(column) for column in zip(*extra, strict=True))
    share = (used - seen * each_s) / (WINDOWS * WINDOW_S)
    print(
        f"\n{seen / WINDOWS / WINDOW_S:.0f} requests/s at {each_s * 1e6:.0f} µs of CPU; the page: {share:.1%} of a core"
    )
    assert share < CPU_SHARE


def _window(fleet: Fleet) -> tuple[float, float]:
    """Requests that ended and seconds of CPU that the gateway used."""
    before = fleet.snapshot()["gateway"]["workers"][0]
    time.sleep(WINDOW_S)
    after = fleet.snapshot()["gateway"]["workers"][0]
    return after["requests"] - before["requests"], after["cpu_s"] - before["cpu_s"]
