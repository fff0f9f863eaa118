"""`GET /api/history`: what was served is told, also by the gateway after this one."""

from pathlib import Path

from fake_engine import fake_engine
from gateways import admin, chat, gateway_over, openai_error, post

ODD = ("nan", "inf", "-1e300", "1e300", "yesterday")


async def test_figures_outlive_the_process(tmp_path: Path) -> None:
    state = {"path": str(tmp_path)}
    async with fake_engine() as engine:
        async with gateway_over(engine.url, state=state) as run:
            for _ in range(3):
                assert (await post(run, chat("a prompt " * 200))).status_code == 200
        async with gateway_over(engine.url, state=state) as run, admin(run) as http:
            told = (await http.get("/api/history", params={"by": "replica"})).json()
            fine = (await http.get("/api/history", params={"by": "all", "since": -86400, "resolution": 60})).json()
            wrong = await http.get("/api/history", params={"resolution": 7})
            odd = [(await http.get("/api/history", params={"since": since})).status_code for since in ODD]
    whole, pool, replica = told["groups"]
    assert [(one["pool"], one["replica"]) for one in (whole, pool, replica)] == [("", ""), ("p", ""), ("p", "p-0")]
    assert told["resolution_s"] == 10
    assert whole["total"]["requests"] == replica["total"]["requests"] == 3
    assert whole["total"]["prompt_tokens"] == sum(one["prompt_tokens"] for one in replica["slices"]) > 0
    assert whole["total"]["failed"] == 0
    assert fine["resolution_s"] == 60
    assert [one["total"]["requests"] for one in fine["groups"]] == [3]
    assert openai_error(wrong)["param"] == "resolution"
    assert odd == [400, 400, 200, 200, 400]


async def test_without_a_folder_it_is_there_while_the_gateway_is() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, admin(run) as http:
        told = (await http.get("/api/history")).json()
    assert [group["slices"] for group in told["groups"]] == [[]]
