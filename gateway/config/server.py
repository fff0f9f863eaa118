"""`[server]` and `[timeouts]`: the ports, and how long anything on a wire may take; pure."""

import math
from typing import Final

from gateway.config.section import Section, require

MOST_WORKERS: Final = 256
MOST_DRAIN_S: Final = 3600


class ServerConfig(Section, frozen=True):
    """`[server]`: where clients and operators connect.

    `admin_port` (dashboard, admin API, /metrics) is `port` + 1 unless given; it may equal `port`. `workers` are
    processes that share the ports. A gateway that is told to stop takes connections for `drain_notice_s` more, while
    /ready says that it is going, then has `drain_s` to end what it has begun. With `reuse_port` a second gateway may
    open the same ports meanwhile and take over.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    admin_port: int | None = None
    max_body_bytes: int = 16 * 1024 * 1024
    workers: int = 1
    drain_s: float = 30.0
    drain_notice_s: float = 0.0
    reuse_port: bool = False

    @property
    def admin(self) -> int:
        """The admin port in use (0, any free port, stays 0)."""
        if self.admin_port is not None:
            return self.admin_port
        return self.port + 1 if self.port else 0


class TimeoutsConfig(Section, frozen=True):
    """`[timeouts]`: seconds for a connection to an engine, its first byte, and between its bytes; then for clients.

    A client has `client_head_s` for the head of a request and `client_body_s` for all of its body, or to take what it
    is sent once it is behind; a connection without a request stays open for `client_idle_s`.
    """

    connect_s: float = 5.0
    first_byte_s: float = 600.0
    idle_s: float = 300.0
    client_head_s: float = 15.0
    client_body_s: float = 120.0
    client_idle_s: float = 75.0


def check_server(server: ServerConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    for name, port in (("port", server.port), ("admin_port", server.admin)):
        require(0 <= port <= 65535, f"[server] {name} must be between 0 and 65535, not {port}")
    require(1 <= server.workers <= MOST_WORKERS, f"[server] workers must be between 1 and {MOST_WORKERS}")
    require(server.max_body_bytes > 0, "[server] max_body_bytes must be above 0")
    require(0 < server.drain_s <= MOST_DRAIN_S, f"[server] drain_s must be above 0 and at most {MOST_DRAIN_S}")
    require(0 <= server.drain_notice_s <= MOST_DRAIN_S, f"[server] drain_notice_s must be from 0 to {MOST_DRAIN_S}")
    require(not server.reuse_port or server.port != 0, "[server] reuse_port needs a port that others can name")


def check_seconds(table: str, limits: Section) -> None:
    """All of a table's settings are seconds. Raises ConfigError."""
    for name in limits.__struct_fields__:
        require(0 < getattr(limits, name) < math.inf, f"[{table}] {name} must be above 0 and finite")
