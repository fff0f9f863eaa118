"""Prefix chains: a prompt as chained block hashes, so that equal prefixes have equal leading hashes; pure."""

from dataclasses import dataclass
from typing import Final

from xxhash import xxh3_64_intdigest

DEFAULT_BLOCK_BYTES: Final = 256
"""About 64 tokens of English: finer than DeepSeek-V4's hit quantum of 256 tokens, coarse enough to be cheap."""


@dataclass(frozen=True, slots=True)
class PrefixChain:
    """`hashes[i]` stands for the namespace and the first `i + 1` full blocks of the prompt.

    Only full blocks are hashed, as engines cache only full blocks; `prompt_bytes` counts the rest too.
    """

    hashes: tuple[int, ...] = ()
    prompt_bytes: int = 0
    block_bytes: int = DEFAULT_BLOCK_BYTES

    @property
    def family(self) -> int | None:
        """The prefix family: the hash of the first block, None for a prompt shorter than a block."""
        return self.hashes[0] if self.hashes else None


def chain(namespace: bytes, text: bytes, block_bytes: int = DEFAULT_BLOCK_BYTES) -> PrefixChain:
    """Hash `text` (UTF-8, rendered order) in blocks of `block_bytes`, seeded by `namespace`.

    Different namespaces (model, adapter, salt, thinking mode) share no hash. Each block's xxh3-64 takes the
    hash before it as its seed.
    """
    link = xxh3_64_intdigest(namespace)
    hashes = []
    with memoryview(text) as view:
        for start in range(0, len(text) - block_bytes + 1, block_bytes):
            link = xxh3_64_intdigest(view[start : start + block_bytes], link)
            hashes.append(link)
    return PrefixChain(tuple(hashes), len(text), block_bytes)
