"""A target of a probe: an OpenAI-compatible server, or one pool behind a gateway; and its answers; does I/O."""

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

import httpx
import msgspec

from gateway.probe.answered import Answered, asked_hash
from gateway.probe.asking import Manner, request_body, with_answer
from gateway.probe.questions import Question

_PINS: Final = {"pool": "x-prefixgate-pool", "replica": "x-prefixgate-replica"}
_AGAIN: Final = frozenset({429, 502, 503, 504})
_PAUSES_S: Final = (0.5, 2.0, 5.0)
"""Before each new try."""
_LONGEST_ERROR: Final = 200


class TargetError(Exception):
    """The target is not named rightly, or cannot be used at all; the message is one sentence."""


class Target(msgspec.Struct, frozen=True):
    """`pins` are the headers that choose a pool or a replica of a gateway. `key` is never shown."""

    name: str
    url: str
    pins: Mapping[str, str] = {}
    model: str | None = None
    key: str = ""


def target_of(text: str) -> Target:
    """Of `NAME=URL`, where `#pool=POOL` or `#replica=REPLICA` after the URL chooses behind a gateway.

    Raises TargetError.
    """
    name, _, url = text.partition("=")
    try:
        parts = urlsplit(url)
        good = bool(name) and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise TargetError(f"--target must be NAME=http(s)://HOST:PORT, not {text!r}")
    pins = dict(parse_qsl(parts.fragment, keep_blank_values=True))
    unknown = [pin for pin, value in pins.items() if pin not in _PINS or not value]
    if unknown or bool(pins) != bool(parts.fragment):
        raise TargetError(f"--target {name}: after # comes pool=POOL or replica=REPLICA, not {parts.fragment!r}")
    base = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/").removesuffix("/v1")
    return Target(name, base, {_PINS[pin]: value for pin, value in pins.items()})


class HttpTarget:
    """Asks a target over HTTP. `open` first."""

    def __init__(self, target: Target, manner: Manner, timeout_s: float) -> None:
        self.target = target
        self.model = target.model or ""
        self._manner = manner
        self._tokens = True  # until it refuses to tell them
        headers = {**target.pins, **({"authorization": f"Bearer {target.key}"} if target.key else {})}
        limits = httpx.Timeout(timeout_s, connect=10.0)
        self._http = httpx.AsyncClient(base_url=target.url, headers=headers, timeout=limits, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def open(self) -> None:
        """Find out which model to ask. Raises TargetError."""
        if self.model:
            return
        answer, error = await self._sent("GET", "/v1/models", b"")
        if answer is None:
            raise TargetError(f"{self.target.name}: {error}")
        try:
            models = [card.id for card in msgspec.json.decode(answer, type=_Models).data]
        except msgspec.MsgspecError as wrong:
            raise TargetError(f"{self.target.name}: /v1/models is no list of models: {wrong}") from wrong
        if len(models) != 1:
            served = ", ".join(models) or "none"
            raise TargetError(f"{self.target.name}: serves {served}; say which with --model {self.target.name}=MODEL")
        self.model = models[0]

    def asked(self, question: Question) -> str:
        """What this target's answer to the question depends on, in a word."""
        target, manner = self.target, self._manner
        return asked_hash(target.url, sorted(target.pins.items()), self.model, manner, question.question)

    async def ask(self, question: Question) -> Answered:
        """The answer; one with an error where the target gives none."""
        began_at = time.monotonic()
        asked = Answered(self.target.name, question.id, self.asked(question))
        tokens = self._tokens
        body = request_body(question, self.model, self._manner, tokens=tokens)
        answer, error = await self._sent("POST", "/v1/chat/completions", body)
        if answer is None and tokens and "logprobs" in error:
            self._tokens = False
            return await self.ask(question)
        seconds = time.monotonic() - began_at
        if answer is None:
            return msgspec.structs.replace(asked, error=error, seconds=seconds)
        return msgspec.structs.replace(with_answer(asked, answer), seconds=seconds)

    async def _sent(self, method: str, path: str, body: bytes) -> tuple[bytes | None, str]:
        """The body of a good answer; else None and why, after a few tries where that may help."""
        error = ""
        for pause_s in (*_PAUSES_S, None):
            try:
                answer = await self._http.request(
                    method, path, content=body or None, headers={"content-type": "application/json"}
                )
            except httpx.TimeoutException:
                return None, f"{self.target.url} did not answer in time"
            except httpx.HTTPError as failure:
                error = f"{self.target.url} cannot be asked: {failure or type(failure).__name__}"
            else:
                if answer.status_code < 400:
                    return answer.content, ""
                error = f"{self.target.url} answered {answer.status_code}: {_message(answer.content)}"
                if answer.status_code not in _AGAIN:
                    return None, error
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        return None, error


class _Card(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Card]


def _message(body: bytes) -> str:
    """The message of an error body in whichever shape."""
    try:
        read: Any = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        read = None
    inner = read.get("error", read) if isinstance(read, dict) else read
    said = inner.get("message") if isinstance(inner, dict) else inner
    text = said if isinstance(said, str) else body.decode("utf-8", "replace")
    return " ".join(text.split())[:_LONGEST_ERROR]
