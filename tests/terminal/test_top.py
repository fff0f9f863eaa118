"""`prefixgate top` over a live gateway."""

import asyncio
import io

import pytest
from gateways import chat, client, gateway_over
from rich.console import Console

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings
from gateway.cli import run
from gateway.cli.top import show
from gateway.terminal.screen import bar, curve
from gateway.terminal.watch import WatchError


def shown(url: str, width: int, token: str | None = None) -> str:
    """One frame."""
    console = Console(file=io.StringIO(), width=width)
    assert show(console, url, token, 1) == 0
    written = console.file
    assert isinstance(written, io.StringIO)
    return written.getvalue()


async def test_one_frame_of_a_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOP_TOKEN", "open-sesame-and-more")
    settings = SimulatorSettings(model="m", speed=100.0)
    async with (
        serving(settings) as engine,
        gateway_over(engine, server={"admin_token_env": "TOP_TOKEN"}) as gateway,
        client(gateway) as http,
    ):
        for _ in range(2):
            answer = await http.post("/v1/chat/completions", json=chat("word " * 2000, stream=True))
            assert answer.status_code == 200
        wide = await asyncio.to_thread(shown, gateway.admin_url, 200, "open-sesame-and-more")
        narrow = await asyncio.to_thread(shown, gateway.admin_url, 70, "open-sesame-and-more")
        with pytest.raises(WatchError, match="--token-env"):
            await asyncio.to_thread(shown, gateway.admin_url, 70)
        with pytest.raises(WatchError, match="no admin port"):
            await asyncio.to_thread(shown, gateway.url, 70)
    for text in ("1/1 replicas", "delivered", "p-0", "known by", "guess"):
        assert text in wide
    assert "hit rate" in narrow
    assert "known by" not in narrow
    assert max(map(len, narrow.splitlines())) <= 70


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["top", "--url", "http://127.0.0.1:9", "--frames", "1"]) == 1
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--frames", "0"], ["--token-env", "NO_SUCH_VARIABLE"]])
def test_wrong_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["top", *wrong]) == 2
    assert {"--frames": "at least 1", "--token-env": "NO_SUCH_VARIABLE"}[wrong[0]] in capsys.readouterr().err


def test_bars_and_curves() -> None:
    assert bar(0.5, 0.75).plain.count("█") == 20
    assert bar(None, 0.55).plain.count("█") == 0
    assert "│" in bar(1.0, 1.0).plain
    assert curve([0.0, None, 1.0]) == "▁ █"
    assert curve([None, 0.0]) == "  "
