"""Serves a request by an ASGI app: everything that is not hot is FastAPI's; does I/O."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from gateway.serving.front.answer import Answer
from gateway.serving.front.request import HttpRequest
from gateway.serving.headers import HeaderList

Message = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_OURS: Final = (b"content-length", b"transfer-encoding", b"connection", b"date")


async def serve_asgi(app: App, request: HttpRequest, answer: Answer) -> None:
    """One request through `app` (ASGI 3.0, HTTP only). Its task is cancelled when the client leaves."""
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if asked:
            await asyncio.get_running_loop().create_future()  # until the task is cancelled
        asked = True
        return {"type": "http.request", "body": request.body, "more_body": False}

    status, headers = 500, HeaderList()

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message["headers"])
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if answer.started:
            answer.write(body)
        else:
            declared = next((int(value) for name, value in headers if name == b"content-length"), None)
            length = len(body) if declared is None and not more else declared
            answer.start(status, [pair for pair in headers if pair[0] not in _OURS], body, length)
        if not more:
            answer.end()
        await answer.drained()

    await app(_scope(request), receive, send)


def _scope(request: HttpRequest) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.0" if request.http_1_0 else "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.raw_path,
        "query_string": request.query,
        "root_path": "",
        "headers": request.headers,
        "client": None,
        "server": None,
        "state": {"tenant": request.tenant},
    }
