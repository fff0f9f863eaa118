"""Serves a simulated engine over HTTP, alone until a signal or beside a test; does I/O."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress

import uvicorn
import zmq
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from engines.simulated.answers import json_response
from engines.simulated.breakage import Protocol
from engines.simulated.face import Face
from engines.simulated.service import EngineService
from engines.simulated.settings import SIMULATED_HEADER, SimulatorSettings
from engines.simulated.sglang_face import SglangFace
from engines.simulated.vllm_face import VllmFace

__all__ = ["SimulatorSettings", "create_app", "run", "serving"]

_SHUTDOWN_GRACE_S = 2
_VLLM_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
_SGLANG_OPEN = ("/health", "/ready", "/metrics")


def create_app(settings: SimulatorSettings) -> Starlette:
    """The ASGI application; the engine runs for as long as the application's lifespan."""
    service = EngineService(settings)
    face: Face = VllmFace(settings, service) if settings.dialect == "vllm" else SglangFace(settings, service)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(service.running())
            except zmq.ZMQError as error:  # a port of the KV events is taken
                app.state.start_error = error
                raise
            yield

    app = Starlette(routes=face.routes(), lifespan=lifespan, exception_handlers={HTTPException: _say_detail})
    if settings.api_key is not None:
        app.add_middleware(_KeyGuard, settings=settings)
    app.state.service = service
    return app


@asynccontextmanager
async def serving(settings: SimulatorSettings) -> AsyncIterator[str]:
    """Serve in the running event loop; yields the base URL, without a slash at the end."""
    # The protocol is named because asyncio switches Nagle off only for sockets that say TCP.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError:
        listener.close()
        raise
    app = create_app(settings)
    server = _Server(app, settings)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await server.begun.wait()
        if not server.started:
            error = app.state.start_error
            raise RuntimeError(f"the simulated engine did not start: {error}") from error
        yield f"http://{settings.host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


def run(settings: SimulatorSettings, announce: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way within two seconds. `announce` gets the URL."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve_until_signal(settings, announce))


async def _serve_until_signal(settings: SimulatorSettings, announce: Callable[[str], None] | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), settings.start_s)
        return  # told to end while it loads
    async with serving(settings) as url:
        if announce is not None:
            announce(url)
        await stop.wait()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    if sys.platform == "win32":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


class _Server(uvicorn.Server):
    """A server that leaves the signals to whoever started it, and says when it has begun (or failed to)."""

    def __init__(self, app: Starlette, settings: SimulatorSettings) -> None:
        config = uvicorn.Config(
            app,
            http=Protocol,
            lifespan="on",
            log_level="error",
            access_log=False,
            headers=[(SIMULATED_HEADER, settings.label)],
            timeout_graceful_shutdown=_SHUTDOWN_GRACE_S,
        )
        super().__init__(config)
        self.begun = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets=sockets)
        except SystemExit:  # the application did not start; an exit from a task would end the whole loop
            self.should_exit = True
        finally:
            self.begun.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _say_detail(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's signature
    """404 and 405 as FastAPI says them, which is what both engines are made with."""
    if not isinstance(error, HTTPException):
        raise error
    return json_response({"detail": error.detail}, error.status_code)


class _KeyGuard:
    """Lets only requests with the key through, on the paths that the dialect guards."""

    def __init__(self, app: ASGIApp, settings: SimulatorSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_guarded(scope["path"]):
            key = f"Bearer {self._settings.api_key}".encode()
            if dict(scope["headers"]).get(b"authorization") != key:
                await json_response({"error": "Unauthorized"}, 401)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_guarded(self, path: str) -> bool:
        if self._settings.dialect == "vllm":
            return path.startswith(_VLLM_GUARDED)
        return not path.startswith(_SGLANG_OPEN)
