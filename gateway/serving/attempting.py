"""One try at one replica: the request sent, the beginning of its answer awaited; does I/O."""

from typing import NamedTuple

from gateway.routing.decision import RouteRequest
from gateway.serving import headers as header_rules
from gateway.serving.admission import salt_fields
from gateway.serving.attempt import Attempt
from gateway.serving.engine_client import EngineGoneError, EngineResponse, EngineUnreachableError
from gateway.serving.failure import lost, unusable
from gateway.serving.gateway import Backend, Gateway
from gateway.serving.headers import HeaderList
from gateway.serving.relay import first_frame, read_error, read_whole
from gateway.serving.tracing.trace import AttemptTrace
from gateway.tenancy.tenant import Visit
from gateway.wire.additions import add
from gateway.wire.reply import Reply
from gateway.wire.request import Endpoint, InferenceRequest
from gateway.wire.splicing import SplicedWatcher, StrayedError
from gateway.wire.stream import GarbledError, StreamWatcher


class Prepared(NamedTuple):
    """What goes to one replica, and what watches its stream."""

    endpoint: Endpoint
    body: bytes
    watcher: StreamWatcher


class Sending:
    """What every replica is sent of a request. `kept`: its stream may have to go on elsewhere."""

    def __init__(
        self,
        endpoint: Endpoint,
        headers: HeaderList,
        body: bytes,
        request: InferenceRequest,
        engine_id: str,
        visit: Visit | None,
        *,
        kept: bool,
        asked: RouteRequest | None = None,
    ) -> None:
        """`asked` is the request as it is routed; None for what is no request of a client's as it came."""
        self.asked = asked
        self.endpoint = endpoint
        self.headers = headers
        self.body = body
        self.request = request
        self.engine_id = engine_id
        self.visit = visit
        self.kept = kept

    async def prepare(self, backend: Backend) -> Prepared:  # noqa: ARG002 - those that go on ask it
        """The body and the watcher for this replica. Raises AttemptLostError where it cannot be asked."""
        strip_usage = not self.request.usage_requested
        watcher = StreamWatcher(self.endpoint, strip_usage=strip_usage, whole_frames=self.kept)
        return Prepared(self.endpoint, self.body, watcher)


class Try:
    """One attempt on its way: `begin`, then whoever began it relays the answer; `close` must follow."""

    def __init__(self, gateway: Gateway, sending: Sending, attempt: Attempt, trace: AttemptTrace | None = None) -> None:
        self.sending = sending
        self.attempt = attempt
        self.backend = gateway.backends[attempt.decision.chosen.replica]
        self.response: EngineResponse
        self.watcher: StreamWatcher | None = None
        """Of a stream."""
        self.reply: Reply | None = None
        """Of a plain answer."""
        self.first = b""
        """The whole body of a plain answer, or the first frame of a stream."""
        self._gateway = gateway
        self._trace = trace
        self._response: EngineResponse | None = None

    async def begin(self) -> None:
        """Send the request and wait for what can be sent to the client. Raises AttemptLostError."""
        backend = self.backend
        try:
            prepared = await self.sending.prepare(backend)
            response = self.response = self._response = await self._send(prepared)
            if self._trace is not None:
                self._trace.sent_at = response.sent_at
            if response.status >= 400:
                raise await read_error(response, backend.dialect, backend.credentials)
            if response.header(b"content-type").startswith(b"text/event-stream"):
                self.first = await first_frame(response, prepared.watcher, backend.dialect)
                self.watcher = prepared.watcher
            elif isinstance(prepared.watcher, SplicedWatcher):
                raise unusable("the engine did not answer with a stream")
            else:
                self.first, self.reply = await read_whole(response, self.sending.endpoint)
        except EngineUnreachableError as error:
            self._gateway.unreachable(backend, str(error))
            raise lost(error) from error
        except EngineGoneError as error:
            raise lost(error) from error
        except GarbledError as error:
            raise unusable(str(error)) from error
        except StrayedError as error:
            raise unusable(str(error), "strayed") from error

    def close(self, *, unwanted: bool) -> None:
        """Let the connection go; an engine whose answer nobody wants any more is told so."""
        if self._response is not None:
            self._response.close()
        if unwanted and self.sending.endpoint.generates:
            self._gateway.abort(self.backend, self.sending.engine_id)

    async def _send(self, prepared: Prepared) -> EngineResponse:
        sending, dialect = self.sending, self.backend.dialect
        headers = header_rules.for_engine(sending.headers, self.backend.credentials)
        if self._trace is not None:
            headers = self._trace.sent_to_engine(headers)
        header = dialect.request_id_header(sending.engine_id)
        if header is not None:
            headers.append((header[0].encode(), header[1].encode()))
        field = dialect.request_id_field(sending.engine_id)
        request = sending.request
        if request.names_request or not sending.endpoint.generates:
            field = None
        fields: tuple[tuple[str, str], ...] = () if field is None else (field,)
        if sending.visit is not None and request.salt is not None:
            fields += salt_fields(dialect, sending.visit, prepared.endpoint)
        body = prepared.body
        if fields or not request.usage_requested:
            body = add(body, include_usage=not request.usage_requested, fields=fields)
        limits, prompt_tokens = self._gateway.config.timeouts, self.attempt.decision.chosen.prompt_tokens
        begin_s = limits.first_token(prompt_tokens) if request.stream else limits.first_byte_s
        if self._gateway.hot is not None and sending.asked is not None:
            self._gateway.hot.note(self.backend.pool, sending.asked, prepared.endpoint, body, self._gateway.clock())
        return await self._gateway.engines.send(self.backend.url, "POST", prepared.endpoint, headers, body, begin_s)
