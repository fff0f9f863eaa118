"""Two real vLLM servers that prefixgate runs: their chunk is changed over the API while they serve."""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from real_vllm import START_S, free_port, launch_table

from gateway.config import ConfigSource, load
from gateway.serving.server import running

pytestmark = [pytest.mark.real_vllm, pytest.mark.filterwarnings("default")]

MODEL = "tiny"
CLIENTS = 3


def prefixgate(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gateway", *words], capture_output=True, text=True, timeout=1200)


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """Two local replicas; their supervisor and they are stopped at the end."""
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    path = tmp_path / "gateway.toml"
    path.write_text(
        f"[server]\nport = 0\nadmin_port = {free_port()}\n"
        f'[[pools]]\nname = "real"\nengine = "vllm"\nmodel = "{MODEL}"\nreplicas = {json.dumps(urls)}\n'
        f"[pools.prefill]\nchunk_tokens = 2048\nstart_s = {START_S}\ncompare_s = 60.0\ntolerance = 1.0\n"
        + launch_table(folder, tmp_path / "run")
    )
    yield path
    prefixgate("engine", "stop", "--config", str(path))


async def until_up(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(START_S):
        while True:
            rows = (await http.get("/api/replicas")).json()
            if all(row["state"] == "up" for row in rows):
                return
            await asyncio.sleep(0.5)


async def ask(url: str, number: int, statuses: list[str]) -> None:
    """One long streamed request, part of which is shared."""
    own = " ".join(random.Random(number).choices(["lorem", "ipsum", "dolor", "sit", "amet"], k=900))
    messages = [{"role": "user", "content": "the same words again and again " * 200 + own}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 8, "stream": True}
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=300) as client:
        answer = await client.post("/v1/chat/completions", json=body)
    whole = answer.status_code == 200 and "data: [DONE]" in answer.text and '"error"' not in answer.text
    statuses.append("" if whole else f"{answer.status_code}: {answer.text[-300:]}")


async def test_the_chunk_of_two_vllms_is_changed_while_they_serve(config: Path) -> None:
    launched = await asyncio.to_thread(prefixgate, "engine", "launch", "--config", str(config), "--detach")
    assert launched.returncode == 0, launched.stderr
    source = ConfigSource(str(config))
    statuses: list[str] = []
    done = asyncio.Event()

    async with asyncio.timeout(1500), running(load(config), seed=1, source=source) as run:

        async def load_on(client: int) -> None:
            number = client
            while not done.is_set():
                await ask(run.url, number, statuses)
                number += CLIENTS

        async with httpx.AsyncClient(base_url=run.admin_url, trust_env=False, timeout=60) as http:
            await until_up(http)
            loading = [asyncio.create_task(load_on(number)) for number in range(CLIENTS)]
            try:
                while len(statuses) < 30:  # noqa: ASYNC110 - what is waited for has no event
                    await asyncio.sleep(0.5)
                view: dict[str, Any] = (await http.get("/api/pools/real/prefill")).json()
                assert [one["chunk_tokens"] for one in view["actual"].values()] == [2048, 2048]
                began, count = time.monotonic(), len(statuses)
                command = ("engine", "apply", "--config", str(config), "--pool", "real", "--chunk-tokens", "4096")
                applied = await asyncio.to_thread(prefixgate, *command, "--wait")
                print(applied.stdout)
                print(f"{time.monotonic() - began:.0f} s, {len(statuses) - count} requests meanwhile")
                assert applied.returncode == 0, applied.stderr
            finally:
                done.set()
                await asyncio.gather(*loading)
            view = (await http.get("/api/pools/real/prefill")).json()
    assert [one["chunk_tokens"] for one in view["actual"].values()] == [4096, 4096]
    assert view["drift"] == {}
    assert view["change"]["state"] == "done"
    failed = [status for status in statuses if status]
    print(f"{len(statuses)} requests, {len(failed)} failed; {view['advice']['sentence']}")
    assert failed == []
