"""The tracer: made once from the configuration, exports in a thread of its own; does I/O.

(OpenTelemetry: https://opentelemetry.io/docs/specs/; W3C Trace Context: https://www.w3.org/TR/trace-context/)
"""

import time
from typing import TYPE_CHECKING, Final

from gateway import __version__
from gateway.config import ConfigError
from gateway.config.tracing import TracingConfig
from gateway.serving.access import secret_in
from gateway.serving.headers import Fields
from gateway.serving.tracing.trace import CONTEXT_HEADERS, Trace
from gateway.wire.request import Endpoint

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_EXPORT_S: Final = 3.0
"""For a collector to answer; who waits is a thread, and the end of the gateway."""


class Tracing:
    """Begins the traces of requests. `exporter` takes what has ended, from a thread."""

    def __init__(self, config: TracingConfig, exporter: "SpanExporter") -> None:
        self._provider = _provider(config, exporter)
        self._tracer = self._provider.get_tracer("prefixgate", __version__)
        self._wall_ns = time.time_ns() - time.monotonic_ns()

    def begin(self, fields: Fields, endpoint: Endpoint, request_id: str, accepted_at: float) -> Trace:
        """The trace of a request; it goes on with the client's, if that sent one."""
        sent = {name: value.decode("latin-1") for name in CONTEXT_HEADERS if (value := fields.get(name.encode()))}
        return Trace(self._tracer, sent, endpoint, request_id, accepted_at, self._wall_ns)

    def close(self) -> None:
        """Send what is left; waits for that, so not on the event loop."""
        self._provider.shutdown()


def configured_tracing(config: TracingConfig) -> Tracing | None:
    """None where no traces are wanted. Raises ConfigError where they cannot be made."""
    if config.endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError("[tracing] needs OpenTelemetry: pip install 'prefixgate[tracing]'") from error
    headers = _headers(config.headers_env) if config.headers_env is not None else {}
    return Tracing(config, OTLPSpanExporter(endpoint=config.endpoint, headers=headers, timeout=_EXPORT_S))


def _provider(config: TracingConfig, exporter: "SpanExporter") -> "TracerProvider":
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    resource = Resource.create({"service.name": config.service, "service.version": __version__})
    provider = TracerProvider(ParentBasedTraceIdRatio(config.share), resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _headers(name: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in secret_in(name, "[tracing] headers_env").split(",")]
    if not all(key.strip() and equals for key, equals, _ in pairs):
        raise ConfigError(f"[tracing] headers_env: {name} must hold name=value,name=value")
    return {key.strip(): value.strip() for key, _, value in pairs}
