"""What an answer says, whole or streamed, whichever engine said it, and whether it is sound; pure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from storm.asks import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Ask


class UnsoundError(Exception):
    """An answer that is not what any engine would have said: in words."""


class CutError(Exception):
    """A stream that ended with a clean error frame: its message."""


@dataclass(slots=True)
class Choice:
    """One choice of an answer."""

    text: str = ""
    reasoning: str = ""
    tool: str = ""
    arguments: str = ""
    finish: str | None = None


@dataclass(slots=True)
class Said:
    """An answer without what differs from engine to engine and from time to time: ids, dates, what was cached.

    `tokens` of prompt and completion; None in a stream that did not ask for usage.
    """

    choices: dict[int, Choice] = field(default_factory=dict)
    tokens: tuple[int, int] | None = None

    def choice(self, index: int = 0) -> Choice:
        """The choice of an index, made when first asked for."""
        return self.choices.setdefault(index, Choice())


def agree(said: Said, expected: Said) -> bool:
    """Whether an answer is the expected one; its usage counts where it was given."""
    return said.choices == expected.choices and said.tokens in (None, expected.tokens)


def read_whole(ask: Ask, raw: bytes) -> Said:
    """A plain answer. Raises UnsoundError."""
    try:
        body = json.loads(raw)
        if ask.path in (CHAT, COMPLETIONS):
            return _openai(body)
        if ask.path == RESPONSES:
            return _response(body)
        if ask.path == MESSAGES:
            return _message(body)
        return Said({0: Choice(text=json.dumps(body["tokens"]))})
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UnsoundError(f"a body that cannot be read ({error!r}): {raw[:200]!r}") from error


def read_stream(ask: Ask, raw: bytes) -> Said:
    """A stream. Raises CutError for one that ended with an error frame, UnsoundError for all else that is wrong."""
    try:
        events = list(_events(raw))
        said = {RESPONSES: _response_events, MESSAGES: _message_events}.get(ask.path, _openai_events)(events)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UnsoundError(f"a stream that cannot be read ({error!r}), ending in {raw[-200:]!r}") from error
    wants_usage = ask.path not in (CHAT, COMPLETIONS) or b'"include_usage": true' in ask.body
    if (said.tokens is not None) != wants_usage:
        raise UnsoundError("usage that was not asked for" if said.tokens else "no usage, though it was asked for")
    return said


def _events(raw: bytes) -> Iterator[dict[str, Any] | None]:
    """The data of each frame; None: `[DONE]`, which is the last one."""
    if not raw.endswith(b"\n\n"):
        raise UnsoundError(f"the last frame has no end: {raw[-200:]!r}")
    frames = raw.split(b"\n\n")[:-1]
    for number, frame in enumerate(frames, 1):
        lines = [line for line in frame.split(b"\n") if line.startswith(b"data: ")]
        if len(lines) != 1:
            raise UnsoundError(f"a frame without data: {frame!r}")
        data = lines[0].removeprefix(b"data: ")
        if data == b"[DONE]":
            if number != len(frames):
                raise UnsoundError(f"[DONE], and then {frames[number]!r}")
            yield None
            continue
        event = json.loads(data)
        if "error" in event and event.get("type", "error") == "error":
            if number != len(frames):
                raise UnsoundError(f"an error frame, and then {frames[number]!r}")
            raise CutError(str(event["error"]["message"]))
        yield event


def _openai(body: dict[str, Any]) -> Said:
    said = Said(tokens=_tokens(body["usage"], "prompt_tokens", "completion_tokens"))
    for one in body["choices"]:
        choice = said.choice(one["index"])
        choice.finish = one["finish_reason"]
        _speak(choice, one.get("message") or one)
    return said


def _openai_events(events: list[dict[str, Any] | None]) -> Said:
    if not events or events[-1] is not None:
        raise UnsoundError("a stream without [DONE]")
    said, names, roles = Said(), set(), 0
    for event in events[:-1]:
        if event is None:
            raise UnsoundError("[DONE] twice")
        names.add((event["id"], event["model"], event["object"]))
        if event.get("usage") is not None:
            said.tokens = _tokens(event["usage"], "prompt_tokens", "completion_tokens")
        for one in event["choices"]:
            choice = said.choice(one["index"])
            if choice.finish is not None:
                raise UnsoundError("a choice goes on after its finish reason")
            delta = one.get("delta") or one
            roles += "role" in delta
            _speak(choice, delta)
            choice.finish = one.get("finish_reason")
    if len(names) != 1:
        raise UnsoundError(f"a stream of several names: {sorted(names)}")
    if any(choice.finish is None for choice in said.choices.values()) or not said.choices:
        raise UnsoundError("a choice without a finish reason")
    if roles > len(said.choices):
        raise UnsoundError(f"{roles} roles for {len(said.choices)} choices")
    return said


def _speak(choice: Choice, part: dict[str, Any]) -> None:
    choice.text += part.get("content") or part.get("text") or ""
    choice.reasoning += part.get("reasoning") or part.get("reasoning_content") or ""
    for call in part.get("tool_calls") or ():
        choice.tool += call["function"].get("name") or ""
        choice.arguments += call["function"].get("arguments") or ""


def _response(body: dict[str, Any]) -> Said:
    texts = [part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"]]
    return Said(
        {0: Choice("".join(texts), finish=body["status"])}, _tokens(body["usage"], "input_tokens", "output_tokens")
    )


def _response_events(events: list[dict[str, Any] | None]) -> Said:
    given = [event for event in events if event is not None]
    deltas = "".join(event["delta"] for event in given if event["type"] == "response.output_text.delta")
    if given[-1]["type"] not in ("response.completed", "response.incomplete"):
        if given[-1]["type"] == "response.failed":
            raise CutError(str(given[-1]["response"].get("error")))
        raise UnsoundError(f"a stream that ends with {given[-1]['type']}")
    said = _response(given[-1]["response"])
    if said.choices[0].text != deltas:
        raise UnsoundError("the deltas are not the text")
    return said


def _message(body: dict[str, Any]) -> Said:
    text = "".join(block["text"] for block in body["content"] if block["type"] == "text")
    return Said({0: Choice(text, finish=body["stop_reason"])}, _tokens(body["usage"], "input_tokens", "output_tokens"))


def _message_events(events: list[dict[str, Any] | None]) -> Said:
    given = [event for event in events if event is not None]
    if given[0]["type"] != "message_start" or given[-1]["type"] != "message_stop":
        raise UnsoundError(f"a stream from {given[0]['type']} to {given[-1]['type']}")
    said = Said()
    for event in given:
        if event["type"] == "content_block_delta":
            said.choice().text += event["delta"]["text"]
        elif event["type"] == "message_delta":
            said.choice().finish = event["delta"]["stop_reason"]
            usage = {**given[0]["message"]["usage"], **event["usage"]}
            said.tokens = _tokens(usage, "input_tokens", "output_tokens")
    return said


def _tokens(usage: dict[str, Any], prompt: str, completion: str) -> tuple[int, int]:
    return usage[prompt], usage[completion]
