"""Which headers cross the gateway, in each direction; pure."""

import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from random import Random, SystemRandom
from typing import Final

from gateway.routing.candidates import Candidate
from gateway.routing.decision import ANONYMOUS, Priority
from gateway.routing.experiments.definition import Exposure

HeaderList = list[tuple[bytes, bytes]]
"""All headers as they came, names in lower case."""
Fields = Mapping[bytes, bytes]
"""The first value of each, by the same names."""

_HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
_NOT_FOR_ENGINES: Final = _HOP_BY_HOP | frozenset(
    b"host content-length expect accept-encoding "
    b"authorization x-api-key api-key x-goog-api-key cookie cookie2 "  # the client's credentials are for us
    b"forwarded via x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-forwarded-prefix "
    b"x-forwarded-server x-forwarded-client-cert x-real-ip true-client-ip cf-connecting-ip "  # so is where it sits
    b"x-override-rid "  # would give a request another's id
    b"x-request-id x-prefixgate-pool x-prefixgate-replica x-prefixgate-deadline-ms x-priority".split()
)
_NOT_FOR_CLIENTS: Final = _HOP_BY_HOP | frozenset(
    b"content-length server date x-request-id "
    b"set-cookie set-cookie2 authorization www-authenticate proxy-authenticate authentication-info "
    b"alt-svc clear-site-data strict-transport-security x-powered-by "  # speaks for an origin, and that is us
    b"x-ratelimit-limit-requests x-ratelimit-limit-tokens x-ratelimit-remaining-requests "
    b"x-ratelimit-remaining-tokens".split()
)
_OURS: Final = b"x-prefixgate-"
_random: Final = Random(SystemRandom().getrandbits(256))  # names need not be secret, and a system call costs more
_MILLISECONDS: Final = re.compile(rb"[0-9]{1,9}")
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


def request_id(fields: Fields) -> str:
    """The client's `x-request-id` if it is printable and no longer than 128, else a new one."""
    given = fields.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return f"{_random.getrandbits(128):032x}"


def text(value: bytes | None) -> str | None:
    """A header's value as text; None if absent or empty."""
    return value.decode("latin-1") if value else None


def priority(fields: Fields) -> Priority:
    """Interactive, unless `x-priority` says batch."""
    given = fields.get(b"x-priority")
    return Priority.BATCH if given is not None and given.lower() == b"batch" else Priority.INTERACTIVE


def deadline_s(fields: Fields) -> float | None:
    """Seconds from accept in which the client wants its first token: `x-prefixgate-deadline-ms`, if it is a number."""
    given = fields.get(b"x-prefixgate-deadline-ms")
    return int(given) / 1000 if given is not None and _MILLISECONDS.fullmatch(given) else None


def tenant(fields: Fields) -> str:
    """Whom to count a request for: a name made of the client's API key, from which the key cannot be told."""
    key = fields.get(b"authorization") or fields.get(b"x-api-key")
    return _name_of(key) if key else ANONYMOUS


@lru_cache(maxsize=1024)
def _name_of(key: bytes) -> str:
    words = key.split()
    return "key-" + blake2b(words[-1] if words else key, digest_size=4, person=b"prefixgate").hexdigest()


def for_engine(headers: HeaderList, extra: HeaderList) -> HeaderList:
    """The client's headers that an engine may see, and `extra` (request id, the pool's own credentials)."""
    passed = [pair for pair in headers if pair[0] not in _NOT_FOR_ENGINES]
    passed += extra
    return passed


def for_client(
    headers: HeaderList, request: str, chosen: Candidate | None, exposure: Exposure | None = None
) -> HeaderList:
    """The engine's headers that the client sees, who answered, and in which arm of an experiment."""
    passed = [pair for pair in headers if pair[0] not in _NOT_FOR_CLIENTS and not pair[0].startswith(_OURS)]
    passed.append((b"x-request-id", request.encode("ascii")))
    if chosen is not None:
        passed += (
            (b"x-prefixgate-pool", chosen.pool.encode()),
            (b"x-prefixgate-replica", chosen.replica.encode()),
            (b"x-prefixgate-predicted-cached-tokens", b"%d" % chosen.cached_tokens),
        )
    if exposure is not None:
        passed.append((b"x-prefixgate-arm", exposure.label.encode()))
    return passed
