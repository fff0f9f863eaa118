"""`kill -9` of one of two real vLLMs under load: no client sees that anything happened."""

import asyncio
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from real_vllm import RealVllm, over

from gateway.serving.server import RunningGateway

pytestmark = [pytest.mark.real_vllm, pytest.mark.filterwarnings("default")]

MODEL = "tiny"
CLIENTS = 8
AFTER = 48
"""Requests that are to end after the kill."""
TOKENS = 48
WORDS = ("cache", "prefix", "token", "router", "engine", "replica", "prefill", "decode", "queue", "block")


@dataclass
class Answer:
    """One request as its client saw it: frames that it got, and what was wrong with it."""

    number: int
    streams: bool
    replica: str = ""
    frames: int = 0
    text: str = ""
    finish: str | None = None
    completion_tokens: int | None = None
    done: bool = False
    wrong: str = ""

    def complaint(self) -> str | None:
        """Why a client would say that it failed; None: it would not."""
        if self.wrong:
            return self.wrong
        if not self.done or self.finish != "length" or self.completion_tokens != TOKENS:
            return f"incomplete: done {self.done}, finish {self.finish}, {self.completion_tokens} tokens"
        return None


@dataclass
class Load:
    """Clients that ask one thing after the other, until they are told to end."""

    client: httpx.AsyncClient
    answers: list[Answer] = field(default_factory=list)
    live: list[Answer] = field(default_factory=list)
    over: bool = False

    async def run(self) -> None:
        await asyncio.gather(*(self._one_client(number) for number in range(CLIENTS)))

    async def _one_client(self, client: int) -> None:
        turn = 0
        while not self.over:
            answer = Answer(client * 1000 + turn, streams=client % 4 != 3)
            turn += 1
            self.live.append(answer)
            try:
                await (self._stream(answer) if answer.streams else self._whole(answer))
            except httpx.HTTPError as error:
                answer.wrong = f"the connection to the gateway failed: {error!r}"
            self.live.remove(answer)
            self.answers.append(answer)

    def _body(self, answer: Answer) -> dict[str, object]:
        rng = random.Random(answer.number)
        messages = [
            {"role": "system", "content": " ".join(random.Random(answer.number % 3).choices(WORDS, k=200))},
            {"role": "user", "content": " ".join(rng.choices(WORDS, k=100))},
        ]
        body = {"model": MODEL, "messages": messages, "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0}
        return body | ({"stream": True, "stream_options": {"include_usage": True}} if answer.streams else {})

    async def _whole(self, answer: Answer) -> None:
        response = await self.client.post("/v1/chat/completions", json=self._body(answer))
        answer.replica = response.headers.get("x-prefixgate-replica", "")
        if response.status_code != 200:
            answer.wrong = f"{response.status_code} {response.text[:300]}"
            return
        said = response.json()
        answer.finish, answer.completion_tokens = (
            said["choices"][0]["finish_reason"],
            said["usage"]["completion_tokens"],
        )
        answer.done = True

    async def _stream(self, answer: Answer) -> None:
        async with self.client.stream("POST", "/v1/chat/completions", json=self._body(answer)) as response:
            answer.replica = response.headers.get("x-prefixgate-replica", "")
            if response.status_code != 200:
                answer.wrong = f"{response.status_code} {(await response.aread())[:300]!r}"
                return
            names = set()
            async for line in response.aiter_lines():
                if answer.done and line:
                    answer.wrong = f"after [DONE]: {line[:300]}"
                elif line == "data: [DONE]":
                    answer.done = True
                elif line.startswith("data: "):
                    frame = json.loads(line.removeprefix("data: "))
                    if "error" in frame:
                        answer.wrong = f"an error frame: {line[:300]}"
                        return
                    names.add(frame["id"])
                    self._take(answer, frame)
            if len(names) > 1:
                answer.wrong = f"one stream of several ids: {sorted(names)}"

    @staticmethod
    def _take(answer: Answer, frame: dict) -> None:
        answer.frames += 1
        for choice in frame["choices"]:
            if answer.finish is not None:
                answer.wrong = "it goes on after its finish reason"
            answer.text += choice["delta"].get("content") or ""
            answer.finish = choice.get("finish_reason") or answer.finish
        if frame.get("usage") is not None:
            answer.completion_tokens = frame["usage"]["completion_tokens"]


async def _until_it_hurts(load: Load, replica: str) -> None:
    """Wait until streams of the replica are in their middle."""
    async with asyncio.timeout(240):
        while sum(one.replica == replica and 3 < one.frames < TOKENS // 2 for one in load.live) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _until_ended(load: Load, count: int) -> None:
    async with asyncio.timeout(400):
        while len(load.answers) < count:  # noqa: ASYNC110 - counts are looked at, nobody tells of them
            await asyncio.sleep(0.05)


async def storm(run: RunningGateway, victim: RealVllm) -> tuple[list[Answer], list[Answer]]:
    """All answers, and those that were in their middle at the victim when it was killed."""
    [replica] = [one.name for one in run.gateway.snapshot().replicas if one.url == victim.url]
    async with httpx.AsyncClient(base_url=run.url, trust_env=False, timeout=300) as client:
        load = Load(client)
        clients = asyncio.create_task(load.run())
        await _until_it_hurts(load, replica)
        victim.kill()
        hit = [one for one in load.live if one.replica == replica]
        await _until_ended(load, len(load.answers) + AFTER)
        load.over = True
        await clients
    return load.answers, hit


async def test_kill_9_of_one_of_two_under_load(vllms: list[RealVllm], folder: Path) -> None:
    async with asyncio.timeout(900), over(vllms) as run:
        try:
            answers, hit = await storm(run, vllms[1])
        finally:
            await asyncio.to_thread(vllms[1].restart, folder)  # for the tests that follow
        assert len(hit) >= 2
        failed = {one.number: one.complaint() for one in answers if one.complaint() is not None}
        print(f"{len(answers)} requests, {len(hit)} at the killed engine, {len(failed)} failed: {failed}")
        assert not failed
        assert all(replica.inflight == 0 for replica in run.gateway.snapshot().replicas)
