"""An engine in front of a simulated one that passes on only the beginning of its streams, when told to."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from fake_engine import Answer, FakeEngine, Request, chunked_head, fake_engine, http_chunk, models, response
from gateways import gateway_of

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings
from gateway.serving.server import RunningGateway

MODEL = "sim"
GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
DEAD = b'data: {"error":{"message":"EngineCore died","type":"InternalServerError","param":null,"code":500}}\n\n'

End = Callable[[asyncio.StreamWriter], Any]


async def breaks(writer: asyncio.StreamWriter) -> None:
    """The connection is closed in the middle."""
    writer.close()


async def resets(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def ends(writer: asyncio.StreamWriter) -> None:
    """The stream ends as if it was complete."""
    writer.write(b"0\r\n\r\n")


async def stalls(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def dies(writer: asyncio.StreamWriter) -> None:
    """As vLLM's server says that its core is dead."""
    writer.write(http_chunk(DEAD) + http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def in_a_frame(writer: asyncio.StreamWriter) -> None:
    writer.write(http_chunk(b'data: {"id":"x","choi'))
    await writer.drain()
    writer.close()


@dataclass
class Cut:
    """What becomes of one stream: so many frames, then its end."""

    frames: int
    end: End = breaks


@dataclass
class Fleet:
    """A gateway over two such engines; `cuts` are for the next requests that generate."""

    run: RunningGateway
    engines: list[FakeEngine]
    cuts: deque[Cut] = field(default_factory=deque)
    heeds: bool = True
    """Whether the engines' chat template lets an answer be gone on with."""
    frames: list[bytes] = field(default_factory=list)
    """Those of the last stream that was asked for."""

    @property
    def asked(self) -> list[Request]:
        """The generating requests that reached an engine."""
        return [one for engine in self.engines for one in engine.requests if one.target in GENERATING]


@asynccontextmanager
async def cut_fleet(
    dialect: str,
    *,
    replicas: int = 2,
    settings: dict[str, Any] | None = None,
    pool: dict[str, Any] | None = None,
    **tables: Any,
) -> AsyncIterator[Fleet]:
    """Engines of one dialect whose answers are those of one simulated engine; `pool`: more settings of theirs."""
    async with AsyncExitStack() as stack:
        simulated = SimulatorSettings(
            **{"dialect": dialect, "model": MODEL, "speed": 1000.0, "default_output_tokens": 8, **(settings or {})}
        )
        url = await stack.enter_async_context(serving(simulated))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False, timeout=20))
        engines = [await stack.enter_async_context(fake_engine()) for _ in range(replicas)]
        urls = [engine.url for engine in engines]
        pool = {"name": "p", "engine": dialect, "model": MODEL, "replicas": urls, **(pool or {})}
        for engine in engines:
            engine.pages["/v1/models"] = response(models(MODEL))
        run = await stack.enter_async_context(gateway_of([pool], **tables))
        fleet = Fleet(run, engines)
        for engine in engines:
            engine.answer = _passing(http, fleet)
        yield fleet


def _passing(http: httpx.AsyncClient, fleet: Fleet) -> Answer:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        headers = {name: value for name, value in request.headers.items() if name in ("x-request-id", "content-type")}
        body = request.body
        if not fleet.heeds and b'"continue_final_message"' in body:  # as vLLM's own tokenizers of DeepSeek do
            fields = json.loads(body)
            flags = ("continue_final_message", "add_generation_prompt")
            body = json.dumps({name: value for name, value in fields.items() if name not in flags}).encode()
        got = await http.request(request.method, request.target, content=body, headers=headers)
        kind = got.headers.get("content-type", "")
        if not fleet.heeds and request.target == "/tokenize" and b'"role":"assistant"' in body.replace(b" ", b""):
            read = got.json()
            got = httpx.Response(200, json={**read, "tokens": [*read["tokens"], 7]})  # the answer is over
        if not kind.startswith("text/event-stream"):
            writer.write(response(got.content, got.status_code, kind))
            return
        fleet.frames = [frame + b"\n\n" for frame in got.content.split(b"\n\n") if frame]
        cut = fleet.cuts.popleft() if fleet.cuts else None
        writer.write(chunked_head())
        for frame in fleet.frames if cut is None else fleet.frames[: cut.frames]:
            writer.write(http_chunk(frame))
            await writer.drain()
        await (ends(writer) if cut is None else cut.end(writer))

    return answer
