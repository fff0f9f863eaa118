"""An experiment between real vLLM servers that differ in `--max-num-batched-tokens`, reported by the command line."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import httpx
import pytest
from real_vllm import RealVllm, over, start, stop, wait_until_up

from gateway.serving.server import RunningGateway

pytestmark = [pytest.mark.real_vllm, pytest.mark.filterwarnings("default")]

SMALL, LARGE = 256, 2048
BATCH, MOST = 40, 400
DECIDED = ("better", "worse", "tie")
ARMS = {f"chunk-{chunk}": {"chunk_tokens": chunk, "weight": 0.5} for chunk in (SMALL, LARGE)}


@pytest.fixture(scope="module")
def unlike(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RealVllm]]:
    logs = tmp_path_factory.mktemp("chunks")
    servers = [start(folder, logs / f"{chunk}.log", chunk) for chunk in (SMALL, LARGE)]
    try:
        for server in servers:
            wait_until_up(server)
        yield servers
    finally:
        stop(servers)


async def ask(client: httpx.AsyncClient, rng: Random) -> str:
    """One fresh prompt of some thousand tokens; the arm that it went to."""
    text = " ".join(str(rng.randrange(10_000)) for _ in range(1500))
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 4,
        "ignore_eos": True,
        "stream": True,
    }
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-prefixgate-arm"]


async def reported(run: RunningGateway, *arguments: str) -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "gateway", "experiment", "report", "chunks", "--url", run.admin_url, *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said


async def test_a_verdict_from_measured_traffic(unlike: list[RealVllm]) -> None:
    experiment = {"name": "chunks", "control": f"chunk-{SMALL}", "arms": ARMS, "warm_up_s": 0}
    patient = {"interval_s": 5.0, "timeout_s": 60.0}  # on a busy machine an engine that computes is slow to answer
    async with asyncio.timeout(900), over(unlike, {"experiments": [experiment], "polling": patient}) as run:
        rng = Random(7)
        async with httpx.AsyncClient(base_url=run.url, trust_env=False, timeout=120) as client:
            went: Counter[str] = Counter()
            verdict = None
            while verdict not in DECIDED and went.total() < MOST:  # looking again and again is what it is made for
                went.update([await ask(client, rng) for _ in range(BATCH)])
                await asyncio.sleep(1)
                status, said = await reported(run, "--json")
                report = json.loads(said)
                (first,) = [one for one in report["comparisons"] if one["metric"] == "ttft_p50"]
                verdict = first["verdict"]
                print(f"{went.total()} requests: {first['sentence']}")
        print((await reported(run))[1].decode())
    assert status == 0
    assert report["sample_ratio"]["ok"]
    for arm in report["arms"]:
        label = f"chunks={arm['name']}"
        assert (arm["requests"] - arm["crossed"], arm["crossed"]) == (went[label], went[f"{label};failover"])
        assert arm["crossed"] < 0.1 * arm["requests"]
    assert verdict in DECIDED, first["sentence"]
    for arm in report["arms"]:
        hit_rate = next(figure for figure in arm["figures"] if figure["metric"] == "hit_rate")
        assert hit_rate["value"] < 0.1  # by vLLM's own word: the prompts were fresh
