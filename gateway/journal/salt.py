"""The salt: keyed hashes in place of all that a prompt, a tenant or a session could be guessed from; pure."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

LEAST_CHARACTERS: Final = 16
"""A shorter salt can be guessed."""


class Salt:
    """Equal things have equal hashes under one secret, and nobody can say what they are without it.

    `id` tells salts apart and nothing else.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = blake2b(secret, digest_size=32, person=b"journal salt").digest()
        self.id = self.name("salt id", "")[:8]

    def name(self, kind: str, text: str) -> str:
        """Sixteen hexadecimal digits for a text; equal texts of two kinds differ."""
        hashed = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=self._key, person=kind.encode())
        return hashed.hexdigest()

    def ids(self, kind: bytes, links: Sequence[int]) -> tuple[int, ...]:
        """A number of 63 bits for each link of a chain; equal links of two kinds differ."""
        start = blake2b(len(kind).to_bytes(4, "little") + kind, digest_size=8, key=self._key, person=b"link")
        ids = []
        for link in links:
            hashed = start.copy()
            hashed.update(link.to_bytes(8, "little"))
            ids.append(int.from_bytes(hashed.digest(), "little") >> 1)
        return tuple(ids)
