"""Tenants with keys, for tests."""

from typing import Any

from gateway.tenancy.keys import ID_BYTES, SECRET_BYTES, hash_of, new_key

SALT_SECRET = "a secret of sixteen letters or more"


def key_of(name: str) -> str:
    """The same key for the same name."""
    return new_key(name.encode().ljust(ID_BYTES + SECRET_BYTES, b"."))


def tenant(name: str, **more: Any) -> dict[str, Any]:
    """A table of the configuration, with `key_of(name)`."""
    return {"name": name, "keys": [hash_of(key_of(name))], **more}


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key_of(name)}"}
