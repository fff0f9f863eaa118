"""A prompt's sketch: its beginning in pieces, each as hashes only, so that prompts can be compared without text; pure.

Every piece is hashed as it is, and again with its times, identifiers and numbers masked: where two prompts part, the
first masked hash that is equal says what differs. No text is kept.
"""

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from gateway.wire.canonical import CONTENT, FIELD, TURN, VALUE

HEAD_BYTES: Final = 16 * 1024
"""Of a prompt that is looked at, about 4,000 tokens: so a sketch costs the event loop 1 to 5 ms, twice a second."""
PIECES: Final = 250
_LONGEST: Final = 512

_CUTS: Final = re.compile(rb"[\xf8-\xff]|\n+|[.!?;] |\}, ?(?=\{)")
"""Frame bytes are cut before, those that a value follows, and all else, behind."""
_WORDS: Final = re.compile(
    rb"\b[A-Za-z_-]*\d[\w:.,/+-]*(?<![.,:])|\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b"
    rb"|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}\b(?=[ ,.]+\d)"
)
"""What may differ from request to request: words with digits, and the names of days and months."""
_DIGIT: Final = re.compile(rb"\d")
_TIME: Final = re.compile(
    rb"[A-Z][a-z]+|\d{4}-\d\d-\d\d(?:[T_]?\d\d:\d\d.*)?|\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?Z?|\d{1,4}[./]\d{1,2}[./]\d{1,4}"
    rb"|1[5-9]\d{8}(?:\d{3})?(?:\.\d+)?"
)
_YEAR_OR_DAY: Final = re.compile(rb"(?:19|20)\d\d|[0-3]?\d(?:st|nd|rd|th)?")
_IDENTIFIER: Final = re.compile(rb"[A-Za-z_-]*[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|[\w-]{16,}")
_MASK: Final = b"\0"
_FRAME: Final = b"\xf8"
_OPENING: Final = CONTENT + VALUE


class Place(NamedTuple):
    """Where in a prompt something stands: a field before the turns, such as "tools", or a turn by its role."""

    name: str
    turn: int
    """From 1; 0 before the turns."""


class Sketch(NamedTuple):
    """Pieces side by side; `ends` in bytes. `places` begin at the pieces `starts`."""

    raw: "array[int]"
    times: "array[int]"
    identifiers: "array[int]"
    numbers: "array[int]"
    values: "array[int]"
    ends: "array[int]"
    starts: list[int]
    places: list[Place]

    def size(self, piece: int) -> int:
        """Its bytes."""
        return self.ends[piece] - (self.ends[piece - 1] if piece else 0)

    def begins(self, piece: int) -> int:
        """The byte at which it begins."""
        return self.ends[piece - 1] if piece else 0

    def place(self, piece: int) -> Place:
        """Where it stands."""
        return self.places[bisect_right(self.starts, piece) - 1]


def sketch(head: bytes, namespace: bytes) -> Sketch:
    """Of the beginning of a canonical prompt, `HEAD_BYTES` at most; a piece that is cut off is left out.

    Under different namespaces, which share no cache, no piece is the same.
    """
    seed = xxh3_64_intdigest(namespace)
    raw, times, identifiers, numbers, values, ends = (array(kind) for kind in "QQQQQI")
    starts, places = [0], [Place("prompt", 0)]
    turns = end = 0
    for piece in _pieces(head):
        end += len(piece)
        place = _place(piece, turns)
        if place is not None:
            turns = place.turn
            starts.append(len(raw))
            places.append(place)
        raw.append(xxh3_64_intdigest(piece, seed))
        for masked, bare in zip((times, identifiers, numbers, values), _masked(piece), strict=True):
            masked.append(xxh3_64_intdigest(bare, seed))
        ends.append(end)
    return Sketch(raw, times, identifiers, numbers, values, ends, starts, places)


def _pieces(head: bytes) -> Iterator[bytes]:
    """Lines, sentences and items: cut by content, so that an insertion moves no cut after it."""
    start, left = 0, PIECES
    cuts = [
        match.end() if match[0] < _FRAME or match[0] in _OPENING else match.start() for match in _CUTS.finditer(head)
    ]
    whole = len(head) if len(head) < HEAD_BYTES else len(head) // _LONGEST * _LONGEST
    for cut in (*cuts, whole):
        while start < cut and left:
            stop = min(cut, start + _LONGEST)
            yield head[start:stop]
            start = stop
            left -= 1


def _masked(piece: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """The piece without its times, without its identifiers, without its numbers, and without all of them."""
    words = list(_WORDS.finditer(piece)) if _DIGIT.search(piece) or b"day" in piece else []
    if not words:
        return piece, piece, piece, piece
    kinds = [_kind(match[0]) for match in words]
    if any(match[0][:1].isupper() and kind is _TIME for match, kind in zip(words, kinds, strict=True)):
        # the name of a month or day: then a year or a day beside it is part of it
        kinds = [
            _TIME if kind is None and _YEAR_OR_DAY.fullmatch(match[0]) else kind
            for kind, match in zip(kinds, words, strict=True)
        ]
    bare = _without(piece, words, kinds, (_TIME, _IDENTIFIER, None))
    if len(set(kinds)) == 1:  # as mostly
        times, identifiers, numbers = (bare if kinds[0] is kind else piece for kind in (_TIME, _IDENTIFIER, None))
    else:
        times, identifiers, numbers = (_without(piece, words, kinds, (kind,)) for kind in (_TIME, _IDENTIFIER, None))
    return times, identifiers, numbers, bare


def _kind(word: bytes) -> re.Pattern[bytes] | None:
    """Whether it is a time or an identifier; None: it holds a number."""
    return next((kind for kind in (_TIME, _IDENTIFIER) if kind.fullmatch(word)), None)


def _without(
    piece: bytes,
    words: Sequence[re.Match[bytes]],
    kinds: Sequence[re.Pattern[bytes] | None],
    masked: Sequence[re.Pattern[bytes] | None],
) -> bytes:
    """The piece with the words of those kinds masked."""
    parts, start = [], 0
    for match, kind in zip(words, kinds, strict=True):
        if kind in masked:
            parts += [piece[start : match.start()], _MASK]
            start = match.end()
    return b"".join((*parts, piece[start:]))


def _place(piece: bytes, turns: int) -> Place | None:
    """What begins with the piece, by the canonical prompt's grammar; None: it goes on."""
    if piece.startswith(TURN):
        role = re.split(rb"[\xf8-\xfe]", piece[1:], maxsplit=1)[0]
        return Place(role.decode("utf-8", "replace")[:40] or "item", turns + 1)
    if piece.startswith(FIELD) and not turns:
        return Place(piece[1:].split(VALUE, 1)[0].split(CONTENT, 1)[0].decode("utf-8", "replace")[:40], 0)
    return None
