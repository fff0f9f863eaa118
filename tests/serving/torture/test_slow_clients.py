"""Who takes too long is cut off within the limit, who is merely slow is waited for, and nobody else notices."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from fake_engine import COMPLETION, DONE, Request, chunked_head, fake_engine, frame, http_chunk, silence, whole
from gateways import at_rest, chat, chat_bytes, gateway_over, open_connections, outcomes, post, until
from raw_client import RawClient, post_head, raw_client

from gateway.serving.server import RunningGateway

BODY = chat_bytes()
SHORT = {"client_head_s": 0.3, "client_body_s": 0.3, "client_idle_s": 0.3}
LATE = (408, "request_timeout")
PIECE = frame("x" * 65_000)
PIECES = 800


async def dribble(http: RawClient, data: bytes) -> None:
    """A byte now and then, for longer than any limit."""
    with contextlib.suppress(ConnectionError):
        for byte in data * 1000:
            await http.send(bytes([byte]))
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def dribbling(http: RawClient, data: bytes) -> AsyncIterator[None]:
    task = asyncio.create_task(dribble(http, data))
    yield
    task.cancel()


async def others_are_served(run: RunningGateway, until_over: asyncio.Task[None]) -> None:
    while not until_over.done():
        assert (await post(run, chat())).content == COMPLETION
        await asyncio.sleep(0.05)
    until_over.result()


async def test_a_head_that_does_not_end() -> None:
    async def one(http: RawClient) -> None:
        await http.send(b"POST /v1/chat/completions HTTP/1.1\r\nx-long: ")
        async with dribbling(http, b"x"):
            assert await http.error() == LATE

    await cut_off_in_time(one)


async def test_a_body_that_does_not_end() -> None:
    async def declared(http: RawClient) -> None:
        await http.send(post_head(10_000))
        async with dribbling(http, b"x"):
            assert await http.error() == LATE

    async def in_chunks(http: RawClient) -> None:
        await http.send(post_head(None))
        async with dribbling(http, b"1\r\nx\r\n"):
            assert await http.error() == LATE

    async def asked_for(http: RawClient) -> None:
        await http.send(post_head(10_000, expect="100-continue"))
        assert (await http.head())[0] == 100
        assert await http.error() == LATE

    await cut_off_in_time(declared, in_chunks, asked_for)


async def test_nothing_that_is_a_request() -> None:
    async def silent(http: RawClient) -> None:
        assert await http.rest() == b""

    async def empty_lines(http: RawClient) -> None:
        async with dribbling(http, b"\r\n"):
            with contextlib.suppress(ConnectionResetError):  # it was still sending
                assert await http.rest() == b""

    await cut_off_in_time(silent, empty_lines)


async def test_nothing_more_after_an_answer() -> None:
    async def idle(http: RawClient) -> None:
        await http.post(BODY)
        assert (await http.answer())[2] == COMPLETION
        assert await http.rest() == b""

    async def half_of_the_next(http: RawClient) -> None:
        await http.send(post_head(len(BODY)) + BODY + post_head(len(BODY)) + BODY[:9])
        assert (await http.answer())[2] == COMPLETION
        assert await http.error() == LATE

    await cut_off_in_time(idle, half_of_the_next)


async def cut_off_in_time(*clients) -> None:  # type: ignore[no-untyped-def]
    """Each of them, with its own connection, while others are served."""

    async def each(run: RunningGateway) -> None:
        for one in clients:
            async with raw_client(run.url) as http:
                await one(http)

    async with fake_engine() as engine, gateway_over(engine.url, timeouts=SHORT) as run:
        await others_are_served(run, asyncio.create_task(each(run)))
        await until(lambda: at_rest(run))


async def test_many_at_once_are_all_gone_after_the_limit() -> None:
    async with (
        fake_engine() as engine,
        gateway_over(engine.url, timeouts=SHORT) as run,
        contextlib.AsyncExitStack() as stack,
    ):
        slow = [await stack.enter_async_context(raw_client(run.url)) for _ in range(200)]
        for number, http in enumerate(slow):
            await http.send((post_head(99) + b"{")[: number % 120])
        await until(lambda: open_connections(run) >= 100)
        assert (await post(run, chat())).content == COMPLETION
        for http in slow:
            told = await http.rest()
            assert told == b"" or told.startswith(b"HTTP/1.1 408")
        for http in slow:
            http.writer.close()
        await until(lambda: at_rest(run))
        assert (await post(run, chat())).content == COMPLETION


async def test_a_long_body_that_comes_slowly_but_in_time() -> None:
    body = chat_bytes("x" * 15_000_000)
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.send(post_head(len(body)))
        for at in range(0, len(body), 200_000):
            await http.send(body[at : at + 200_000])
            await asyncio.sleep(0.002)
        assert (await http.answer())[2] == COMPLETION
        assert engine.requests[0].body == body


class Flood:
    """An engine that streams 50 MB as fast as it is let, and counts what it could send."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, _request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked_head())
        for _ in range(PIECES):
            writer.write(http_chunk(PIECE))
            await writer.drain()
            self.sent += 1
        writer.write(http_chunk(DONE) + b"0\r\n\r\n")

    async def stalled(self) -> None:
        """Wait until it can send no more."""
        before = -1
        while before != self.sent:
            before = self.sent
            await asyncio.sleep(0.3)


