"""Who may use the admin port: whoever has its token; pure but for the token, which is in the environment."""

import hmac
from typing import Final

from gateway.config import ServerConfig
from gateway.errors import GatewayError, Origin
from gateway.serving.access import secret_in
from gateway.serving.front.request import HttpRequest

_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_METRICS: Final = "/metrics"
_PAGE: Final = "/"
ASSETS: Final = "/dashboard/"
"""The dashboard's page and its modules hold no figures: they ask for the token, and for them with it."""


class AdminGuard:
    """Lets the admin API's requests pass that bring its token; all others are the admin API's unless it `shares` the
    port with inference.
    """

    def __init__(self, token: str, *, open_metrics: bool, shares: bool) -> None:
        self._token = token.encode()
        self._shares = shares
        self._open = frozenset((_PAGE, _METRICS) if open_metrics else (_PAGE,))

    def refusal(self, request: HttpRequest) -> GatewayError | None:
        """Why a request may not pass; None: it may."""
        path = request.path
        if path in self._open or path.startswith(ASSETS) or (self._shares and not is_of_admin(path)):
            return None
        scheme, _, given = request.fields.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token):
            return None
        message = "the admin port wants its token: send `Authorization: Bearer TOKEN` ([server] admin_token_env)"
        return GatewayError(
            message, status=401, origin=Origin.CLIENT, type="authentication_error", code="invalid_admin_token"
        )


def cross_site(request: HttpRequest) -> GatewayError | None:
    """Why a request may not pass that a web page elsewhere made its reader's browser send; None: it may.

    Browsers let any page post anywhere, and an admin port without a token trusts whoever reaches it. Programs send
    neither header (Fetch Metadata, W3C; Origin, RFC 6454).
    """
    if request.method in _SAFE or not is_of_admin(request.path):
        return None
    origin, host = request.fields.get(b"origin"), request.fields.get(b"host", b"")
    ours = origin is None or origin.partition(b"://")[2] == host
    if ours and request.fields.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin"):
        return None
    message = "the admin API takes no changes from pages of other sites"
    return GatewayError(message, status=403, origin=Origin.CLIENT, type="permission_error", code="cross_site")


def is_of_admin(path: str) -> bool:
    """Whether a path is the admin API's, on a port that has other paths too."""
    return path in (_PAGE, _METRICS, "/api") or path.startswith(("/api/", ASSETS))


def configured_guard(server: ServerConfig) -> AdminGuard | None:
    """The guard; None where no token is configured. Raises ConfigError where it is and the environment has none."""
    if server.admin_token_env is None:
        return None
    token = secret_in(server.admin_token_env, "[server] admin_token_env")
    shares = server.admin == server.port != 0
    return AdminGuard(token, open_metrics=server.admin_open_metrics, shares=shares)
