"""The gateway's two ports: inference is served on the hot path, all else by FastAPI; does I/O."""

import logging
from typing import Final

from fastapi import FastAPI

from gateway.errors import GatewayError, bad_request
from gateway.serving.access import OPEN_PATHS, identify, unknown_key
from gateway.serving.admin_guard import AdminGuard, cross_site, is_of_admin
from gateway.serving.exchange import Exchange
from gateway.serving.front.answer import Answer
from gateway.serving.front.asgi import serve_asgi
from gateway.serving.front.port import Port, internal_error
from gateway.serving.front.request import HttpRequest
from gateway.serving.gateway import Gateway
from gateway.serving.openapi import describe
from gateway.serving.stored_responses import serve_stored, stored_response_id
from gateway.wire.request import Endpoint

_ENDPOINTS: Final = {str(endpoint): endpoint for endpoint in Endpoint}
_log: Final = logging.getLogger("prefixgate")


class FrameworkPort(Port):
    """A port whose requests are all FastAPI's."""

    def __init__(self, gateway: Gateway, app: FastAPI, guard: AdminGuard | None = None) -> None:
        config = gateway.config
        super().__init__(config.timeouts, config.server.max_body_bytes, gateway.clock, config.server.max_connections)
        self.app = app
        self._guard = guard

    def refusal(self, request: HttpRequest) -> GatewayError | None:
        """Why a request whose head is known needs no body."""
        refusal = cross_site(request) if request.path not in _ENDPOINTS else None
        if refusal is None and self._guard is not None:
            refusal = self._guard.refusal(request)
        return refusal or super().refusal(request)

    async def serve(self, request: HttpRequest, answer: Answer) -> None:
        """Answer a request."""
        if request.refusal is not None:
            answer.error(request.refusal)
            return
        try:
            await serve_asgi(self.app, request, answer)
        except Exception:  # the other border; FastAPI has mostly answered by then
            _log.exception("%s %s failed inside the gateway", request.method, request.path)
            if not answer.started:
                answer.error(internal_error("its time"))


class MainPort(FrameworkPort):
    """Inference past the framework, and everything else to it."""

    def __init__(
        self, gateway: Gateway, app: FastAPI, guard: AdminGuard | None = None, *, has_admin: bool = False
    ) -> None:
        """`has_admin`: the admin API is on this port too."""
        super().__init__(gateway, app, guard)
        self._gateway = gateway
        describe(app)
        self._has_admin = has_admin

    async def serve(self, request: HttpRequest, answer: Answer) -> None:
        """Answer a request."""
        path = request.path
        if request.method == "POST" and (endpoint := _ENDPOINTS.get(path)) is not None:
            await self._serve_inference(endpoint, request, answer)
        elif request.refusal is None and (response_id := stored_response_id(request.method, path)) is not None:
            await serve_stored(self._gateway, response_id, request, answer)
        else:
            await super().serve(request, answer)

    async def _serve_inference(self, endpoint: Endpoint, request: HttpRequest, answer: Answer) -> None:
        exchange = Exchange(self._gateway, endpoint, request, answer)
        try:
            if request.refusal is not None:
                exchange.refuse(request.refusal)
            else:
                await exchange.run()
        except Exception:  # the one border: a bug of ours must not show itself to the client
            _log.exception("request %s failed inside the gateway", exchange.request_id)
            answer.error(internal_error(exchange.request_id))
        finally:
            exchange.close()

    def refusal(self, request: HttpRequest) -> GatewayError | None:
        """Why a request whose head is known needs no body."""
        tenancy = self._gateway.tenancy
        if tenancy is not None:
            request.tenant = identify(tenancy, request.fields)
            if request.tenant is None and self._needs_key(request.path):
                return unknown_key(request.fields, request.path)
        if request.fields.get(b"content-encoding", b"identity") != b"identity":
            return bad_request("request bodies must not be compressed (content-encoding)", status=415)
        return super().refusal(request)

    def _needs_key(self, path: str) -> bool:
        return path not in OPEN_PATHS and not (self._has_admin and is_of_admin(path))

    def abandoned(self, request: HttpRequest, answer: Answer) -> None:
        """The client left before its request was whole: that counts where it was for inference."""
        endpoint = _ENDPOINTS.get(request.path)
        if request.method == "POST" and endpoint is not None:
            Exchange(self._gateway, endpoint, request, answer).close()
