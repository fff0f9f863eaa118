"""A scripted engine: a raw socket that records the bytes it gets and answers with the bytes it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Request:
    """`headers` by lower-case name; `head` is the request line and the headers as they came; `connection` counts."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    head: bytes = b""
    connection: int = 0


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def response(body: bytes, status: int = 200, content_type: str = "application/json", extra: str = "") -> bytes:
    """A whole response; `extra` are further header lines, each with its \r\n."""
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\n{extra}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def models(*names: str) -> bytes:
    """The `/v1/models` page of an engine that serves these."""
    cards = [{"id": name, "object": "model", "max_model_len": 8192} for name in names]
    return json.dumps({"object": "list", "data": cards}).encode()


MODELS = models("m")


def chunked_head(content_type: str = "text/event-stream", extra: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{extra}transfer-encoding: chunked\r\n\r\n".encode()


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

POLLED = (
    *("/health", "/v1/models", "/metrics", "/version", "/server_info", "/get_server_info"),
    *("/v1/loads", "/get_load", "/kv_event_sources"),
)
"""What the dialects look at; it is answered from `pages`, and with 404 where there is none."""


def _pages() -> "dict[str, bytes | Answer]":
    return {"/health": response(b""), "/metrics": response(b""), "/v1/models": response(MODELS)}


@dataclass
class FakeEngine:
    """Answers the polls of a healthy engine; all other requests go to `answer`, but aborts are only noted."""

    answer: Answer
    pages: dict[str, bytes | Answer] = field(default_factory=_pages)
    """What the polls are answered, by path: whole responses, or scripts."""
    requests: list[Request] = field(default_factory=list)
    aborts: list[Request] = field(default_factory=list)
    polls: list[Request] = field(default_factory=list)
    connections: int = 0
    url: str = ""
    port: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request has arrived whole."""
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an abort call has arrived."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the gateway breaks off a connection on which an answer was being given."""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        connection = self.connections
        self._writers.add(writer)
        early: bytes | None = b""  # of the next request, read while watching for the end of the connection
        try:
            while early is not None and (request := await read_request(reader, early)) is not None:
                request.connection = connection
                early = await self._give(self._choose(request), request, reader, writer)
                await writer.drain()
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    def _choose(self, request: Request) -> Answer:
        """Note the request and choose the answer to it."""
        page = request.target.partition("?")[0]
        if request.method == "GET" and page in POLLED:
            self.polls.append(request)
            answer = self.pages.get(page, response(b'{"detail":"Not Found"}', 404))
            return written(answer) if isinstance(answer, bytes) else answer
        if page == "/abort_request":
            self.aborts.append(request)
            self.aborted.set()
            return written(response(b""))
        self.requests.append(request)
        self.arrived.set()
        return self.answer

    async def _give(
        self, answer: Answer, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """Answer while watching the connection: None when it was closed, else what has come of the next request."""
        answering = asyncio.ensure_future(answer(request, writer))
        watching = asyncio.ensure_future(reader.read(1))
        await asyncio.wait((answering, watching), return_when=asyncio.FIRST_COMPLETED)
        if watching.done() and (watching.exception() or not watching.result()):
            answering.cancel()
            [ended] = await asyncio.gather(answering, return_exceptions=True)
            if isinstance(ended, (asyncio.CancelledError, ConnectionError)):
                self.left.set()
            return None
        await answering
        if watching.done():
            return watching.result()
        watching.cancel()
        await asyncio.wait((watching,))
        return b""

    def break_connections(self) -> None:
        """Close every open connection, as a server does that restarts."""
        for writer in list(self._writers):
            writer.close()


async def read_request(reader: asyncio.StreamReader, early: bytes = b"") -> Request | None:
    try:
        head = early + await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, target, headers, body, head)


def written(data: bytes) -> Answer:
    """Exactly these bytes; the connection stays."""

    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


def whole(
    body: bytes = COMPLETION, status: int = 200, content_type: str = "application/json", extra: str = ""
) -> Answer:
    """A plain response."""
    return written(response(body, status, content_type, extra))


def stream(*pieces: bytes, complete: bool = True, extra: str = "") -> Answer:
    """A chunked stream of the pieces; without `complete` the connection breaks off after them."""

    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked_head(extra=extra))
        for piece in pieces:
            writer.write(http_chunk(piece))
            await writer.drain()
            await asyncio.sleep(0)
        if complete:
            writer.write(b"0\r\n\r\n")
        else:
            writer.close()

    return answer


def held_stream(gate: asyncio.Event, *before: bytes, after: tuple[bytes, ...] = ()) -> Answer:
    """A chunked stream of `before`, then, once the gate opens, of `after`."""

    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked_head())
        for piece in before:
            writer.write(http_chunk(piece))
        await writer.drain()
        await gate.wait()
        for piece in after:
            writer.write(http_chunk(piece))
        writer.write(b"0\r\n\r\n")

    return answer


def raw(data: bytes) -> Answer:
    """Exactly these bytes, then the connection ends."""

    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return answer


def reset() -> Answer:
    """The connection is reset before a byte of the answer."""

    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    return answer


def silence() -> Answer:
    """Nothing, for longer than any test runs."""

    async def answer(_request: Request, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    return answer


def in_turn(*answers: Answer) -> Answer:
    """The first answer to the first request, and so on; the last one goes on."""
    turns: Iterator[Answer] = iter(answers)

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        await next(turns, answers[-1])(request, writer)

    return answer


def by_call(answers: Mapping[str, Answer]) -> Answer:
    """Answers by method and target, such as `POST /v1/responses`; 404 for all others."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        await answers.get(f"{request.method} {request.target}", whole(b'{"detail":"Not Found"}', 404))(request, writer)

    return answer


@asynccontextmanager
async def fake_engine(answer: Answer | None = None, *, port: int = 0) -> AsyncIterator[FakeEngine]:
    """A running engine, by default one that answers each request with COMPLETION."""
    engine = FakeEngine(answer or whole())
    server = await asyncio.start_server(engine.serve, "127.0.0.1", port, limit=64 << 20)
    engine.port = server.sockets[0].getsockname()[1]
    engine.url = f"http://127.0.0.1:{engine.port}"
    try:
        yield engine
    finally:
        server.close()
        engine.break_connections()
        await asyncio.sleep(0)
