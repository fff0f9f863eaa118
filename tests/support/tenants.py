"""Tenants with keys, for tests, and the test that nobody hits what another tenant left."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

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


APART = [tenant("ann"), tenant("bob"), tenant("g1", salt_group="g"), tenant("g2", salt_group="g")]
"""Two tenants on their own, and two of a group."""


async def cached_tokens(http: httpx.AsyncClient, path: str, body: dict[str, Any], name: str) -> tuple[int, int]:
    """Of a tenant's request: predicted, and by the engine's word."""
    answer = await http.post(path, json=body, headers=bearer(name))
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    return int(answer.headers["x-prefixgate-predicted-cached-tokens"]), details.get("cached_tokens") or 0


async def hits_stay_within_groups(
    ask: Callable[[str], Awaitable[tuple[int, int]]], *, limit_s: float, tolerance: int
) -> int:
    """`APART` ask the same in turn, by name; what a later request finds cached, by the engine's word.

    A prediction may be `tolerance` tokens off, and has `limit_s` until the engine's events are heard.
    """
    for name in ("ann", "bob", "g1"):
        assert await ask(name) == (0, 0), f"{name}'s first request"
    _, of_group = await ask("g2")
    assert of_group > 256
    for name in ("ann", "bob", "g1", "g2"):
        async with asyncio.timeout(limit_s):
            while (found := await ask(name))[0] == 0:  # noqa: ASYNC110 - events take their time
                await asyncio.sleep(0.05)
        predicted, cached = found
        assert cached == of_group
        assert abs(predicted - cached) <= tolerance
    return of_group
