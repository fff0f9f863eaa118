"""Replays the workload against a gateway and measures what its users would; does I/O."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx
import msgspec

from engines.reports import Usage
from gateway.demo.fleet import MODEL, SPEED
from gateway.demo.workload import Session, Shape
from gateway.wire.request import Endpoint
from gateway.wire.stream import StreamWatcher


@dataclass(frozen=True, slots=True)
class Measured:
    """One request as its user saw it. `ttft_ms` is on the engines' clock (wall time × speed)."""

    pool: str
    ttft_ms: float
    usage: Usage


@dataclass(slots=True)
class Run:
    """All requests of one policy."""

    measured: list[Measured]
    errors: int = 0


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Chunk(msgspec.Struct):
    choices: list[_Choice]


def chat_body(messages: Sequence[Mapping[str, str]], answer_tokens: int) -> bytes:
    """The JSON of a streamed chat request."""
    return msgspec.json.encode(
        {
            "model": MODEL,
            "messages": messages,
            "max_tokens": answer_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "chat_template_kwargs": {"thinking": False},  # the engines' defaults differ
        }
    )


async def replay(url: str, sessions: list[Session], shape: Shape, done: Callable[[], None]) -> Run:
    """Run every session; `done` is called after each request."""
    run = Run([])
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60, limits=limits) as client:
        began = time.monotonic()
        await asyncio.gather(*(_session(client, session, shape, began, run, done) for session in sessions))
    return run


async def _session(
    client: httpx.AsyncClient, session: Session, shape: Shape, began: float, run: Run, done: Callable[[], None]
) -> None:
    await asyncio.sleep(session.start_s / SPEED - (time.monotonic() - began))
    messages = [{"role": "system", "content": session.system}]
    for turn, question in enumerate(session.questions):
        await asyncio.sleep(session.think_s[turn] / SPEED)
        asked = f"{session.document}\n\n{question}" if turn == 0 else question
        messages.append({"role": "user", "content": asked})
        try:
            measured, answer = await _ask(client, messages, shape, session.name)
        except (httpx.HTTPError, ValueError):
            run.errors += 1
            answer = ""
        else:
            run.measured.append(measured)
        messages.append({"role": "assistant", "content": answer})
        done()


async def _ask(
    client: httpx.AsyncClient, messages: list[dict[str, str]], shape: Shape, session: str
) -> tuple[Measured, str]:
    """One streamed chat request. Raises httpx.HTTPError or ValueError when it fails."""
    watcher = StreamWatcher(Endpoint.CHAT, strip_usage=False)
    stream = bytearray()
    ttft_s: float | None = None
    content = chat_body(messages, shape.answer_tokens)
    headers = {"content-type": "application/json", "x-session-id": session}
    sent = time.monotonic()
    async with client.stream("POST", Endpoint.CHAT, content=content, headers=headers) as response:
        async for chunk in response.aiter_raw():
            watcher.feed(chunk)
            stream += chunk
            if ttft_s is None and watcher.first_token:
                ttft_s = time.monotonic() - sent
    if response.status_code != 200 or ttft_s is None or watcher.usage is None or watcher.error is not None:
        raise ValueError(f"the answer has status {response.status_code} and is not a whole stream")
    pool = response.headers["x-prefixgate-pool"]
    return Measured(pool, ttft_s * SPEED * 1000, watcher.usage), _text(bytes(stream))


def _text(stream: bytes) -> str:
    frames = (line.removeprefix(b"data: ") for line in stream.split(b"\n") if line.startswith(b"data: {"))
    chunks = (msgspec.json.decode(frame, type=_Chunk) for frame in frames)
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
