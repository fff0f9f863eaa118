"""FastAPI, set up so that every answer that is not on the hot path has our shape; does I/O."""

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gateway import __version__
from gateway.errors import GatewayError, Origin, bad_request
from gateway.serving.gateway import Gateway
from gateway.serving.json_response import json_response


def _gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


TheGateway = Annotated[Gateway, Depends(_gateway_of)]
"""The gateway that a route belongs to."""


def framework(gateway: Gateway, *routers: APIRouter) -> FastAPI:
    """An app of the routers that answers every error in OpenAI's shape."""
    app = FastAPI(title="prefixgate", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.gateway = gateway
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(GatewayError, _gateway_error)
    app.add_exception_handler(Exception, _bug)
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = {404: f"there is no {request.url.path} here", 405: f"{request.url.path} does not take {request.method}"}
    answer = _answer(bad_request(message.get(status, str(error)), status=status))
    answer.headers.update((error.headers or {}) if isinstance(error, HTTPException) else {})  # such as Allow
    return answer


async def _validation_error(_request: Request, error: Exception) -> Response:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    words = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems)
    return _answer(bad_request(words or "the request is not valid"))


async def _gateway_error(_request: Request, error: Exception) -> Response:
    return _answer(error) if isinstance(error, GatewayError) else await _bug(_request, error)


async def _bug(_request: Request, _error: Exception) -> Response:
    message = "the gateway failed on this request; its log says more"
    return _answer(GatewayError(message, status=500, origin=Origin.GATEWAY, type="internal_error"))


def _answer(error: GatewayError) -> Response:
    return json_response(error.body(), error.status)
