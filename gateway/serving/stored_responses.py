"""Calls about a stored Responses object, sent to the replica that holds it; does I/O."""

from typing import Final
from urllib.parse import quote

from gateway.errors import GatewayError, Origin, bad_request
from gateway.routing.facts import ResponseStored
from gateway.serving import headers as header_rules
from gateway.serving.access import owned
from gateway.serving.engine_client import EngineGoneError, EngineResponse
from gateway.serving.failure import AttemptLostError, client_error, lost, passable
from gateway.serving.front.answer import Answer
from gateway.serving.front.request import HttpRequest
from gateway.serving.gateway import Backend, Gateway
from gateway.serving.relay import read_error
from gateway.tenancy.tenant import Tenant
from gateway.wire.request import Endpoint

_RESPONSES: Final = "/v1/responses/"


def stored_response_id(method: str, path: str) -> str | None:
    """The id in `GET|DELETE /v1/responses/{id}` and `POST /v1/responses/{id}/cancel`, else None."""
    if not path.startswith(_RESPONSES):
        return None
    name, _, verb = path.removeprefix(_RESPONSES).partition("/")
    known = (verb == "" and method in ("GET", "DELETE")) or (verb == "cancel" and method == "POST")
    return name if name and known else None


async def serve_stored(gateway: Gateway, response_id: str, request: HttpRequest, answer: Answer) -> None:
    """`GET|DELETE /v1/responses/{id}` and `POST /v1/responses/{id}/cancel`."""
    request_id = header_rules.request_id(request.fields)
    try:
        backend = await _holder(gateway, request.tenant, response_id)
        response = await _send(gateway, backend, request)
        if response.status >= 400:
            failure = await _failure(backend, response)
            headers = header_rules.for_client([(b"content-type", b"application/json")], request_id, None)
            answer.error(client_error(failure, Endpoint.RESPONSES, backend.pool), headers, passable(failure))
            return
    except GatewayError as error:
        answer.error(error, header_rules.for_client([(b"content-type", b"application/json")], request_id, None))
        return
    try:
        who = [(b"x-prefixgate-pool", backend.pool.encode()), (b"x-prefixgate-replica", backend.name.encode())]
        answer.start(response.status, header_rules.for_client(response.headers, request_id, None) + who)
        while chunk := await response.read():
            answer.write(chunk)
            await answer.drained()
    except EngineGoneError as error:
        answer.write(_broken(backend, error).sse_frame())
    finally:
        response.close()
    answer.end()


async def _holder(gateway: Gateway, tenant: Tenant | None, response_id: str) -> Backend:
    """The replica that holds the response: as remembered, else as the replicas say when asked one by one.

    They cannot say whose it is: where there are tenants, what is not remembered is nobody's.
    """
    known = gateway.router.holder(owned(tenant, response_id))
    if known is not None:
        return gateway.backends[known]
    for backend in list(gateway.backends.values()) if tenant is None else ():  # some may come or go meanwhile
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
    raise unknown_response(response_id)


def unknown_response(response_id: str) -> GatewayError:
    """What is said of a response that is not here, or not of whoever asks."""
    return bad_request(f"no replica holds the response `{response_id}`", "response_id", "response_not_found", 404)


async def _send(gateway: Gateway, backend: Backend, request: HttpRequest) -> EngineResponse:
    target = request.raw_path + (b"?" + request.query if request.query else b"")
    try:
        sent = header_rules.for_engine(request.headers, list(backend.credentials))
        return await gateway.engines.send(backend.url, request.method, target.decode("latin-1"), sent)
    except EngineGoneError as error:
        raise _broken(backend, error) from error


async def _failure(backend: Backend, response: EngineResponse) -> AttemptLostError:
    try:
        return await read_error(response, backend.dialect, backend.credentials)
    except EngineGoneError as error:
        raise _broken(backend, error) from error
    finally:
        response.close()


def _broken(backend: Backend, error: EngineGoneError) -> GatewayError:
    told = lost(error).error
    return GatewayError(f"{backend.name}: {error}", status=told.status, origin=Origin.ENGINE, type=told.type)
