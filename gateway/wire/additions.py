"""Splices the documented additions into a request body; every other byte stays as the client sent it; pure."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

_OPTIONS: Final = b'"stream_options"'
_USAGE: Final = b'"include_usage":true'
_WHITE: Final = b" \t\r\n"

_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]:,]', re.DOTALL)
_ESCAPED_LETTER: Final = re.compile(rb"\\u00[5-7]")

Span = tuple[int, int]


def add(body: bytes, *, include_usage: bool, fields: Sequence[tuple[str, str]] = ()) -> bytes:
    """`body`, a valid JSON object, with members appended and, if asked for, usage requested of a stream.

    A member that exists already is left where it is: engines let the last of two win, which is ours. An
    existing `stream_options` keeps its other members; one that is not an object stays, for the engine to refuse.
    """
    members = [b'"%b":%b' % (name.encode(), msgspec.json.encode(value)) for name, value in fields]
    splices: list[tuple[Span, bytes]] = []
    if include_usage:
        options = _member(body, body.index(b"{"), "stream_options") if _may_have_options(body) else None
        if options is None:
            members.append(b'"stream_options":{' + _USAGE + b"}")
        else:
            splices += _request_usage(body, options)
    if members:
        splices.append(_append(body, body.rindex(b"}"), b",".join(members)))
    return _spliced(body, splices) if splices else body


def _may_have_options(body: bytes) -> bool:
    """Whether the key may be there, in plain or written with escaped letters; False is certain."""
    return _OPTIONS in body or (b"\\u00" in body and _ESCAPED_LETTER.search(body) is not None)


def _request_usage(body: bytes, options: Span) -> list[tuple[Span, bytes]]:
    start, end = options
    value = body[start:end]
    if value == b"null":
        return [(options, b"{" + _USAGE + b"}")]
    if not value.startswith(b"{"):
        return []
    usage = _member(body, start, "include_usage")
    return [(usage, b"true") if usage else _append(body, end - 1, _USAGE)]


def _append(body: bytes, closing: int, members: bytes) -> tuple[Span, bytes]:
    """The splice that puts `members` before the brace that closes an object."""
    last = closing - 1
    while body[last] in _WHITE:
        last -= 1
    return (closing, closing), members if body[last : last + 1] == b"{" else b"," + members


def _member(body: bytes, opening: int, name: str) -> Span | None:
    """Where the value of the last member called `name` lies, in the object whose brace is at `opening`."""
    depth = 0
    key, start = b"", -1  # of the member being read; start is -1 until its colon has been seen
    found = None
    for token in _TOKEN.finditer(body, opening):
        mark = token[0]
        if mark in b"]}":
            depth -= 1
        if start >= 0 and ((depth == 1 and mark == b",") or depth == 0):
            if msgspec.json.decode(key) == name:
                found = _trimmed(body, start, token.start())
            start = -1
        if depth == 0 and mark == b"}":
            break
        if mark in b"[{":
            depth += 1
        elif start < 0:
            if mark == b":":
                start = token.end()
            else:
                key = mark
    return found


def _trimmed(body: bytes, start: int, end: int) -> Span:
    while body[start] in _WHITE:
        start += 1
    while body[end - 1] in _WHITE:
        end -= 1
    return start, end


def _spliced(body: bytes, splices: list[tuple[Span, bytes]]) -> bytes:
    pieces: list[bytes] = []
    position = 0
    for (start, end), replacement in splices:
        pieces += (body[position:start], replacement)
        position = end
    return b"".join((*pieces, body[position:]))
