"""A pool of KV blocks with prefix caching: who holds which block, and which one goes when room is needed; pure."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import sha256

from engines.simulated.tokens import TOKEN_BYTES

BlockHash = bytes
"""32 bytes: SHA-256 of the parent's hash and the block's tokens as little-endian 32-bit integers.

This is SGLang's rule; vLLM's hashes are opaque to everyone else, so the same serve there.
"""


def root_of(cache_salt: str | None, adapter: str | None) -> BlockHash:
    """The hash before the first block: empty for plain requests, else a namespace of its own."""
    if cache_salt is None and adapter is None:
        return b""
    salted = sha256(b"sglang-cache-salt-v1\0" + (cache_salt or "").encode("utf-8", "surrogatepass"))
    if adapter is not None:
        salted.update(b"\0adapter\0" + adapter.encode("utf-8", "surrogatepass"))
    return salted.digest()


def hash_blocks(tokens: bytes, block_tokens: int, parent: BlockHash, first_block: int = 0) -> list[BlockHash]:
    """The chained hashes of the full blocks of `tokens` from `first_block` on; `parent` is the hash before it."""
    width = block_tokens * TOKEN_BYTES
    view = memoryview(tokens)
    hashes = []
    for start in range(first_block * width, len(tokens) - width + 1, width):
        block = sha256(parent)
        block.update(view[start : start + width])
        parent = block.digest()
        hashes.append(parent)
    return hashes


class BlockPool:
    """Blocks are free, private to one request (not full yet), or cached under their hash.

    A cached block that no request uses is idle: it stays until its room is needed, least recently used first. Blocks
    of one request become idle last to first, so that a prefix never goes before what extends it.
    `promised` blocks are spoken for by admitted requests but not taken yet.
    """

    def __init__(self, capacity_blocks: int) -> None:
        self.capacity_blocks = capacity_blocks
        self.private_blocks = 0
        self.promised_blocks = 0
        self._users: dict[BlockHash, int] = {}
        self._idle: OrderedDict[BlockHash, None] = OrderedDict()

    @property
    def cached_blocks(self) -> int:
        """Blocks that a prompt could hit, in use or idle."""
        return len(self._users)

    @property
    def idle_blocks(self) -> int:
        """Cached blocks that no running request uses."""
        return len(self._idle)

    @property
    def used_blocks(self) -> int:
        """Blocks held by running requests."""
        return len(self._users) - len(self._idle) + self.private_blocks

    @property
    def free_blocks(self) -> int:
        """Blocks with nothing in them."""
        return self.capacity_blocks - len(self._users) - self.private_blocks

    def count_hits(self, hashes: Sequence[BlockHash]) -> int:
        """How many leading blocks are cached."""
        for index, block in enumerate(hashes):
            if block not in self._users:
                return index
        return len(hashes)

    def admit(self, hits: Sequence[BlockHash], further_blocks: int) -> bool:
        """Take the hit blocks into use and promise further ones; False (and nothing done) when they do not fit."""
        woken = sum(1 for block in hits if block in self._idle)
        if further_blocks > self.free_blocks + len(self._idle) - woken - self.promised_blocks:
            return False
        for block in hits:
            self._use(block)
        self.promised_blocks += further_blocks
        return True

    def take(self, blocks: int) -> list[BlockHash]:
        """Turn promised blocks into private ones; returns the cached blocks evicted for them, oldest first."""
        self.promised_blocks -= blocks
        evicted = []
        for _ in range(blocks - self.free_blocks):
            block, _ = self._idle.popitem(last=False)
            del self._users[block]
            evicted.append(block)
        self.private_blocks += blocks
        return evicted

    def store(self, block: BlockHash) -> bool:
        """Cache a private block under its hash, in use; False when another request had stored it already."""
        self.private_blocks -= 1
        known = block in self._users
        if known:
            self._use(block)
        else:
            self._users[block] = 1
        return not known

    def release(self, blocks: Iterable[BlockHash], private_blocks: int, promised_blocks: int) -> None:
        """Give up everything of one request; its cached blocks (given first to last) stay as idle ones."""
        self.private_blocks -= private_blocks
        self.promised_blocks -= promised_blocks
        for block in reversed(list(blocks)):
            self._users[block] -= 1
            if not self._users[block]:
                self._idle[block] = None

    def clear(self) -> bool:
        """Forget all cached blocks; False (and nothing done) while a request holds any block."""
        if self.used_blocks:
            return False
        self._users.clear()
        self._idle.clear()
        return True

    def _use(self, block: BlockHash) -> None:
        self._users[block] += 1
        self._idle.pop(block, None)
