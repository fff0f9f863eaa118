"""KV-cache events in neutral words: what a prefix cache stored, dropped or lost, and where it says so; pure data."""

from dataclasses import dataclass

BlockKey = int | bytes
"""An engine's own name of a block: its hash as it came over the wire. Only equality means anything."""


@dataclass(frozen=True, slots=True)
class EventSource:
    """Where one data-parallel rank publishes its events, as the engine says it (the host may be a wildcard).

    `replay_endpoint` None: batches that were missed cannot be asked for again.
    """

    rank: int
    endpoint: str
    replay_endpoint: str | None = None
    topic: str = ""


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """Consecutive blocks of one prompt that can be hit from now on.

    `tokens` are the ids of all blocks as 4-byte little endian, `len(hashes) * block_tokens` of them, unless the
    last block is shorter. `parent` is the block before the first one, None where the prompt begins. `group` and
    `kind` name the attention group of a hybrid model. `opaque`: the content is more than tokens, adapter and salt
    (images, embeddings), or the salt is hidden, so that the tokens do not tell which prompts hit the blocks.
    """

    hashes: tuple[BlockKey, ...]
    parent: BlockKey | None
    tokens: bytes
    block_tokens: int
    medium: str | None = None
    adapter: str | None = None
    salt: str | None = None
    group: int | None = None
    kind: str | None = None
    opaque: bool = False


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """Blocks that this tier (`medium`) no longer holds."""

    hashes: tuple[BlockKey, ...]
    medium: str | None = None
    group: int | None = None


@dataclass(frozen=True, slots=True)
class BlocksCleared:
    """The whole prefix cache was dropped."""


CacheEvent = BlocksStored | BlocksRemoved | BlocksCleared


@dataclass(frozen=True, slots=True)
class EventBatch:
    """The events of one message, in order. `damaged` counts those of a known kind that could not be read:
    what they said is missing, as if the message had been lost. Kinds that are not known are left out.
    """

    events: tuple[CacheEvent, ...]
    rank: int | None = None
    damaged: int = 0
