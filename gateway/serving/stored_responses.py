"""Calls about a stored Responses object, sent to the replica that holds it; does I/O."""

from urllib.parse import quote

from gateway.errors import GatewayError, Origin, bad_request
from gateway.routing.facts import ResponseStored
from gateway.serving import headers as header_rules
from gateway.serving.asgi import AsgiClient, Scope, Send
from gateway.serving.engine_client import EngineGoneError, EngineResponse
from gateway.serving.gateway import Backend, Gateway
from gateway.serving.relay import lost


async def serve_stored(gateway: Gateway, response_id: str, scope: Scope, send: Send) -> None:
    """`GET|DELETE /v1/responses/{id}` and `POST /v1/responses/{id}/cancel`."""
    client = AsgiClient(send)
    request_id = header_rules.request_id(scope["headers"])
    try:
        backend = await _holder(gateway, response_id)
        response = await _send(gateway, backend, scope["method"], _target(scope), scope["headers"])
    except GatewayError as error:
        body = error.body()
        headers = header_rules.for_client([(b"content-type", b"application/json")], request_id, None)
        await client.start(error.status, [*headers, (b"content-length", b"%d" % len(body))])
        await client.write(body)
        await client.end()
        return
    try:
        who = [(b"x-prefixgate-pool", backend.pool.encode()), (b"x-prefixgate-replica", backend.name.encode())]
        await client.start(response.status, header_rules.for_client(response.headers, request_id, None) + who)
        while chunk := await response.read():
            await client.write(chunk)
    except EngineGoneError as error:
        await client.write(_broken(backend, error).sse_frame())
    finally:
        response.close()
    await client.end()


async def _holder(gateway: Gateway, response_id: str) -> Backend:
    """The replica that holds the response: as remembered, else as the replicas say when asked one by one."""
    known = gateway.router.holder(response_id)
    if known is not None:
        return gateway.backends[known]
    for backend in gateway.backends.values():
        try:
            response = await gateway.engines.send(
                backend.url, "GET", f"/v1/responses/{quote(response_id, safe='')}", list(backend.credentials)
            )
        except EngineGoneError:
            continue
        response.close()
        if response.status == 200:
            gateway.observe(ResponseStored(backend.name, gateway.clock(), response_id))
            return backend
    raise bad_request(f"no replica holds the response `{response_id}`", "response_id", "response_not_found", 404)


async def _send(
    gateway: Gateway, backend: Backend, method: str, target: str, headers: header_rules.HeaderList
) -> EngineResponse:
    try:
        sent = header_rules.for_engine(headers, list(backend.credentials))
        return await gateway.engines.send(backend.url, method, target, sent)
    except EngineGoneError as error:
        raise _broken(backend, error) from error


def _broken(backend: Backend, error: EngineGoneError) -> GatewayError:
    told = lost(error).error
    return GatewayError(f"{backend.name}: {error}", status=told.status, origin=Origin.ENGINE, type=told.type)


def _target(scope: Scope) -> str:
    query: bytes = scope["query_string"]
    path: bytes = scope["raw_path"]
    return (path + b"?" + query if query else path).decode("latin-1")
