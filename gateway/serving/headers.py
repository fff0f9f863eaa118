"""Which headers cross the gateway, in each direction; pure."""

import re
import secrets
from hashlib import blake2b
from typing import Final

from gateway.routing.candidates import Candidate
from gateway.routing.decision import ANONYMOUS

HeaderList = list[tuple[bytes, bytes]]

_HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
_NOT_FOR_ENGINES: Final = _HOP_BY_HOP | frozenset(
    b"host content-length expect accept-encoding "
    b"authorization x-api-key cookie "  # the client's credentials are for us
    b"x-request-id x-prefixgate-pool x-prefixgate-replica x-priority".split()
)
_NOT_FOR_CLIENTS: Final = _HOP_BY_HOP | frozenset((b"content-length", b"server", b"date", b"x-request-id"))
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


def request_id(headers: HeaderList) -> str:
    """The client's `x-request-id` if it is printable and no longer than 128, else a new one."""
    given = first(headers, b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return secrets.token_hex(16)


def first(headers: HeaderList, name: bytes) -> bytes | None:
    """The first value of a header, by its lower-case name."""
    return next((value for key, value in headers if key == name), None)


def first_text(headers: HeaderList, name: bytes) -> str | None:
    """The first value of a header as text; None if absent or empty."""
    value = first(headers, name)
    return value.decode("latin-1") if value else None


def tenant(headers: HeaderList) -> str:
    """Whom to count a request for: a name made of the client's API key, from which the key cannot be told."""
    key = first(headers, b"authorization") or first(headers, b"x-api-key")
    if not key:
        return ANONYMOUS
    return "key-" + blake2b(key.split()[-1] if key.split() else key, digest_size=4, person=b"prefixgate").hexdigest()


def for_engine(headers: HeaderList, extra: HeaderList) -> HeaderList:
    """The client's headers that an engine may see, and `extra` (request id, the pool's own credentials)."""
    return [(name, value) for name, value in headers if name not in _NOT_FOR_ENGINES] + extra


def for_client(headers: HeaderList, request: str, chosen: Candidate | None) -> HeaderList:
    """The engine's headers that the client sees, and who answered."""
    passed = [(name, value) for name, value in headers if name not in _NOT_FOR_CLIENTS]
    passed.append((b"x-request-id", request.encode("ascii")))
    if chosen is not None:
        passed += [
            (b"x-prefixgate-pool", chosen.pool.encode()),
            (b"x-prefixgate-replica", chosen.replica.encode()),
            (b"x-prefixgate-predicted-cached-tokens", b"%d" % chosen.cached_tokens),
        ]
    return passed
