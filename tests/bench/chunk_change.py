"""A pool's chunk is changed while it serves, by the real commands on simulated engines; `make chunk-change`.

Three SGLang FP4 replicas that the pool's supervisor runs, and one vLLM W4A8 replica beside them, behind one gateway.
Conversations over shared system prompts arrive at a steady rate. Then `prefixgate engine apply` takes the SGLang pool
from 8192 to 16384; after that a chunk that the engine refuses to start with, and one that makes prefill slower. Before
and after, with nobody else there, prompts of 24,576 new tokens are timed. Seconds are the engines' own: time is
compressed `--speed` times. Everything is simulated but the gateway, the supervisor and the commands.

Exits with 1 if a request failed, more than one replica was away at a time, the hit rate was not back within a minute,
24k TTFT is not better, or a bad setting stayed.
"""

import argparse
import asyncio
import json
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import httpx
from rich.console import Console

from gateway.demo.replay import chat_body
from gateway.demo.workload import Arrival, Shape, arrivals
from gateway.serving.engine_client import EngineClient, EngineGoneError
from gateway.wire.request import Endpoint
from gateway.wire.stream import StreamWatcher

POOL = "sglang-fp4"
MODEL = "deepseek-v4-flash"
LADDER_TOKENS = 24_576
WARM_S, AFTER_S = 60.0, 75.0
"""Seconds of the engines: before the change, and after it."""
SHAPE = Shape(
    families=5, system_tokens=4000, document_tokens=10_000, turns=6, sessions=120, sessions_per_s=0.7, think_s=5.0
)
ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Sent:
    """All requests: when each was answered (engines' seconds), its prompt and cached tokens; and what went wrong."""

    count: int = 0
    answered: list[tuple[float, int, int]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def hit_rate(self, since: float, until: float) -> float:
        """Cached over prompt tokens of what was answered then; a ratio of sums."""
        rows = [row for row in self.answered if since <= row[0] < until]
        return sum(cached for _, _, cached in rows) / max(sum(prompt for _, prompt, _ in rows), 1)


class Bench:
    """One run. `clock()` is in the engines' seconds."""

    def __init__(self, url: str, admin_url: str, config: Path, speed: float, console: Console) -> None:
        self.sent = Sent()
        self.most_away = 0
        self.loading = True
        self._url = url
        self._config = config
        self._speed = speed
        self._console = console
        self._client = EngineClient()
        self._admin = httpx.AsyncClient(base_url=admin_url, trust_env=False, timeout=60)
        self._began = time.monotonic()

    def clock(self) -> float:
        return (time.monotonic() - self._began) * self._speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._speed)

    async def replicas(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = (await self._admin.get("/api/replicas")).json()
        return rows

    async def until_up(self, count: int) -> None:
        async with asyncio.timeout(60):
            while sum(row["state"] == "up" for row in await self.replicas()) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def kv_tokens(self) -> list[int]:
        return [row["report"]["kv_capacity_tokens"] for row in await self.replicas() if row["pool"] == POOL]

    async def watch(self) -> None:
        """How many replicas of the pool take no requests at a time."""
        while True:
            rows = [row for row in await self.replicas() if row["pool"] == POOL]
            self.most_away = max(self.most_away, sum(row["state"] != "up" for row in rows))
            await asyncio.sleep(0.05)

    async def load(self, requests: Sequence[Arrival]) -> None:
        """Requests at their times, again and again with other documents, until there is to be no more load."""
        tasks: set[asyncio.Task[None]] = set()
        first = self.clock()
        for arrival in _endless(requests):
            await self.sleep(max(first + arrival.at_s - self.clock(), 0.0))
            if not self.loading:
                break
            task = asyncio.create_task(self._ask(arrival))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def _ask(self, arrival: Arrival) -> None:
        number = self.sent.count = self.sent.count + 1
        try:
            usage, _ = await self._stream(arrival.messages, arrival.answer_tokens, {"x-session-id": arrival.session})
        except ValueError as error:
            self.sent.failed.append(f"request {number}: {error}")
        else:
            self.sent.answered.append((self.clock(), *usage))

    async def ladder_ms(self, seed: int, repeats: int = 7) -> float:
        """TTFT of a prompt that nobody has cached, one at a time, on the engines' clock: the least of some, as whatever
        else runs on this machine only ever adds to it.
        """
        rng, taken = Random(seed), []
        for _ in range(repeats):
            text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=4 * LADDER_TOKENS))
            _, ttft_s = await self._stream(({"role": "user", "content": text},), 2, {"x-prefixgate-pool": POOL})
            taken.append(1000 * ttft_s * self._speed)
        return min(taken)

    async def _stream(
        self, messages: tuple[dict[str, str], ...], answer_tokens: int, headers: dict[str, str]
    ) -> tuple[tuple[int, int], float]:
        """Prompt and cached tokens, and wall seconds to the first token. ValueError for anything but an answer."""
        watcher = StreamWatcher(Endpoint.CHAT, strip_usage=False)
        sent_at, ttft_s = time.monotonic(), None
        lines = ((b"content-type", b"application/json"), *((k.encode(), v.encode()) for k, v in headers.items()))
        try:
            response = await self._client.send(
                self._url, "POST", Endpoint.CHAT, lines, chat_body(messages, answer_tokens)
            )
            while chunk := await response.read():
                watcher.feed(chunk)
                if ttft_s is None and watcher.first_token:
                    ttft_s = time.monotonic() - sent_at
        except EngineGoneError as error:
            raise ValueError(str(error)) from error
        if response.status != 200 or ttft_s is None or watcher.usage is None or watcher.error is not None:
            raise ValueError(f"status {response.status}, {watcher.error or 'not a whole stream'}")
        return (watcher.usage.prompt_tokens, watcher.usage.cached_tokens or 0), ttft_s

    async def apply(self, chunk_tokens: int) -> int:
        """`prefixgate engine apply --wait`; what it exits with."""
        self._console.print(f"\n$ prefixgate engine apply --pool {POOL} --chunk-tokens {chunk_tokens} --wait")
        command = ["engine", "apply", "--config", str(self._config), "--pool", POOL, "--wait"]
        process = await _started(*command, "--chunk-tokens", str(chunk_tokens))
        assert process.stdout is not None
        async for line in process.stdout:
            self._console.print(f"  {line.decode().rstrip()}")
        return await process.wait()

    async def prefill(self) -> dict[str, Any]:
        view: dict[str, Any] = (await self._admin.get(f"/api/pools/{POOL}/prefill")).json()
        return view

    async def close(self) -> None:
        await self._client.close()
        await self._admin.aclose()


