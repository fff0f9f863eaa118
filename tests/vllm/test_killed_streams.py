"""Real vLLM: kill -9 in the middle of a stream, and its client gets the stream that it would have got."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from real_vllm import RealVllm

from gateway.serving.server import RunningGateway

pytestmark = [pytest.mark.real_vllm, pytest.mark.filterwarnings("default")]

MODEL = "tiny"
TOKENS = 600
KILLED_AFTER = 25
"""Frames that the client has read by then."""
WORDS = (" self", " return", " import", " None", " the", " for", " raise", " class", " in", " not", " is", " and")


async def whole_words(url: str) -> list[int]:
    """Tokens that are words of their own, so that a text of them is always cut into the same tokens again."""
    ids = []
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        for word in WORDS:
            body = {"model": MODEL, "prompt": word, "add_special_tokens": False}
            tokens = (await client.post(url + "/tokenize", json=body)).json()["tokens"]
            ids += tokens if len(tokens) == 1 else []
    assert len(ids) > 3
    return ids


class Stream:
    """What a client makes of a stream, of which it may be told while it comes."""

    def __init__(self) -> None:
        self.replica = ""
        self.text = ""
        self.ids: set[str] = set()
        self.finish: list[str] = []
        self.usage: dict[str, Any] | None = None
        self.done = False
        self.frames = 0

    async def read(self, url: str, path: str, body: dict[str, Any], killed: asyncio.Event | None = None) -> None:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=120) as client,
            client.stream("POST", url + path, json=body) as answer,
        ):
            assert answer.status_code == 200, await answer.aread()
            self.replica = answer.headers["x-prefixgate-replica"]
            async for line in answer.aiter_lines():
                if not line:
                    continue
                self.take(line.removeprefix("data: "))
                if self.frames == KILLED_AFTER and killed is not None:
                    killed.set()

    def take(self, data: str) -> None:
        assert not self.done
        if data == "[DONE]":
            self.done = True
            return
        frame = json.loads(data)
        assert "error" not in frame, frame
        self.frames += 1
        self.ids.add(frame["id"])
        self.usage = frame.get("usage") or self.usage
        for choice in frame["choices"]:
            self.text += choice.get("delta", choice).get("content") or choice.get("text") or ""
            self.finish += [choice["finish_reason"]] if choice["finish_reason"] else []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_killed_engines_stream_goes_on(
    gateway: RunningGateway, vllms: list[RealVllm], folder: Path, path: str
) -> None:
    prompt = {"messages": [{"role": "user", "content": "Go on."}]} if "chat" in path else {"prompt": "Go on."}
    body = {"model": MODEL, **prompt, "stream": True, "stream_options": {"include_usage": True}, "temperature": 0}
    body |= {"max_tokens": TOKENS, "allowed_token_ids": await whole_words(vllms[0].url), "repetition_penalty": 1.2}
    undisturbed, cut = Stream(), Stream()
    await undisturbed.read(gateway.url, path, body)
    assert undisturbed.done
    assert undisturbed.usage is not None
    assert undisturbed.usage["completion_tokens"] == TOKENS
    reached = asyncio.Event()
    reading = asyncio.ensure_future(cut.read(gateway.url, path, body, reached))
    await reached.wait()
    name = cut.replica
    victim = next(one for one in vllms if one.url == gateway.gateway.backends[name].url)
    victim.kill()
    try:
        await reading
        assert cut.text == undisturbed.text
        assert (cut.finish, cut.done, len(cut.ids)) == (["length"], True, 1)
        assert cut.usage is not None
        counted = ("prompt_tokens", "completion_tokens", "total_tokens")
        assert [cut.usage[one] for one in counted] == [undisturbed.usage[one] for one in counted]
        tallies = {one.replica: one.broken_streams for one in gateway.gateway.snapshot().series if one.broken_streams}
        assert tallies == {name: {"continued": 1}}
        assert all(replica.inflight == 0 for replica in gateway.gateway.snapshot().replicas)
    finally:
        await asyncio.to_thread(victim.restart, folder)
