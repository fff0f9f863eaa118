"""A memo of token ids, bounded in bytes, least recently used out first; pure."""

import secrets
from collections import OrderedDict
from threading import Lock
from typing import Final

from xxhash import xxh3_128_digest

DEFAULT_MEMO_BYTES: Final = 64 * 1024 * 1024
ENTRY_BYTES: Final = 250
"""What an entry takes beside its ids, estimated: two bytes objects and their place in an ordered dict."""


class Memo:
    """From keys to packed token ids. May be used from any thread.

    Keys are 128-bit xxh3 with a seed that is new in every process: nobody outside can make two texts collide.
    """

    def __init__(self, limit_bytes: int = DEFAULT_MEMO_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._seed = secrets.randbits(64)
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._size_bytes = 0
        self._lock = Lock()

    @property
    def size_bytes(self) -> int:
        """Estimated memory of all entries."""
        return self._size_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, content: bytes) -> bytes:
        """The key of a content; raises nothing."""
        return xxh3_128_digest(content, self._seed)

    def get(self, key: bytes) -> bytes | None:
        """The packed ids kept under the key, which then count as just used."""
        with self._lock:
            ids = self._entries.get(key)
            if ids is not None:
                self._entries.move_to_end(key)
            return ids

    def put(self, key: bytes, ids: bytes) -> None:
        """Keep packed ids; what is larger than the whole memo is not kept."""
        size = len(ids) + ENTRY_BYTES
        if size > self.limit_bytes:
            return
        with self._lock:
            before = self._entries.pop(key, None)
            if before is not None:
                self._size_bytes -= len(before) + ENTRY_BYTES
            self._entries[key] = ids
            self._size_bytes += size
            while self._size_bytes > self.limit_bytes:
                _, oldest = self._entries.popitem(last=False)
                self._size_bytes -= len(oldest) + ENTRY_BYTES

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._size_bytes = 0