async def run(speed: float, console: Console) -> dict[str, Any]:
    async with _gateway(speed) as (url, admin_url, config):
        bench = Bench(url, admin_url, config, speed, console)
        try:
            await bench.until_up(4)
            found = await _measured(bench, console)
        finally:
            await bench.close()
    return found


async def _measured(bench: Bench, console: Console) -> dict[str, Any]:
    requests = await asyncio.to_thread(arrivals, SHAPE, 1)
    kv_before = await bench.kv_tokens()
    ladder_before = await bench.ladder_ms(1)
    loading, watching = asyncio.create_task(bench.load(requests)), asyncio.create_task(bench.watch())
    await bench.sleep(WARM_S)
    began = bench.clock()
    good = await bench.apply(16_384)
    ended = bench.clock()
    change = (await bench.prefill())["change"]
    await bench.sleep(AFTER_S)
    advice = (await bench.prefill())["advice"]
    over = bench.clock()
    kv_after = await bench.kv_tokens()
    refused = await bench.apply(16_000)  # no multiple of the page
    slower = await bench.apply(1024)
    view = await bench.prefill()
    bench.loading = False
    await loading
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    ladder_after = await bench.ladder_ms(2)
    sent = bench.sent
    rates = [(start - ended, sent.hit_rate(start, start + 10)) for start in _tens(began - 30, over)]
    before = sent.hit_rate(began - 30, began)
    back = next((at for at, rate in rates if at >= 0 and rate >= 0.95 * before), None)
    return {
        "requests": sent.count,
        "failed": sent.failed,
        "most_away": bench.most_away,
        "hit_rate_before": before,
        "hit_rate_after": sent.hit_rate(ended + 30, over),
        "hit_rates": rates,
        "back_s": back,
        "change": {"exit": good, "state": change["state"], "seconds": ended - began},
        "comparisons": [one["long"] for one in change["comparisons"]],
        "ladder_ms": [ladder_before, ladder_after],
        "kv_tokens": [kv_before, kv_after],
        "refused_exit": refused,
        "slower_exit": slower,
        "chunks_at_the_end": [one["chunk_tokens"] for one in view["actual"].values()],
        "advice": advice["sentence"],
    }


def _renewed(arrival: Arrival, turn: int) -> Arrival:
    """The same with a document that nobody has seen yet, after the same system prompt."""
    system, document, *rest = arrival.messages
    other = {"role": "user", "content": f"{turn} {document['content']}"}
    return replace(arrival, session=f"{arrival.session}-{turn}", messages=(system, other, *rest))


def _endless(requests: Sequence[Arrival]) -> Iterator[Arrival]:
    """Turn after turn, at their times from 0, in order: the last sessions of a turn overlap with the next one's."""
    every_s = SHAPE.sessions / SHAPE.sessions_per_s
    left: list[Arrival] = []
    for turn in count():
        began = turn * every_s
        left += [replace(_renewed(one, turn), at_s=began + one.at_s) for one in requests]
        left.sort(key=lambda one: one.at_s)
        due = [one for one in left if one.at_s < began + every_s]
        yield from due
        left = left[len(due) :]


