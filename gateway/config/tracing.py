"""`[tracing]`: where traces of requests go, if anywhere; pure."""

from urllib.parse import urlsplit

from gateway.config.section import Section, require


class TracingConfig(Section, frozen=True):
    """`[tracing]`: OpenTelemetry over OTLP/HTTP; without an `endpoint` (http://HOST:4318/v1/traces) there are none.

    `share` of the traces that begin here are kept; those that a client began are kept as it says. `headers_env` names
    the environment variable with headers for the collector (`name=value,name=value`), `service` what we are called.
    """

    endpoint: str | None = None
    share: float = 1.0
    service: str = "prefixgate"
    headers_env: str | None = None


def check_tracing(tracing: TracingConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    if tracing.endpoint is not None:
        parts = urlsplit(tracing.endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
        require(good, f"[tracing] endpoint: {tracing.endpoint!r} is not an http(s):// URL")
    require(0 <= tracing.share <= 1, "[tracing] share must be between 0 and 1")
    require(bool(tracing.service), "[tracing] service must not be empty")
    require(tracing.headers_env != "", "[tracing] headers_env must not be empty")
