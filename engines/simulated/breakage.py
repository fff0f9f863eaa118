"""How an answer goes wrong on the wire: silence, a connection that breaks, bytes that are not what they should be; I/O.

An ASGI application cannot do most of this, so the server's protocol hands it the connection (`TRANSPORT`).
"""

import asyncio
import socket
import struct
from typing import Final, cast

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engines.simulated.faults import Fault

TRANSPORT: Final = "simulated.transport"
_STREAM_HEADERS: Final = [(b"content-type", b"text/event-stream; charset=utf-8")]
_NOT_HTTP: Final = b"\x15\x03\x01\x00\x02\x02\x50 this is no HTTP\r\n\r\n\x00\xff"
_BAD_CHUNK: Final = b"zz\r\nthis is no chunk\r\n"
_BAD_JSON_FRAME: Final = b'data: {"choices": [{"index": 0, "delta": {"content": \n\n'
_NO_SSE: Final = b"<html>502 Bad Gateway</html>\r\n\x00\xff\n"
_NO_JSON: Final = b'{"id": "chatcmpl-1", "choices": [{"index": 0, "mess'


class Protocol(HttpToolsProtocol):
    """uvicorn's, but requests know their connection."""

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: {"transport": self.transport}}


class Instead:
    """An ASGI response that is none: `hang` or `not-http`."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Say nothing until the client leaves, or what is no HTTP."""
        if self._fault.kind == "hang":
            await until_left(receive)
            return
        transport = _transport(scope)
        transport.write(_NOT_HTTP)
        transport.close()


async def break_stream(fault: Fault, scope: Scope, receive: Receive, send: Send, *, started: bool) -> None:
    """Go wrong in a stream, whose head has been sent or not."""
    broken = {"bad-json": _BAD_JSON_FRAME, "broken-sse": _NO_SSE}
    if fault.kind in broken:
        if not started:
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        await send({"type": "http.response.body", "body": broken[fault.kind], "more_body": False})
        return
    if fault.kind == "bad-chunks":
        _transport(scope).write(_BAD_CHUNK if started else _NOT_HTTP)
    await _break_connection(fault, scope, receive)


async def break_body(fault: Fault, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
    """Go wrong in a plain answer, in its middle."""
    headers = [(b"content-type", b"application/json")]
    if fault.kind in ("bad-json", "broken-sse"):
        headers.append((b"content-length", str(len(_NO_JSON)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": _NO_JSON, "more_body": False})
        return
    if fault.kind != "bad-chunks":  # without a length the body comes in chunks
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
    if fault.kind == "bad-chunks":
        _transport(scope).write(_BAD_CHUNK)
    await _break_connection(fault, scope, receive)


async def until_left(receive: Receive) -> None:
    """Wait until the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _break_connection(fault: Fault, scope: Scope, receive: Receive) -> None:
    transport = _transport(scope)
    if fault.kind == "stall":
        await until_left(receive)
    elif fault.kind == "reset":
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing sends RST
        transport.abort()
    else:
        transport.close()


def _transport(scope: Scope) -> asyncio.Transport:
    return cast("asyncio.Transport", scope["extensions"][TRANSPORT]["transport"])
