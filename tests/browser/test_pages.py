"""Every page of the dashboard in a real browser: what it shows is what the API says, and what it does is done."""

import re
from pathlib import Path
from typing import Any

import pytest
from browser_fleet import SCREENSHOTS, Fleet
from processes import prefixgate

pytestmark = pytest.mark.browser
expect = pytest.importorskip("playwright.sync_api").expect
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

PAGES = {"overview": "", "replicas": "replicas", "prefixes": "prefixes", "requests": "requests",
         "experiments": "experiments", "settings": "settings"}  # fmt: skip
SHARES = {"hit rate": "delivered_tokens", "available": "available_tokens", "routed": "routed_tokens",
          "− routing loss": "routing_loss_tokens", "− index loss": "index_loss_tokens"}  # fmt: skip
SCREENS = {"desktop": (1440, 900), "phone": (390, 844), "wall": (2560, 1440)}


def figure(page: Any, name: str) -> str:
    return str(page.locator(f'[data-figure="{name}"]').first.inner_text()).replace("\xa0", " ")


def total(view: Any, name: str) -> int:
    return sum(one[name] for one in view["snapshot"]["series"])


def opened(page: Any, fleet: Fleet, place: str) -> None:
    page.goto(f"{fleet.admin_url}/#/{place}")
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("#page h1")).to_be_visible()


def test_the_figures_are_those_of_the_snapshot(fleet: Fleet, page: Any) -> None:
    opened(page, fleet, "")
    expect(page.locator('[data-figure="hit rate"]')).to_have_text(re.compile(r"^[1-9]\d\.\d.%$"), timeout=30_000)
    view = fleet.quiet()
    page.wait_for_timeout(2500)
    base = total(view, "prompt_tokens") - total(view, "unreported_prompt_tokens")
    for name, tokens in SHARES.items():
        assert figure(page, name) == f"{100 * total(view, tokens) / base:.1f} %", name
    requests = sum(sum(one["outcomes"].values()) for one in view["snapshot"]["series"])
    assert figure(page, "requests") == f"{requests:,}"
    opened(page, fleet, "replicas")
    for replica in view["snapshot"]["replicas"]:
        card = page.locator("section.replica", has_text=replica["name"]).first
        mine = [one for one in view["snapshot"]["series"] if one["replica"] == replica["name"]]
        asked = sum(one["prompt_tokens"] for one in mine)
        hit = f"{100 * sum(one['delivered_tokens'] for one in mine) / asked:.1f} %" if asked else "–"
        told = card.locator('[data-figure="hit rate"]').inner_text().replace("\xa0", " ").strip()
        assert told == hit
        assert card.locator('[data-figure="chunk wished / runs"]').inner_text() == "8,192 / 8,192"
    fleet.flows.set()


def test_a_replica_is_drained_and_takes_requests_again(fleet: Fleet, page: Any) -> None:
    opened(page, fleet, "replicas")
    name = fleet.snapshot()["snapshot"]["replicas"][0]["name"]
    card = page.locator("section.replica", has=page.get_by_role("heading", name=re.compile(name)))
    card.get_by_role("button", name="Drain").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("finishes those that it has")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    assert not fleet.snapshot()["snapshot"]["replicas"][0]["draining"]
    card.get_by_role("button", name="Drain").click()
    dialog.get_by_role("button", name="Drain").click()
    expect(card.get_by_text("draining", exact=True)).to_be_visible()
    assert fleet.snapshot()["snapshot"]["replicas"][0]["draining"]
    page.get_by_role("button", name="Undo").click()
    expect(card.get_by_text("up", exact=True)).to_be_visible()
    assert not fleet.snapshot()["snapshot"]["replicas"][0]["draining"]