def _tens(since: float, until: float) -> list[float]:
    return [since + 10 * number for number in range(int((until - since) // 10))]


def trouble(found: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    before, after = found["ladder_ms"]
    back = found["back_s"]
    checks = {
        "requests failed": not found["failed"],
        "more than one replica was away at a time": found["most_away"] <= 1,
        "the change was not done": found["change"]["exit"] == 0,
        "the hit rate was not back within a minute": back is not None and back <= 60,
        "24k TTFT is not 4 to 10 % better": 0.04 <= 1 - after / before <= 0.10,
        "the KV caches are not smaller": sum(found["kv_tokens"][1]) < sum(found["kv_tokens"][0]),
        "a chunk that does not start was not taken back": found["refused_exit"] == 1,
        "a chunk that is slower was not taken back": found["slower_exit"] == 1,
        "a bad chunk stayed": set(found["chunks_at_the_end"]) == {16_384},
    }
    return [what for what, well in checks.items() if not well]


def show(found: dict[str, Any], console: Console) -> None:
    before, after = found["ladder_ms"]
    console.print(f"\nrequests            {found['requests']} sent, {len(found['failed'])} failed")
    for failure in found["failed"][:5]:
        console.print(f"                    {failure}")
    console.print(f"replicas away       {found['most_away']} at most, of 3")
    rates = "  ".join(f"{at:+.0f} s {rate:.0%}" for at, rate in found["hit_rates"])
    console.print(f"hit rate            {found['hit_rate_before']:.1%} before, {found['hit_rate_after']:.1%} after")
    back = "never" if found["back_s"] is None else f"{found['back_s']:.0f} s after its end"
    console.print(f"  back at 95 % of   {back}; by ten seconds, from the end of the change: {rates}")
    console.print(f"TTFT, 24,576 new    {before:.0f} → {after:.0f} ms ({after / before - 1:+.1%})")
    console.print(f"KV tokens           {found['kv_tokens'][0]} → {found['kv_tokens'][1]}")
    console.print(f"bad settings        refused: exit {found['refused_exit']}, slower: exit {found['slower_exit']}; "
                  f"chunks at the end {found['chunks_at_the_end']}")  # fmt: skip
    console.print(f"advice              {found['advice']}")
    for what in trouble(found):
        console.print(f"WRONG: {what}", style="bold red")


@asynccontextmanager
async def _gateway(speed: float) -> AsyncIterator[tuple[str, str, Path]]:
    """The gateway and all that it starts, for as long as the block runs; its URL, its admin's, and its file."""
    with tempfile.TemporaryDirectory(prefix="prefixgate-chunk-") as folder:
        config = Path(folder) / "gateway.toml"
        config.write_text(_config(Path(folder), speed))
        process = await _started("serve", "--config", str(config))
        assert process.stdout is not None
        try:
            async with asyncio.timeout(60):
                while "listens" not in (line := (await process.stdout.readline()).decode()):
                    if not line:
                        raise RuntimeError("the gateway did not start")
            urls = [word.rstrip(",)/").removesuffix("/v1") for word in line.split() if word.startswith("http://")]
            draining = asyncio.create_task(process.stdout.read())
            yield urls[0], urls[1], config
            process.terminate()
            await draining
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            for pool in (POOL, "vllm-w4a8"):
                await (await _started("engine", "stop", "--config", str(config), "--pool", pool)).communicate()


async def _started(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *arguments, stdout=pipe, stderr=asyncio.subprocess.STDOUT, cwd=ROOT
    )


def _config(folder: Path, speed: float) -> str:
    port, *ports = _free_ports(6)
    lines = ["[server]", f"port = {port}", f"admin_port = {ports.pop()}", "[polling]", "interval_s = 0.3"]
    for name, engine, mine in ((POOL, "sglang", ports[:3]), ("vllm-w4a8", "vllm", ports[3:])):
        program = [sys.executable, "-m", "gateway", "engine", "simulate", "--dialect", engine]
        program += ["--speed", str(speed), "--kv-tokens", "220000"]
        urls = [f"http://127.0.0.1:{port}" for port in mine]
        lines += [
            *("[[pools]]", f'name = "{name}"', f'engine = "{engine}"', f'model = "{MODEL}"', "gpus_per_replica = 2"),
            *(f"replicas = {json.dumps(urls)}", "[pools.prefill]", "chunk_tokens = 8192", f"drain_s = {120 / speed}"),
            *("start_s = 60.0", f"compare_s = {100 / speed}", "[pools.events]", 'mode = "off"'),
            *("[pools.launch]", 'kind = "local"', f"program = {json.dumps(program)}", f'directory = "{ROOT}"'),
            *("gpus = []", f'run_dir = "{folder / name}"', "stop_s = 5.0"),
        ]
    return "\n".join(lines) + "\n"


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=float, default=5.0, help="how many times faster than the hardware (default 5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    console = Console(highlight=False, markup=False, soft_wrap=True, stderr=options.json)
    found = asyncio.run(run(options.speed, console))
    if options.json:
        print(json.dumps(found | {"wrong": trouble(found)}, indent=2))
    else:
        show(found, console)
    return 1 if trouble(found) else 0


if __name__ == "__main__":
    sys.exit(main())
