"""One request to a target, timed at the client; does I/O."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import msgspec

from engines.reports import RequestTiming, Usage
from gateway.bench.prompts import Prompt
from gateway.wire.request import Endpoint
from gateway.wire.stream import GarbledError, StreamWatcher

LONGEST_S: Final = 900.0
"""A request that takes longer is given up."""
_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=3.0)
_SAID: Final = 300


class AskError(Exception):
    """The target did not answer as it should; the message is one sentence. `status` is 0 where there was none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """`ttft_s` is from the last byte sent to the first content frame; `timing` is the engine's own word, if any."""

    ttft_s: float
    usage: Usage | None
    timing: RequestTiming | None
    headers: Mapping[str, str]


def new_client() -> httpx.AsyncClient:
    """A client for benchmarks: no proxies, no compression, connections that are not kept until engines close them."""
    return httpx.AsyncClient(
        limits=_LIMITS,
        timeout=httpx.Timeout(LONGEST_S, connect=10.0),
        trust_env=False,
        headers={"accept-encoding": "identity"},
    )


def body_of(prompt: Prompt, model: str, max_tokens: int) -> tuple[Endpoint, bytes]:
    """Where to post a prompt, and the body: a stream that ends after `max_tokens`."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if prompt.ids:
        return Endpoint.COMPLETIONS, msgspec.json.encode({**body, "prompt": prompt.ids})
    return Endpoint.CHAT, msgspec.json.encode({**body, "messages": [{"role": "user", "content": prompt.text}]})


async def ask(client: httpx.AsyncClient, url: str, headers: Mapping[str, str], endpoint: Endpoint,
              body: bytes) -> Answer:  # fmt: skip
    """Post a body and read its stream to the end. Raises AskError."""
    stopwatch = _Stopwatch()
    watcher = StreamWatcher(endpoint, strip_usage=False)
    first_at: float | None = None
    request = client.build_request(
        "POST",
        url + endpoint,
        content=body,
        headers={"content-type": "application/json", **headers},
        extensions={"trace": stopwatch.note, "timeout": client.timeout.as_dict()},
    )
    try:
        response = await client.send(request, stream=True)
        try:
            if response.status_code != 200:
                said = (await response.aread()).decode(errors="replace")
                raise AskError(f"{url} answered {response.status_code}: {_first_words(said)}", response.status_code)
            async for chunk in response.aiter_raw():
                watcher.feed(chunk)
                if first_at is None and watcher.first_token:
                    first_at = time.perf_counter()
        finally:
            await response.aclose()
    except (httpx.HTTPError, GarbledError) as error:
        raise AskError(f"{url} did not answer: {error or type(error).__name__}") from error
    watcher.finish()
    if watcher.error is not None:
        raise AskError(f"{url} broke its stream off: {_first_words(watcher.error.decode(errors='replace'))}")
    if first_at is None or stopwatch.sent_at is None:
        raise AskError(f"{url} answered 200 without any content")
    return Answer(first_at - stopwatch.sent_at, watcher.usage, watcher.timing, dict(response.headers))


class _Stopwatch:
    """Notes when a request's last byte was handed to the system."""

    def __init__(self) -> None:
        self.sent_at: float | None = None

    async def note(self, event: str, info: Mapping[str, Any]) -> None:  # noqa: ARG002 - httpcore's signature
        if event.endswith("send_request_body.complete"):
            self.sent_at = time.perf_counter()


def _first_words(text: str) -> str:
    return " ".join(text.split())[:_SAID]