@contextlib.asynccontextmanager
async def narrow_client(run: RunningGateway) -> AsyncIterator[RawClient]:
    """A client for which the kernel keeps little."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", int(run.url.rpartition(":")[2])))
    reader, writer = await asyncio.open_connection(sock=narrow)
    yield RawClient(reader, writer)
    writer.close()


async def test_a_stream_that_is_not_read_is_not_taken_from_the_engine_and_then_comes_whole() -> None:
    flood = Flood()
    async with fake_engine(flood) as engine, gateway_over(engine.url) as run, narrow_client(run) as http:
        await http.post(chat_bytes(stream=True))
        _, headers = await http.head()
        await flood.stalled()
        assert 0 < flood.sent < PIECES // 2  # the rest is what kernels keep
        [connection] = run._servers[0].server_state.connections
        assert connection._transport.get_write_buffer_size() < 1_000_000
        [upstream] = [one for one in run.gateway.engines._open if one._busy]
        assert upstream._buffered < 1_000_000
        engine.answer = Flood()
        assert (await post(run, chat(stream=True))).content.endswith(DONE)  # others are served meanwhile
        assert await http.body(headers) == PIECE * PIECES + DONE
        assert outcomes(run) == {"completed": 2}


async def test_who_takes_nothing_for_too_long_is_cut_off() -> None:
    flood = Flood()
    timeouts = {"client_body_s": 0.5}
    async with fake_engine(flood) as engine, gateway_over(engine.url, timeouts=timeouts) as run:
        async with narrow_client(run) as http:
            await http.post(chat_bytes(stream=True))
            await http.head()
            await engine.left.wait()
            await until(lambda: at_rest(run))
        assert flood.sent < PIECES
        assert outcomes(run) == {"client_gone": 1}


async def test_who_takes_its_time_but_goes_on_is_not() -> None:
    timeouts = {"client_body_s": 0.5, "idle_s": 0.5}
    async with fake_engine(Flood()) as engine, gateway_over(engine.url, timeouts=timeouts) as run:
        async with narrow_client(run) as http:
            await http.post(chat_bytes(stream=True))
            await http.head()
            received = 0
            while received < 40_000_000:
                received += len(await http.reader.readexactly(1_000_000))
                await asyncio.sleep(0.04)
            last = b""
            while not last.endswith(b"0\r\n\r\n"):
                last = last[-9:] + await http.reader.read(1_000_000)
        await until(lambda: outcomes(run) == {"completed": 1})


async def test_a_whole_answer_that_is_not_taken() -> None:
    reply = b'{"a":"%b"}' % (b"x" * 30_000_000)
    timeouts = {"client_body_s": 0.5}
    for closing in ({}, {"connection": "close"}):
        async with fake_engine() as engine, gateway_over(engine.url, timeouts=timeouts) as run:
            engine.answer = whole(reply)
            async with narrow_client(run) as http:
                await http.send(post_head(len(BODY), **closing) + BODY)
                await until(lambda run=run: outcomes(run) == {"completed": 1})
                await until(lambda run=run: at_rest(run))


async def test_an_engine_that_is_slow_holds_up_nobody_else() -> None:
    async with (
        fake_engine(silence()) as slow,
        fake_engine() as quick,
        gateway_over(slow.url, quick.url) as run,
        raw_client(run.url) as waiting,
    ):
        await waiting.post(BODY, x_prefixgate_replica="p-0")
        await slow.arrived.wait()
        for _ in range(20):
            answer = await post(run, chat(), headers={"x-prefixgate-replica": "p-1"})
            assert answer.content == COMPLETION
