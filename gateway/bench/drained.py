"""Takes a replica out of a running gateway's rotation while it is measured; does I/O."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import httpx
import msgspec

_EMPTY_S: Final = 600.0
_LOOK_S: Final = 0.2


class DrainError(Exception):
    """The gateway did not drain the replica, or it did not become empty; the message is one sentence."""


class _Replica(msgspec.Struct):
    name: str
    inflight: int = 0
    draining: bool = False


@asynccontextmanager
async def drained(
    client: httpx.AsyncClient, admin_url: str, replica: str, headers: Mapping[str, str]
) -> AsyncIterator[bool]:
    """Drain it, wait until it serves nobody, and resume it in the end, unless it was draining before.

    Yields False, and does nothing, where no gateway runs at `admin_url`. Raises DrainError.
    """
    before = await _look(client, admin_url, replica, headers)
    if before is None:
        yield False
        return
    if before.draining:
        yield True
        return
    await _command(client, f"{admin_url}/api/replicas/{replica}/drain", headers)
    try:
        until = time.monotonic() + _EMPTY_S
        while (now := await _look(client, admin_url, replica, headers)) is not None and now.inflight:
            if time.monotonic() > until:
                raise DrainError(f"`{replica}` still serves {now.inflight} requests after {_EMPTY_S:g} s")
            await asyncio.sleep(_LOOK_S)
        yield True
    finally:
        await _command(client, f"{admin_url}/api/replicas/{replica}/resume", headers)


async def _look(client: httpx.AsyncClient, admin_url: str, replica: str, headers: Mapping[str, str]) -> _Replica | None:
    """How it stands; None where no gateway answers. Raises DrainError."""
    try:
        answer = await client.get(f"{admin_url}/api/replicas", headers=headers)
    except httpx.HTTPError:
        return None
    if answer.status_code != 200:
        raise DrainError(f"the gateway at {admin_url} answered {answer.status_code} when asked for its replicas")
    try:
        replicas = msgspec.json.decode(answer.content, type=list[_Replica])
    except msgspec.MsgspecError as error:
        raise DrainError(f"what answers at {admin_url} is not a gateway's admin port") from error
    found = next((one for one in replicas if one.name == replica), None)
    if found is None:
        raise DrainError(f"the gateway at {admin_url} knows no replica `{replica}`")
    return found


async def _command(client: httpx.AsyncClient, url: str, headers: Mapping[str, str]) -> None:
    """Raises DrainError."""
    try:
        answer = await client.post(url, headers=headers)
    except httpx.HTTPError as error:
        raise DrainError(f"{url} did not answer: {error or type(error).__name__}") from error
    if answer.status_code != 200:
        raise DrainError(f"{url} answered {answer.status_code}: {answer.text[:200]}")
