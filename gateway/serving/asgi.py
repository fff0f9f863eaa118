"""The ASGI front end of the hot path: reads bodies, writes answers, notices clients who leave; does I/O."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from gateway.errors import GatewayError, Origin, bad_request
from gateway.serving.exchange import Exchange
from gateway.serving.gateway import Gateway
from gateway.serving.headers import HeaderList, first
from gateway.wire.request import Endpoint

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

ENDPOINTS: Final = {str(endpoint): endpoint for endpoint in Endpoint}

_log: Final = logging.getLogger("prefixgate")


class AsgiClient:
    """The client's connection, as ASGI gives it."""

    def __init__(self, send: Send) -> None:
        self.gone = False
        self.started = False
        self._send = send

    async def start(self, status: int, headers: HeaderList) -> None:
        """Send the response's head."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        """Send bytes of the body; waits while the client is slow."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End the body."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class ClientLeftError(Exception):
    """The client closed its connection before its request was whole."""


async def serve_inference(gateway: Gateway, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one inference request."""
    client = AsgiClient(send)
    exchange = Exchange(gateway, endpoint, scope["headers"], client, gateway.clock())
    try:
        await _serve(gateway, exchange, client, scope, receive)
    finally:
        exchange.close()


async def _serve(gateway: Gateway, exchange: Exchange, client: AsgiClient, scope: Scope, receive: Receive) -> None:
    try:
        body = await _read_body(receive, scope["headers"], gateway.config.server.max_body_bytes)
    except ClientLeftError:
        client.gone = True
        return
    except GatewayError as error:
        await exchange.refuse(error)
        return
    watch = asyncio.create_task(_watch(receive, client, asyncio.current_task()))
    try:
        await exchange.run(body)
    except asyncio.CancelledError:
        if not client.gone:
            raise
    except Exception:  # the one border: a bug of ours must not show itself to the client
        _log.exception("request %s failed inside the gateway", exchange.request_id)
        await _internal_error(client, exchange.request_id)
    finally:
        watch.cancel()


async def _read_body(receive: Receive, headers: HeaderList, limit_bytes: int) -> bytes:
    """The request's whole body. Raises GatewayError when it is too long or encoded, ClientLeftError."""
    declared = first(headers, b"content-length")
    if declared is not None and int(declared) > limit_bytes:
        raise _too_long(limit_bytes)
    if first(headers, b"content-encoding") not in (None, b"identity"):
        raise bad_request("request bodies must not be compressed (content-encoding)", status=415)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        part = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise _too_long(limit_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_long(limit_bytes: int) -> GatewayError:
    message = f"the request body is longer than {limit_bytes} bytes ([server] max_body_bytes)"
    return bad_request(message, code="request_too_large", status=413)


async def _watch(receive: Receive, client: AsgiClient, task: "asyncio.Task[Any] | None") -> None:
    """Cancel the request's task when its client leaves: the engine's connection then closes at once."""
    while (await receive())["type"] != "http.disconnect":
        pass
    client.gone = True
    if task is not None:
        task.cancel()


async def _internal_error(client: AsgiClient, request_id: str) -> None:
    message = f"the gateway failed on this request; quote {request_id} when you report it"
    error = GatewayError(message, status=500, origin=Origin.GATEWAY, type="internal_error")
    if client.started:
        await client.write(error.sse_frame())
    else:
        body = error.body()
        await client.start(500, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))])
        await client.write(body)
    await client.end()