def test_a_request_is_explained(fleet: Fleet, page: Any) -> None:
    fleet.quiet()
    opened(page, fleet, "requests")
    link = page.locator("tbody th a").first
    expect(link).to_be_visible()
    request_id = link.get_attribute("title")
    told = fleet.get(f"/api/requests/{request_id}")
    link.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(told["why"])
    chosen = next(one for one in told["candidates"] if one["chosen"])
    row = dialog.locator("tr.chosen")
    expect(row).to_contain_text(chosen["replica"])
    terms = [f"{term['ms']:,.1f}".removesuffix(".0") for term in chosen["terms"]]
    assert row.locator("td").all_inner_texts()[5:9] == terms
    expect(dialog.locator("tbody tr")).to_have_count(len(told["candidates"]))
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page).to_have_url(re.compile("#/requests$"))
    fleet.flows.set()


def test_an_experiment_is_started_and_stopped(fleet: Fleet, page: Any) -> None:
    opened(page, fleet, "experiments")

    def state() -> str:
        return str(fleet.get("/api/experiments/w4a8-vs-fp4")["experiment"]["state"])

    assert state() == "waiting"
    page.get_by_role("button", name="Start").click()
    page.get_by_role("dialog").get_by_role("button", name="Start").click()
    verdict = page.locator('section[aria-labelledby="h-verdict"]')
    expect(verdict.get_by_text("running", exact=True)).to_be_visible()
    assert state() == "running"
    expect(page.get_by_role("img", name=re.compile("TTFT"))).to_be_visible(timeout=60_000)
    expect(page.locator('[data-figure="verdict"]')).not_to_have_text("No report yet.")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    expect(verdict.get_by_text("stopped", exact=True)).to_be_visible()
    assert state() == "stopped"


def test_prefixes_that_break_are_found(fleet: Fleet, page: Any) -> None:
    fleet.flows.set()
    opened(page, fleet, "prefixes")
    finding = page.get_by_role("row").filter(has_text="a timestamp").first
    expect(finding).to_be_visible(timeout=60_000)
    expect(finding).to_contain_text("system turn, first of all")
    text = page.content()
    assert "Rule 1" not in text
    assert "2026-11-29" not in text


def test_the_reference_is_moved_by_keyboard_and_remembered(fleet: Fleet, page: Any) -> None:
    opened(page, fleet, "")
    slider = page.get_by_role("slider", name="reference")
    assert slider.input_value() == "55"
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".reference-row output")).to_have_text("58 %")
    page.reload()
    expect(page.get_by_role("slider", name="reference")).to_have_value("58")


def test_everything_is_reached_by_keyboard(fleet: Fleet, page: Any) -> None:
    opened(page, fleet, "")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.get_by_role("link", name="Replicas", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page).to_have_title("Replicas · prefixgate")
    assert page.evaluate("document.activeElement.tagName") == "H1", "the new page is where reading goes on"
    expect(page.get_by_role("link", name="Replicas", exact=True)).to_have_attribute("aria-current", "page")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_no_page_shuts_anybody_out(fleet: Fleet, browser: Any, name: str, scheme: str, screen: str) -> None:
    """Screenshots are looked at by people; axe-core looks for what shuts out people who cannot see them."""
    width, height = SCREENS[screen]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    opened(page, fleet, PAGES[name])
    page.wait_for_timeout(2500)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is wider than the screen"
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}-{screen}.png", full_page=True)
    found = axe.Axe().run(page).response["violations"]
    serious = [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found
               if one["impact"] in ("serious", "critical")]  # fmt: skip
    context.close()
    assert serious == []


def test_the_token_is_asked_for(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHBOARD_TOKEN", "a token of some length")
    config = tmp_path / "gateway.toml"
    pool = '[[pools]]\nname = "p"\nengine = "vllm"\nreplicas = ["http://127.0.0.1:9"]\n'
    config.write_text('[server]\nport = 0\nadmin_port = 0\nadmin_token_env = "DASHBOARD_TOKEN"\n' + pool)
    with prefixgate("serve", "--config", str(config)) as (_, urls):
        page = browser.new_page()
        page.goto(urls[1])
        field = page.get_by_label("Admin token")
        field.fill("wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#link")).to_have_text("this is not the admin token")
        field.fill("a token of some length")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#link")).to_have_text("live")
        expect(field).to_be_hidden()
        expect(page.get_by_role("heading", name="Prompt tokens served from cache")).to_be_visible()
        page.close()
