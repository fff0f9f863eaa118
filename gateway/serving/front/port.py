"""A listening port: what its connections share, and who serves which request; does I/O."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from gateway.config import TimeoutsConfig
from gateway.errors import GatewayError, Origin, bad_request
from gateway.serving.front.answer import Answer
from gateway.serving.front.request import HttpRequest

_SWEEPS_PER_LIMIT: Final = 4


class Connection(Protocol):
    """What a port needs of a connection."""

    deadline: float

    def overdue(self) -> None:
        """The deadline has passed."""


class Port:
    """Connections of one port, with their time limits; one look at all of them costs less than a timer for each."""

    def __init__(
        self, limits: TimeoutsConfig, max_body_bytes: int, clock: Callable[[], float], max_connections: int = 1 << 20
    ) -> None:
        self.configure(limits)
        self.max_body_bytes = max_body_bytes
        self.max_connections = max_connections
        self.clock = clock
        self.loop = asyncio.get_running_loop()
        self.leaving = False
        """The gateway will end: each connection is closed after its next answer, so that clients go elsewhere."""
        self._connections: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def configure(self, limits: TimeoutsConfig) -> None:
        """These are the limits from now on; what waits already does so by those before."""
        self.limits = limits
        shortest = min(limits.client_head_s, limits.client_body_s, limits.client_idle_s)
        self._every_s = min(1.0, shortest / _SWEEPS_PER_LIMIT)

    async def serve(self, request: HttpRequest, answer: Answer) -> None:
        """Answer a request; never raises but when its task is cancelled."""
        raise NotImplementedError

    def abandoned(self, request: HttpRequest, answer: Answer) -> None:
        """The client left before its request was whole."""

    def refusal(self, request: HttpRequest) -> GatewayError | None:
        """Why a request whose head is known needs no body."""
        fields = request.fields
        declared = fields.get(b"content-length")
        if declared is None:
            coding = fields.get(b"transfer-encoding")
            if coding is not None and coding.lower() != b"chunked":
                return bad_request("only `chunked` is known as a transfer-encoding", status=501)
        elif int(declared) > self.max_body_bytes:
            return self.too_long()
        if request.method == "CONNECT":
            return bad_request("this is no tunnel: it does not take CONNECT", status=405)
        expected = fields.get(b"expect")
        if expected is not None and expected.lower() != b"100-continue":
            return bad_request("only `100-continue` may be expected", code="expectation_failed", status=417)
        return None

    def too_long(self) -> GatewayError:
        """What is said of too long a body."""
        message = f"the request body is longer than {self.max_body_bytes} bytes ([server] max_body_bytes)"
        return bad_request(message, code="request_too_large", status=413)

    @property
    def is_full(self) -> bool:
        """Whether there are as many connections as there may be."""
        return len(self._connections) >= self.max_connections

    @property
    def is_flooded(self) -> bool:
        """Whether as many again are being told that there are too many."""
        return len(self._connections) >= 2 * self.max_connections

    def full(self) -> GatewayError:
        """What is said to one connection too many."""
        return GatewayError(
            f"there are {self.max_connections} connections already ([server] max_connections)",
            status=503,
            origin=Origin.GATEWAY,
            type="service_unavailable",
            code="too_many_connections",
            retry_after_s=1.0,
        )

    def connected(self, connection: Connection) -> None:
        """A connection is open."""
        self._connections.add(connection)
        if self._sweep is None:
            self._sweep = self.loop.call_later(self._every_s, self._look)

    def disconnected(self, connection: Connection) -> None:
        """A connection is closed."""
        self._connections.discard(connection)
        if not self._connections and self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _look(self) -> None:
        self._sweep = self.loop.call_later(self._every_s, self._look)
        now = self.loop.time()
        for connection in [one for one in self._connections if one.deadline <= now]:
            connection.overdue()


def internal_error(request_id: str) -> GatewayError:
    """What a client is told of a bug of ours."""
    message = f"the gateway failed on this request; quote {request_id} when you report it"
    return GatewayError(message, status=500, origin=Origin.GATEWAY, type="internal_error")
