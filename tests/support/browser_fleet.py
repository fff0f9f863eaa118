"""A fleet as the demo's, with traffic, for tests that look at its dashboard."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
from processes import prefixgate

from gateway.demo.fleet import CHUNK_TOKENS, KV_TOKENS, MODEL, POOLS, REPLICAS_PER_POOL, SPEED
from gateway.demo.replay import chat_body
from gateway.demo.workload import Shape, sessions

SHAPE = Shape(families=4, system_tokens=2000, document_tokens=3000, sessions=30, turns=4)
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", "build/screenshots"))
EXPERIMENT = """
[[experiments]]
name = "w4a8-vs-fp4"
unit = "session"
start = "manual"
warm_up_s = 0
[experiments.arms]
vllm-w4a8 = 0.5
sglang-fp4 = 0.5
"""


@dataclass
class Fleet:
    """A gateway over simulated engines; `rate` requests a second come while `flows` is set.

    They are those of sessions, or all the same `body` where one is given.
    """

    url: str
    admin_url: str
    rate: float = 15.0
    body: bytes | None = None
    flows: threading.Event = field(default_factory=threading.Event)

    def get(self, path: str) -> Any:
        with httpx.Client(base_url=self.admin_url, trust_env=False, timeout=60) as http:
            return http.get(path).raise_for_status().json()

    def snapshot(self) -> Any:
        return self.get("/api/snapshot")

    def quiet(self) -> Any:
        """Let the traffic end; the snapshot once nothing has happened for a second."""
        self.flows.clear()
        before = None
        while True:
            view = self.snapshot()
            ended = [one["outcomes"] for one in view["snapshot"]["series"]]
            if ended == before and not any(one["inflight"] for one in view["snapshot"]["replicas"]):
                return view
            before = ended
            threading.Event().wait(1.0)


def _bodies() -> Iterator[tuple[str, bytes]]:
    """Sessions without end, turn by turn; now and then prompts that a timestamp keeps apart."""
    rules = "\n".join(f"Rule {number}: be brief, be kind, and say where an answer comes from." for number in range(90))
    rng = Random(1)
    for seed in range(1_000_000):
        load = sessions(SHAPE, seed)
        for turn in range(SHAPE.turns):
            for one in load:
                messages = [{"role": "system", "content": one.system}]
                for before in one.questions[: turn + 1]:
                    messages += [{"role": "user", "content": one.document + before}]
                    messages += [{"role": "assistant", "content": "as it was said before"}]
                yield one.name + str(seed), chat_body(messages[:-1], 8)
                if rng.random() < 0.15:
                    clock = f"It is {rng.randint(10, 23)}:{rng.randint(10, 59)} on 2026-11-29.\n"
                    stamped = [{"role": "system", "content": clock + rules}, {"role": "user", "content": "Hello"}]
                    yield "stamped", chat_body(stamped, 8)


async def _traffic(fleet: Fleet, ended: threading.Event) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with (
        httpx.AsyncClient(base_url=fleet.url, trust_env=False, timeout=60, limits=limits) as http,
        asyncio.TaskGroup() as group,
    ):
        due = asyncio.get_running_loop().time()
        for session, body in _bodies():
            while not fleet.flows.is_set() and not ended.is_set():
                await asyncio.sleep(0.05)
                due = asyncio.get_running_loop().time()
            if ended.is_set():
                return
            due += 1 / fleet.rate
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            group.create_task(_ask(http, session, fleet.body or body))


async def _ask(http: httpx.AsyncClient, session: str, body: bytes) -> None:
    headers = {"content-type": "application/json", "x-session-id": session}
    await http.post("/v1/chat/completions", content=body, headers=headers)


def _config(engines: dict[str, list[str]], folder: Path) -> Path:
    lines = ["[server]", "port = 0", "admin_port = 0", "[state]", f"path = {json.dumps(str(folder))}"]
    lines += ["[log]", 'requests = "none"', "[polling]", "interval_s = 0.5"]
    for pool in POOLS:
        lines += ["[[pools]]", f'name = "{pool.name}"', f'engine = "{pool.dialect}"', f'model = "{MODEL}"']
        lines += ["gpus_per_replica = 2", f"replicas = {json.dumps(engines[pool.name])}"]
        lines += ["[pools.prefill]", f"chunk_tokens = {CHUNK_TOKENS}"]
    path = folder / "gateway.toml"
    path.write_text("\n".join(lines) + EXPERIMENT)
    return path


@contextmanager
def busy_fleet(folder: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        engines: dict[str, list[str]] = {pool.name: [] for pool in POOLS}
        for pool in POOLS:
            for _ in range(REPLICAS_PER_POOL):
                kind = ("--dialect", pool.dialect, "--profile", pool.profile, "--model", MODEL)
                size = ("--speed", str(SPEED), "--kv-tokens", str(KV_TOKENS))
                _, urls = stack.enter_context(prefixgate("engine", "simulate", "--port", "0", *kind, *size))
                engines[pool.name].append(urls[0])
        config = _config(engines, folder)
        _, urls = stack.enter_context(prefixgate("serve", "--config", str(config)))
        fleet, ended = Fleet(*urls[:2]), threading.Event()
        fleet.flows.set()
        thread = threading.Thread(target=lambda: asyncio.run(_traffic(fleet, ended)))
        thread.start()
        try:
            yield fleet
        finally:
            ended.set()
            thread.join()
