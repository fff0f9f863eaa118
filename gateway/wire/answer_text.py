"""The text of an answer, from the bytes that a client was sent, and where two of them part; pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.wire.request import Endpoint
from gateway.wire.transcript import read_said


class _Choice(msgspec.Struct):
    message: Any = None
    text: Any = None


class _Body(msgspec.Struct):
    choices: list[_Choice]


def stream_text(endpoint: Endpoint, pieces: Sequence[bytes]) -> str | None:
    """Thoughts and answer of a stream of chat or text completions; None where it holds anything else."""
    said = read_said(endpoint, list(pieces))
    return None if said.odd or said.calls_tool or said.finish_reason is None else said.reasoning + said.text


def body_text(body: bytes) -> str | None:
    """The same of a plain body; None where it has not one answer, or anything but text in it."""
    try:
        choices = msgspec.json.decode(body, type=_Body).choices
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if len(choices) != 1:
        return None
    message = choices[0].message
    if not isinstance(message, dict):
        return choices[0].text if isinstance(choices[0].text, str) else None
    if message.get("tool_calls") or message.get("function_call"):
        return None
    parts = (message.get("reasoning") or message.get("reasoning_content") or "", message.get("content") or "")
    return "".join(parts) if all(isinstance(part, str) for part in parts) else None


def parting(one: str, other: str) -> int | None:
    """The first character in which two texts differ, counted from 0; None where they are the same."""
    if one == other:
        return None
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))
