"""Cache salts: what an engine hashes with a tenant's prompts, so that nobody else's can hit their blocks; pure."""

import hmac
from typing import Final

LEAST_CHARACTERS: Final = 16
"""Of a secret: a shorter one could be guessed, and with it the salts."""


def salt_of(secret: bytes, tenant: str, group: str | None) -> str:
    """64 hexadecimal digits for a tenant, the same ones for all of a group; nobody can tell them without the secret.

    Within what engines take: at most 128 characters, none of `@ / \\` and NUL.
    """
    space, name = ("tenant", tenant) if group is None else ("group", group)
    return hmac.new(secret, f"prefixgate {space}\0{name}".encode(), "sha256").hexdigest()
