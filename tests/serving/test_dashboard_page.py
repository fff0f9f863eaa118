"""The dashboard's page as it is served: whole, typed, cached, and unable to run what is not its own."""

import re

from fake_engine import fake_engine
from gateways import admin, chat, gateway_over, openai_error, post


async def test_the_page_and_its_modules() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, admin(run) as http:
        page = await http.get("/")
        again = await http.get("/", headers={"if-none-match": page.headers["etag"]})
        names = set(re.findall(r'"(dashboard/[^"]+)"', page.text))
        answers = {name: await http.get("/" + name) for name in names}
        [script] = [name for name in names if name.endswith("/app.js")]
        folder = script.removesuffix("app.js")
        stale = await http.get("/dashboard/0123456789abcdef/app.js")
        astray = [
            await http.get(f"/{folder}{name}") for name in ("none.js", "index.html", "..%2froutes.py", "../__init__.py")
        ]
        told = [imported for answer in answers.values() for imported in re.findall(r'from "\./(\w+\.js)"', answer.text)]
        imported = {name: await http.get(f"/{folder}{name}") for name in told}
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert again.status_code == 304
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", page.text), "the policy would not let it run"
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for name, answer in {**answers, **imported}.items():
        assert answer.status_code == 200, name
        assert answer.headers["content-type"] == f"{kinds[name.rpartition('.')[2]]}; charset=utf-8"
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert len(imported) >= 10
    for answer in (stale, *astray):
        assert answer.status_code == 404
        openai_error(answer)


async def test_the_snapshot_says_what_the_cache_was_worth() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, admin(run) as http:
        await post(run, chat("a prompt " * 300))
        view = (await http.get("/api/snapshot")).json()
        prefixes = (await http.get("/api/prefixes")).json()
        [request] = (await http.get("/api/requests")).json()
    gateway, [series] = view["gateway"], view["snapshot"]["series"]
    assert gateway["gpus"] == {"p": 1}
    assert series["reported_requests"] == 1
    assert set(gateway["skipped_gpu_s"]) == {"p-0"}
    assert (prefixes["seen"], prefixes["sampled"]) == (1, 1)
    [family] = prefixes["families"]
    assert family["name"] == view["snapshot"]["families"][0]["name"]
    assert prefixes["findings"] == []
    assert request["accepted_at"] > 1.7e9
