"""A scripted engine: a raw socket that records the bytes it gets and answers with the bytes it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

MODELS = json.dumps({"object": "list", "data": [{"id": "m", "object": "model", "max_model_len": 8192}]}).encode()


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def response(body: bytes, status: int = 200, content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def chunked_head(content_type: str = "text/event-stream") -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n".encode()


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame(content: str, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def usage_frame(prompt: int, cached: int | None) -> bytes:
    details = None if cached is None else {"cached_tokens": cached}
    usage = {"prompt_tokens": prompt, "completion_tokens": 2, "total_tokens": prompt + 2}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}
    return b"data: " + json.dumps({**chunk, "usage": {**usage, "prompt_tokens_details": details}}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"

COMPLETION = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 1,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
).encode()


@dataclass
class FakeEngine:
    """Answers the polls of a healthy vLLM; POSTs go to `answer`."""

    answer: Answer
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    url: str = ""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the gateway breaks off a connection on which an answer was being given."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (request := await read_request(reader)) is not None:
                if request.method == "GET" and request.target in ("/health", "/v1/models", "/metrics", "/version"):
                    writer.write(response(MODELS if request.target == "/v1/models" else b""))
                else:
                    self.requests.append(request)
                    task = asyncio.ensure_future(self.answer(request, writer))
                    gone = asyncio.ensure_future(_closed(reader))
                    await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
                    if not task.done():
                        self.left.set()
                        task.cancel()
                        return
                    gone.cancel()
                    await asyncio.gather(gone, return_exceptions=True)
                    task.result()
                await writer.drain()
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()


async def _closed(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof():
        if reader._buffer:  # the next request is waiting: not closed
            await asyncio.sleep(3600)
        await asyncio.sleep(0.005)
        if reader.exception() is not None:
            return


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, target, headers, body)


def whole(body: bytes = COMPLETION, status: int = 200, content_type: str = "application/json") -> Answer:
    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(body, status, content_type))

    return answer


def stream(*pieces: bytes, gap_s: float = 0.0, complete: bool = True) -> Answer:
    """A chunked stream of the pieces; without `complete` the connection breaks off after them."""

    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked_head())
        for piece in pieces:
            writer.write(http_chunk(piece))
            await writer.drain()
            await asyncio.sleep(gap_s)
        if complete:
            writer.write(b"0\r\n\r\n")
        else:
            writer.close()

    return answer


def raw(data: bytes) -> Answer:
    """Exactly these bytes, then the connection ends."""

    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return answer


def silence() -> Answer:
    """Nothing, for longer than any test runs."""

    async def answer(_request: Request, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    return answer


@asynccontextmanager
async def fake_engine(answer: Answer) -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(answer)
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, limit=64 << 20)
    engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield engine
    finally:
        server.close()
