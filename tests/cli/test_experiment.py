"""`prefixgate experiment`: against a gateway that runs, and on what it has left behind."""

import asyncio
import json
from pathlib import Path

import pytest
from fake_engine import fake_engine
from gateways import chat, gateway_of, post, until

from gateway.cli import run
from gateway.serving.experiments.store import FILE_NAME

AB = {"name": "ab", "arms": {"a": 0.5, "b": 0.5}, "warm_up_s": 0, "unit": "request"}


def command(*arguments: str) -> int:
    return run(["experiment", *arguments])


async def test_a_running_gateway_and_its_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with fake_engine() as one, fake_engine() as other:
        pools = [
            {"name": name, "engine": "vllm", "model": "m", "replicas": [engine.url]}
            for name, engine in (("a", one), ("b", other))
        ]
        async with gateway_of(pools, experiments=[AB], state={"path": str(tmp_path)}) as gateway:
            for _ in range(8):
                await post(gateway, chat("hi " * 400))
            await until(lambda: gateway.gateway.experiments.counts["written"] == 8)

            async def said(*arguments: str) -> tuple[int, str, str]:
                status = await asyncio.to_thread(command, *arguments, "--url", gateway.admin_url)
                return status, *capsys.readouterr()

            status, out, _ = await said("list")
            assert (status, "running" in out, "request" in out) == (0, True, True)
            status, out, _ = await said("list", "--json")
            assert json.loads(out)[0]["name"] == "ab"
            status, out, _ = await said("stop", "ab")
            assert (status, "stopped (by the admin API)" in out) == (0, True)
            status, out, _ = await said("start", "ab", "--json")
            assert json.loads(out)["experiment"]["state"] == "running"
            status, _, error = await said("show", "none")
            assert (status, error) == (1, "prefixgate: there is no experiment `none`\n")
            status, out, _ = await said("report", "ab", "--json", "--html", str(tmp_path / "page.html"))
            assert (status, json.loads(out)["name"]) == (0, "ab")
            assert "<html" in (tmp_path / "page.html").read_text()
            status, out, _ = await said("stop", "ab")
    assert command("report", "ab", "--store", str(tmp_path / FILE_NAME)) == 0
    assert command("report", "none", "--store", str(tmp_path / FILE_NAME)) == 1
    assert "it has: ab" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("list", "--url", "http://127.0.0.1:1"), 1, "no gateway answers"),
        (("list", "--token-env", "SURELY_NOT_SET"), 2, "SURELY_NOT_SET is not set"),
        (("report", "ab", "--store", "/none/there.sqlite"), 1, "no such file"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    arguments: tuple[str, ...], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments) == status
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
