"""Cuts a byte stream of server-sent events into frames, whatever the chunks; pure."""

import re
from typing import Final

FRAME_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of a frame that are kept to be read; the rest of a longer one passes unread."""

# A line ends with \r\n, \n or \r; a final \r tells nothing until the byte after it is known.
_BLANK_LINE: Final = re.compile(rb"(?:\r\n|\n|\r(?=[^\n])){2}")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_LONGEST_CUT: Final = 3  # bytes of a blank line that the end of a chunk can leave undecided: \r\n\r
_GLANCE: Final = 16
_BOM: Final = b"\xef\xbb\xbf"


class FrameCutter:
    """Collects chunks into frames. A frame ends with its blank line, which belongs to it."""

    __slots__ = ("_head", "_held", "_limit", "between_frames")

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self.between_frames = True
        """Whether nothing is held, so that the next byte begins a frame."""
        self._limit = limit
        self._held = bytearray()
        self._head = b""  # the first bytes of a frame over the limit, while the rest of it passes

    def cut(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        """Take a chunk; pairs of bytes to pass on and the frame that they complete, in order.

        A frame over the limit passes in pieces: the frame is empty for all but the last of them, which comes
        with the frame's first `limit` bytes. So the two of a pair are equal only for a frame that is whole.
        """
        searched = max(len(self._held) - _LONGEST_CUT, 0)
        buffer: bytes | bytearray = chunk  # which mostly holds whole frames, cut without another copy
        if self._held:
            self._held += chunk
            buffer = self._held
        pairs = []
        start = 0
        for end in _frame_ends(buffer, searched):
            piece = bytes(buffer[start:end])
            start = end
            pairs.append((piece, self._head or piece[: self._limit]))
            self._head = b""
        held = self._held = bytearray(buffer[start:]) if start or buffer is chunk else self._held
        if self._head or len(held) > self._limit:
            self._head = self._head or bytes(held[: self._limit])
            pairs.append((bytes(held[:-_LONGEST_CUT]), b""))
            del held[:-_LONGEST_CUT]
        self.between_frames = not held and not self._head
        return pairs

    @property
    def begun(self) -> bytes:
        """The beginning of what is held."""
        return self._head[:_GLANCE] or bytes(self._held[:_GLANCE])

    def rest(self) -> tuple[bytes, bytes]:
        """What is held when the stream ends, like a pair of `cut`: a frame without its blank line."""
        held, head = bytes(self._held), self._head
        self._held.clear()
        self._head = b""
        return held, head or held


def _frame_ends(buffer: bytes | bytearray, searched: int) -> list[int]:
    """Where frames end, beyond the bytes that were searched before."""
    if buffer.find(b"\r", searched) >= 0:
        return [blank.end() for blank in _BLANK_LINE.finditer(buffer, searched)]
    ends = []
    end = buffer.find(b"\n\n", searched) + 2
    while end >= 2:
        ends.append(end)
        end = buffer.find(b"\n\n", end) + 2
    return ends


def payload(frame: bytes) -> bytes:
    """The data of a frame: its data lines joined by newlines; empty for a comment or a frame without data."""
    lines = _LINE_END.split(frame) if b"\r" in frame else frame.split(b"\n")
    lines[0] = lines[0].removeprefix(_BOM)
    return b"\n".join(
        [line[6:] if line.startswith(b"data: ") else line[5:] for line in lines if line.startswith(b"data:")]
    )
