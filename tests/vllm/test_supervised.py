"""A real vLLM that prefixgate starts, watches, and starts again after `kill -9`."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from real_vllm import START_S, free_port, launch_table

from gateway.config import Config, load
from gateway.serving.launching import local_launcher
from gateway.serving.server import RunningGateway, running

pytestmark = [pytest.mark.real_vllm, pytest.mark.filterwarnings("default")]

MODEL = "tiny"


def prefixgate(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gateway", *words], capture_output=True, text=True, timeout=120)


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """One local replica; its supervisor and it are stopped at the end."""
    path = tmp_path / "gateway.toml"
    path.write_text(
        f'[[pools]]\nname = "real"\nengine = "vllm"\nmodel = "{MODEL}"\ntokens = "tokenizer:{folder / "tiny"}"\n'
        f'replicas = ["http://127.0.0.1:{free_port()}"]\n[pools.prefill]\nchunk_tokens = 2048\n'
        + launch_table(folder, tmp_path / "run")
    )
    yield path
    prefixgate("engine", "stop", "--config", str(path))


async def until_it_answers(config: Config) -> None:
    """The replica itself, not the gateway. Shows what it printed where it does not come up."""
    [pool] = config.pools
    deadline = time.monotonic() + START_S
    async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
        while True:
            try:
                if (await client.get(pool.replicas[0] + "/health")).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            if time.monotonic() > deadline:
                raise AssertionError("\n".join(await local_launcher(pool).tail("real-0", 60)))
            await asyncio.sleep(0.5)


async def ask(run: RunningGateway, text: str) -> dict[str, object]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 8}
    async with httpx.AsyncClient(base_url=run.url, trust_env=False, timeout=120) as client:
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        said: dict[str, object] = answer.json()
        return said


async def test_a_supervised_vllm_is_healed_after_kill_9(config: Path) -> None:
    began = time.monotonic()
    launched = await asyncio.to_thread(prefixgate, "engine", "launch", "--config", str(config), "--detach")
    assert launched.returncode == 0, launched.stderr
    loaded = load(config)
    launcher = local_launcher(loaded.pools[0])
    await until_it_answers(loaded)
    print(f"up after {time.monotonic() - began:.1f} s: {launched.stdout.strip()}")
    view = await launcher.view("real-0")
    assert view.pid is not None
    assert "--enable-per-request-metrics" in view.command
    checked = await asyncio.to_thread(prefixgate, "check", "--config", str(config))
    print(checked.stdout)
    assert checked.returncode == 0
    assert "warning" not in checked.stdout
    async with asyncio.timeout(900), running(loaded, seed=1) as run:
        long_text = "the same words again and again " * 200
        await ask(run, long_text)
        usage = (await ask(run, long_text))["usage"]
        assert isinstance(usage, dict)
        assert usage["prompt_tokens_details"]["cached_tokens"] > 0
        family = descendants(view.pid)
        assert family, "vLLM has an engine core of its own"
        killed = time.monotonic()
        os.kill(view.pid, signal.SIGKILL)
        while (again := await launcher.view("real-0")).pid in (None, view.pid):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
        assert not any(Path(f"/proc/{pid}").exists() for pid in family)
        await until_it_answers(loaded)
        print(f"healed {time.monotonic() - killed:.1f} s after kill -9: {again.reason}")
        assert again.restarts == 1
        await ask(run, long_text)
    stopped = await asyncio.to_thread(prefixgate, "engine", "stop", "--config", str(config))
    assert stopped.returncode == 0, stopped.stderr
    assert again.pid is not None
    assert not Path(f"/proc/{again.pid}").exists()


def descendants(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [one for child in children for one in (child, *descendants(child))]
