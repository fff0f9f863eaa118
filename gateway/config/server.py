"""`[server]` and `[timeouts]`: the ports, and how long anything on a wire may take; pure."""

import math
from typing import Final

from gateway.config.section import Section, require

MOST_WORKERS: Final = 256
MOST_DRAIN_S: Final = 3600


class ServerConfig(Section, frozen=True):
    """`[server]`: where clients and operators connect.

    `admin_port` (dashboard, admin API, /metrics) is `port` + 1 unless given; it may equal `port`. `workers` are
    processes that share the ports; each takes `max_connections` on each port. A gateway that is told to stop takes
    connections for `drain_notice_s` more, while /ready says that it is going, then has `drain_s` to end what it has
    begun. With `reuse_port` a second gateway may open the same ports meanwhile and take over. `admin_token_env` names
    the environment variable with the bearer token of the admin port; /metrics needs it too unless
    `admin_open_metrics`. `tls_cert` and `tls_key` are PEM files: both ports then speak HTTPS.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    admin_port: int | None = None
    max_body_bytes: int = 16 * 1024 * 1024
    workers: int = 1
    drain_s: float = 30.0
    drain_notice_s: float = 0.0
    reuse_port: bool = False
    max_connections: int = 16384
    admin_token_env: str | None = None
    admin_open_metrics: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None

    @property
    def admin(self) -> int:
        """The admin port in use (0, any free port, stays 0)."""
        if self.admin_port is not None:
            return self.admin_port
        return self.port + 1 if self.port else 0


class TimeoutsConfig(Section, frozen=True):
    """`[timeouts]`: seconds for each phase of a request at an engine; then for clients.

    A connection opens within `connect_s`. A stream begins within `first_token_s`, and `first_token_s_per_1k` more for
    each thousand tokens of its prompt; an answer that is no stream within `first_byte_s`. Between two pieces of an
    answer pass `idle_s` at most, and `total_s` from its request to its end.

    A client has `client_head_s` for the head of a request and `client_body_s` for all of its body, or to take what it
    is sent once it is behind; a connection without a request stays open for `client_idle_s`.
    """

    connect_s: float = 5.0
    first_token_s: float = 120.0
    first_token_s_per_1k: float = 2.0
    first_byte_s: float = 600.0
    idle_s: float = 60.0
    total_s: float = 3600.0
    client_head_s: float = 15.0
    client_body_s: float = 120.0
    client_idle_s: float = 75.0

    def first_token(self, prompt_tokens: int) -> float:
        """Seconds in which the stream for such a prompt must begin."""
        return self.first_token_s + self.first_token_s_per_1k * prompt_tokens / 1000


def check_server(server: ServerConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    for name, port in (("port", server.port), ("admin_port", server.admin)):
        require(0 <= port <= 65535, f"[server] {name} must be between 0 and 65535, not {port}")
    require(1 <= server.workers <= MOST_WORKERS, f"[server] workers must be between 1 and {MOST_WORKERS}")
    require(server.max_body_bytes > 0, "[server] max_body_bytes must be above 0")
    require(0 < server.drain_s <= MOST_DRAIN_S, f"[server] drain_s must be above 0 and at most {MOST_DRAIN_S}")
    require(0 <= server.drain_notice_s <= MOST_DRAIN_S, f"[server] drain_notice_s must be from 0 to {MOST_DRAIN_S}")
    require(not server.reuse_port or server.port != 0, "[server] reuse_port needs a port that others can name")
    require(server.max_connections > 0, "[server] max_connections must be above 0")
    for setting in ("admin_token_env", "tls_cert", "tls_key"):
        require(getattr(server, setting) != "", f"[server] {setting} must not be empty")
    require((server.tls_cert is None) == (server.tls_key is None), "[server] tls_cert and tls_key go together")
    open_metrics = server.admin_token_env is not None or not server.admin_open_metrics
    require(open_metrics, "[server] admin_open_metrics makes sense with admin_token_env only")


def server_notices(server: ServerConfig) -> list[str]:
    """What an operator should know: sentences."""
    if server.admin_token_env is None and not _is_loopback(server.host):
        return [f"whoever reaches {server.host} may use the admin port: give it a token with [server] admin_token_env"]
    return []


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def check_seconds(table: str, limits: Section) -> None:
    """All of a table's settings are seconds. Raises ConfigError."""
    for name in limits.__struct_fields__:
        require(0 < getattr(limits, name) < math.inf, f"[{table}] {name} must be above 0 and finite")
