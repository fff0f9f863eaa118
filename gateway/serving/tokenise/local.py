"""Token ids by a tokenizer of our own: small new texts at once, large ones in a thread; does I/O."""

import asyncio
from typing import Final

from gateway.serving.tokenise.counts import TokenCounts
from gateway.tokens.encoder import Encoding
from gateway.tokens.errors import InexactError, Reason
from gateway.tokens.prompt import ChatPrompt, TextPrompt
from gateway.tokens.tokeniser import Tokeniser

INLINE_BYTES: Final = 4096
"""Up to so much new text is encoded at once: a few milliseconds at most, less than a thread may wait its turn."""


class LocalTokens:
    """One tokenizer's share of the event loop."""

    def __init__(self, tokeniser: Tokeniser, counts: TokenCounts, limit_s: float) -> None:
        self.tokeniser = tokeniser
        self._counts = counts
        self._limit_s = limit_s
        self._running: dict[bytes, asyncio.Task[bytes]] = {}
        """The encodings in threads, by the pieces that they are about to put into the memo."""

    async def tokens(self, prompt: ChatPrompt | TextPrompt) -> bytes:
        """The prompt's ids as 4-byte little endian. InexactError, also when it takes too long."""
        encoding = self.tokeniser.begin(prompt)
        self._counts.known_bytes += encoding.known_bytes
        self._counts.new_bytes += encoding.unknown_bytes
        if encoding.unknown_bytes <= INLINE_BYTES:
            return encoding.finish()
        task = self._start(encoding)
        done, _ = await asyncio.wait({task}, timeout=self._limit_s)
        if not done:  # it goes on: its memo serves the next request
            raise InexactError(Reason.SLOW)
        return task.result()

    def close(self) -> None:
        """Stop waiting for threads."""
        for task in self._running.values():
            task.cancel()

    def _start(self, encoding: Encoding) -> asyncio.Task[bytes]:
        pieces = encoding.unknown
        others = {self._running[piece] for piece in pieces if piece in self._running}
        task = asyncio.get_running_loop().create_task(_encode(encoding, others))
        for piece in pieces:
            self._running.setdefault(piece, task)
        task.add_done_callback(lambda _: self._forget(task, pieces))
        return task

    def _forget(self, task: asyncio.Task[bytes], pieces: frozenset[bytes]) -> None:
        for piece in pieces:
            if self._running.get(piece) is task:
                del self._running[piece]


async def _encode(encoding: Encoding, others: set[asyncio.Task[bytes]]) -> bytes:
    """Let those go first who are at the same pieces: in a burst each piece is encoded once."""
    if others:
        await asyncio.wait(others)
        encoding.look_again()
    return await asyncio.to_thread(encoding.finish)
