"""One HTTP request as it came: its head, its body, and what was wrong with it; pure."""

from typing import Final
from urllib.parse import unquote

from gateway.errors import GatewayError
from gateway.serving.headers import HeaderList
from gateway.tenancy.tenant import Tenant

_KEPT: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"))


class HttpRequest:
    """`target` is the request line's; `began_at` is on the gateway's clock.

    `refusal`: why it is answered without being served; its body may then be missing. `tenant`: whose it is, where
    there are tenants.
    """

    __slots__ = (
        "began_at", "body", "fields", "headers", "http_1_0", "keep_alive", "method", "refusal", "target", "tenant",
    )  # fmt: skip

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.target = b""
        self.method = ""
        self.headers: HeaderList = []
        """All headers in order; names are in lower case."""
        self.fields: dict[bytes, bytes] = {}
        """The first value of each."""
        self.body = b""
        self.http_1_0 = False
        self.keep_alive = False
        self.refusal: GatewayError | None = None
        self.tenant: Tenant | None = None

    @property
    def raw_path(self) -> bytes:
        """The path as it was sent."""
        path = self.target.partition(b"?")[0]
        if path.startswith(b"/"):
            return path
        rest = path.partition(b"://")[2]  # what proxies are sent: http://host/path
        return b"/" + rest.partition(b"/")[2] if rest else path

    @property
    def path(self) -> str:
        """The path, decoded."""
        path = self.raw_path.decode("latin-1")
        return unquote(path) if "%" in path else path

    @property
    def query(self) -> bytes:
        """What follows the question mark."""
        return self.target.partition(b"?")[2]

    def forget_hop_headers(self) -> None:
        """Take out what `Connection` names: it was meant for us alone. What frames or routes a request stays."""
        named = {
            name.strip().lower() for key, value in self.headers if key == b"connection" for name in value.split(b",")
        } - _KEPT
        self.headers = [pair for pair in self.headers if pair[0] not in named]
        for name in named:
            self.fields.pop(name, None)

    def head_without(self, name: bytes) -> bytes:
        """The head anew, without a header."""
        line = b"%b %b HTTP/1.%d\r\n" % (self.method.encode(), self.target, 0 if self.http_1_0 else 1)
        return line + b"".join(b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != name) + b"\r\n"
