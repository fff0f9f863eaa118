"""A JSON text changed in single places, all its other characters kept; pure.

Numbers keep their spelling (1e-06, 1.0), strings their escapes, objects their order, lines their indentation: what is
put in is spelled as the text itself spells its first member.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.checkpoint.refusal import CheckpointError

_NO_SPACE = re.compile(r"[^ \t\r\n]")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Member:
    """Where an object's member is: from `start`, its key's end, its value's begin, to `end`."""

    key: str
    start: int
    key_end: int
    value: int
    end: int


def parse(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    """The text and the object that it is. Raises CheckpointError if it is none, or has a key twice."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{name} is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} is not a JSON object")
    return text, value


def replaced(text: str, path: Sequence[str], value: object) -> str:
    """The text with another value at `path`, which must be there."""
    siblings, index = _find(text, path)
    member = siblings[index]
    return text[: member.value] + _spelled(text, value, member.start) + text[member.end :]


def appended(text: str, path: Sequence[str], value: object) -> str:
    """The text with one more member, named by the end of `path`, as the last of its object, which is not empty."""
    siblings = _members(text, _object(text, path[:-1]))
    last = siblings[-1]
    spelled = json.dumps(path[-1]) + _colon(text) + _spelled(text, value, last.start)
    return text[: last.end] + _between(text, siblings) + spelled + text[last.end :]


def removed(text: str, path: Sequence[str]) -> str:
    """The text without the member at `path`; undoes `appended`."""
    siblings, index = _find(text, path)
    start = siblings[index - 1].end if index else siblings[index].start
    end = siblings[index].end if index or len(siblings) == 1 else siblings[1].start
    return text[:start] + text[end:]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def _find(text: str, path: Sequence[str]) -> tuple[list[Member], int]:
    siblings = _members(text, _object(text, path[:-1]))
    return siblings, [member.key for member in siblings].index(path[-1])


def _object(text: str, path: Sequence[str]) -> int:
    at = _past_space(text, 0)
    for key in path:
        at = next(member.value for member in _members(text, at) if member.key == key)
    return at


def _members(text: str, at: int) -> list[Member]:
    """Of the object whose brace is at `at`."""
    found = []
    at = _past_space(text, at + 1)
    while text[at] != "}":
        key, key_end = _DECODER.raw_decode(text, at)
        value = _past_space(text, _past_space(text, key_end) + 1)
        _, end = _DECODER.raw_decode(text, value)
        found.append(Member(key, at, key_end, value, end))
        at = _past_space(text, end)
        if text[at] == ",":
            at = _past_space(text, at + 1)
    return found


def _past_space(text: str, at: int) -> int:
    found = _NO_SPACE.search(text, at)
    return len(text) if found is None else found.start()


def _between(text: str, siblings: Sequence[Member]) -> str:
    """What stands between two members of this object."""
    if len(siblings) > 1:
        return text[siblings[-2].end : siblings[-1].start]
    before = text[: siblings[0].start]
    return "," + (before[len(before.rstrip(" \t\r\n")) :] or " ")


def _colon(text: str) -> str:
    first = _members(text, _past_space(text, 0))[0]
    return text[first.key_end : first.value]


def _spelled(text: str, value: object, at: int) -> str:
    """The value as this text would spell it in the line of `at`."""
    brace = _past_space(text, 0)
    root = _members(text, brace)
    lead = text[brace + 1 : root[0].start]
    if "\n" not in lead:
        return json.dumps(value, separators=(_between(text, root), _colon(text)))
    newline = "\r\n" if "\r\n" in lead else "\n"
    line = text[text.rfind("\n", 0, at) + 1 : at]
    spelled = json.dumps(value, indent=lead.rpartition("\n")[2], separators=(",", _colon(text)))
    return spelled.replace("\n", newline + line[: len(line) - len(line.lstrip(" \t"))])
