"""What gateways tell each other: batches of records of their requests, and the bytes that these are sent as; pure.

Replicas go by URL, attempts by their sender's ticket, times by its clock: `Batch.sent_at` says what that clock was.
"""

import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache
from struct import Struct as Layout
from typing import Annotated, Final

import msgspec

from gateway.routing.calibration import Count, Difference

FORMAT: Final = 1
"""Of all that is exchanged. Gateways of different formats do not meet."""
MOST_RECORDS: Final = 256
"""In one batch, so that learning one takes milliseconds."""


Ms = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class End(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An attempt is over.

    `prompt_tokens` and `cached_tokens` are the engine's word on its prompt, None where it did not say; so is what its
    prefill took, `prefill_ms` for `uncached_tokens`.
    """

    at: float
    completed: bool
    prompt_tokens: Count | None = None
    cached_tokens: Count | None = None
    uncached_tokens: Count = 0
    prefill_ms: Ms | None = None


class Booked(msgspec.Struct, array_like=True, tag=0, gc=False):
    """An attempt was booked; what became of it meanwhile is said with it.

    `links` are the hashes of the chain that its replica is followed by, as `packed` does it; `counts_tokens` whether
    `block` and `length` are tokens. `text_length` and `family` are of the prompt's text, in bytes. `overlap` are
    tokens: confirmed, inferred, promised.
    """

    ticket: Count
    at: float
    replica: str
    links: bytes
    length: Count
    block: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    counts_tokens: bool
    salted: bool
    plain: bool
    text_length: Count
    family: int | None
    overlap: tuple[Count, Count, Count]
    streams: bool
    prompt_tokens: Count
    routed_tokens: Count
    wait_ms: Ms
    prefill_ms: Annotated[float, msgspec.Meta(gt=0, le=1e12)]
    token_count: tuple[str, int] | None = None
    first_at: float | None = None
    end: End | None = None


class Progress(msgspec.Struct, array_like=True, tag=1, gc=False):
    """What became of an attempt that was booked in an earlier batch: its first token, its end, or both."""

    ticket: Count
    first_at: float | None = None
    end: End | None = None


class Stored(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """The replica keeps this Responses object."""

    replica: str
    response_id: str


Record = Booked | Progress | Stored
"""Later kinds join here, and raise `FORMAT`."""


class TenantUse(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a process has charged a tenant since it last said so, and how many of its requests are in flight there.

    `tokens` may be below 0: what was expected and not taken.
    """

    tenant: str
    requests: Count
    tokens: Difference
    inflight: Count


class Batch(msgspec.Struct, array_like=True, frozen=True):
    """Records of one gateway process, in the order in which things happened.

    `number` counts a sender's batches from 1; one that is left out says that records were lost. A batch without
    records says that its sender is alive. `uses` are of all tenants of which there is anything to say; who has no
    tenants leaves them out, and takes no notice of others'.
    """

    sender: str
    number: int
    sent_at: float
    records: list[Record]
    uses: list[TenantUse] = msgspec.field(default_factory=list)


_decoder: Final = msgspec.msgpack.Decoder(Batch)
_encoder: Final = msgspec.msgpack.Encoder()


def encoded(batch: Batch) -> bytes:
    """The batch as MessagePack."""
    return _encoder.encode(batch)


def decoded(payload: bytes) -> Batch:
    """The batch of these bytes. Raises msgspec.MsgspecError where they are none."""
    return _decoder.decode(payload)


def packed(links: Sequence[int]) -> bytes:
    """Hashes as 8-byte little endian."""
    hashes = array("Q", links)
    if sys.byteorder == "big":
        hashes.byteswap()
    return hashes.tobytes()


def unpacked(links: bytes) -> tuple[int, ...]:
    """The hashes of `packed` bytes; a rest that is no whole hash is left out."""
    count = len(links) // 8
    return _layout(count).unpack_from(links)


@lru_cache(maxsize=4096)
def _layout(count: int) -> Layout:
    return Layout(f"<{count}Q")
