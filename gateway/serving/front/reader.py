"""Bytes become requests: the parser's callbacks, and what may not pass them; whoever inherits it does the I/O."""

import re
from typing import Final, NoReturn

import httptools

from gateway.errors import GatewayError, bad_request
from gateway.serving.front.port import Port
from gateway.serving.front.request import HttpRequest
from gateway.serving.headers import HeaderList

HEAD_BYTES: Final = 64 * 1024
"""The longest head of a request."""
HEADERS: Final = 256
"""Header lines of a request."""
FRAMING_RATE: Final = 16
"""Bytes of framing (chunk sizes, their extensions, trailers) that each byte of a body may cost."""


_HOST: Final = re.compile(rb"[!$-.0-9;=A-Z_a-z~]*(?::\d*)?|\[[0-9A-Fa-f:.]+\](?::\d*)?")
_USUAL: Final = (b"keep-alive", b"close")


class _CutOff(Exception):  # noqa: N818 - it is thrown at the parser, which has to stop where a request is refused
    pass


class RequestReader:
    """Reads one request after the other, until one has to be cut off."""

    __slots__ = (
        "_deaf", "_head_bytes", "_headers", "_host", "_parser", "_parts", "_port", "_request", "_size", "_upgrading",
    )  # fmt: skip

    def __init__(self, port: Port) -> None:
        self._port = port
        self._parser = httptools.HttpRequestParser(self)
        self._request: HttpRequest | None = None  # the one being read
        self._upgrading: HttpRequest | None = None  # one that asks for another protocol
        self._headers: HeaderList = []
        self._host: bytes | None = None  # the last one that was a good one
        self._parts: list[bytes] = []
        self._size = 0
        self._head_bytes = 0
        self._deaf = False  # nothing that comes is read any more

    def _allow(self, seconds: float) -> None:
        """The client has so long for the part of a request that comes now."""
        raise NotImplementedError

    def _body_held_back(self) -> None:
        """The client waits to be asked for the body."""
        raise NotImplementedError

    def _received(self, request: HttpRequest) -> None:
        """A request is whole."""
        raise NotImplementedError

    def _cut_off(self, error: GatewayError) -> None:
        """Answer the request being read, or what should have been one, with an error; then read no more."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._head_bytes += len(data)
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._declined() + data[upgrade.args[0] :]
                continue
            except httptools.HttpParserError as error:
                self._cut_off(bad_request(f"this is not valid HTTP/1.1: {error}", code="invalid_http"))
                return
            break
        if self._head_bytes > HEAD_BYTES + FRAMING_RATE * self._size and self._request is not None:
            self._cut_off(_head_too_long())

    def on_message_begin(self) -> None:
        self._request = HttpRequest(self._port.clock())
        self._headers = []
        self._allow(self._port.limits.client_head_s)

    def on_url(self, url: bytes) -> None:
        if self._request is not None:
            self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        request, parser = self._request, self._parser
        if request is None:
            return
        headers = request.headers = self._headers
        self._headers = []  # what follows the body are trailers, which nobody needs
        headers.reverse()
        request.fields = dict(headers)  # of several of a name, the first
        headers.reverse()
        request.method = parser.get_method().decode("ascii")
        request.keep_alive = parser.should_keep_alive()
        version = parser.get_http_version()
        if version != "1.1":
            if version != "1.0":
                self._refuse(bad_request("only HTTP/1.0 and 1.1 are spoken here", code="http_version", status=505))
            request.http_1_0 = True
            request.keep_alive &= b"transfer-encoding" not in request.fields  # who sends that may mean another end
        if self._head_bytes > HEAD_BYTES and _head_size(request) > HEAD_BYTES:
            self._refuse(_head_too_long())
        self._check_names(request)
        if b"upgrade" in request.fields and parser.should_upgrade():
            self._request, self._upgrading = None, request
            return
        refusal = self._port.refusal(request)
        if refusal is not None:
            self._refuse(refusal)
        self._allow(self._port.limits.client_body_s)
        if b"expect" in request.fields and not request.http_1_0:
            self._body_held_back()

    def _check_names(self, request: HttpRequest) -> None:
        """What RFC 9112 demands of `Host`, and what `Connection` says of others: those are not passed on."""
        fields, headers = request.fields, request.headers
        if len(headers) > HEADERS:
            self._refuse(_too_many_headers())
        host = fields.get(b"host")
        if host is None:
            if not request.http_1_0:
                self._refuse(bad_request("a request must say its Host", code="invalid_host"))
        elif len(fields) != len(headers) and sum(name == b"host" for name, _ in headers) > 1:
            self._refuse(bad_request("a request must say its Host once", code="invalid_host"))
        elif host != self._host:  # of a connection's requests, all say the same
            if _HOST.fullmatch(host) is None:
                self._refuse(bad_request("this is no Host", code="invalid_host"))
            self._host = host
        connection = fields.get(b"connection")
        if connection is not None and connection not in _USUAL and connection.lower() not in _USUAL:
            request.forget_hop_headers()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._size += len(body)
        if self._size > self._port.max_body_bytes:
            self._refuse(self._port.too_long())

    def on_message_complete(self) -> None:
        request = self._request
        if request is None:
            return
        parts = self._parts
        request.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts, self._size, self._head_bytes = [], 0, 0
        self._request = None
        self._received(request)

    def _declined(self) -> bytes:
        """The head of a request that asked for another protocol, without that wish: it is read again as HTTP/1.1.

        The parser takes what follows such a head for the other protocol, even where it is the body.
        """
        request, self._upgrading = self._upgrading, None
        self._parser = httptools.HttpRequestParser(self)
        return b"" if request is None else request.head_without(b"upgrade")

    def _refuse(self, error: GatewayError) -> NoReturn:
        """Cut off from within the parser, which must not go on."""
        self._cut_off(error)
        raise _CutOff


def _head_size(request: HttpRequest) -> int:
    return len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)


def _too_many_headers() -> GatewayError:
    message = f"the request has more than {HEADERS} headers"
    return bad_request(message, code="request_header_fields_too_large", status=431)


def _head_too_long() -> GatewayError:
    message = f"the request's head is longer than {HEAD_BYTES} bytes"
    return bad_request(message, code="request_header_fields_too_large", status=431)
