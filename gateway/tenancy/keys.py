"""API keys: what new ones look like, and the hashes that stand for them in the configuration; pure."""

import re
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

PREFIX: Final = "pg-"
"""Keys of ours begin so, for people and for programs that look for leaked secrets."""
ID_BYTES: Final = 5
SECRET_BYTES: Final = 32
_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")


def new_key(drawn: bytes) -> str:
    """A key of ID_BYTES + SECRET_BYTES random bytes: `pg-`, an id that may be shown, and the secret."""
    name, secret = drawn[:ID_BYTES], drawn[ID_BYTES:]
    return f"{PREFIX}{b32encode(name).decode().lower()}-{urlsafe_b64encode(secret).decode().rstrip('=')}"


def id_of(key: str) -> str:
    """What may be shown of a key of ours."""
    return key[: len(PREFIX) + 8 * ID_BYTES // 5]


# Slow, salted hashes make up for what people think up. A key is 256 random bits: nobody finds it by trying, whatever
# the hash costs, and no table holds it; what is paid on every request should be a microsecond.
def hash_of(key: str) -> str:
    """What the configuration holds of a key."""
    return f"sha256:{sha256(key.encode()).hexdigest()}"


def is_hash(text: str) -> bool:
    """Whether a text is what `hash_of` gives."""
    return _HASH.fullmatch(text) is not None


def sent_key(fields: Mapping[bytes, bytes]) -> bytes | None:
    """The key of a request: `Authorization: Bearer KEY`, or else `x-api-key: KEY`; None without one."""
    given = fields.get(b"authorization")
    if given is not None:
        scheme, _, key = given.partition(b" ")
        if scheme.lower() == b"bearer":
            return key.strip() or None
    return fields.get(b"x-api-key") or None
