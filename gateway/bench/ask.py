"""One request to a target, timed at the client; does I/O."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
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


@dataclass(frozen=True, slots=True)
class Post:
    """A request that is ready to be sent."""

    url: str
    endpoint: Endpoint
    headers: Mapping[str, str]
    body: bytes


def post_of(url: str, headers: Mapping[str, str], prompt: Prompt, model: str, max_tokens: int) -> Post:
    """A stream that ends after `max_tokens`: of token ids as a text completion, of text as a chat."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if prompt.ids:
        return Post(url, Endpoint.COMPLETIONS, headers, msgspec.json.encode({**body, "prompt": prompt.ids}))
    message = {"role": "user", "content": prompt.text}
    return Post(url, Endpoint.CHAT, headers, msgspec.json.encode({**body, "messages": [message]}))


async def ask(client: httpx.AsyncClient, post: Post) -> Answer:
    """Send a request and read its stream to the end. Raises AskError."""
    stopwatch = _Stopwatch()
    watcher = StreamWatcher(post.endpoint, strip_usage=False)
    first_at: float | None = None
    async with _stream(client, post, stopwatch) as response:
        async for chunk in response.aiter_raw():
            watcher.feed(chunk)
            if first_at is None and watcher.first_token:
                first_at = time.perf_counter()
    watcher.finish()
    if watcher.error is not None:
        raise AskError(f"{post.url} broke its stream off: {_first_words(watcher.error.decode(errors='replace'))}")
    if first_at is None or stopwatch.sent_at is None:
        raise AskError(f"{post.url} answered 200 without any content")
    return Answer(first_at - stopwatch.sent_at, watcher.usage, watcher.timing, dict(response.headers))


class Held:
    """A request that stays in the engine: its stream is read up to the first content and no further."""

    def __init__(self) -> None:
        self.failure: AskError | None = None
        """Why it did not start."""
        self._over = asyncio.Event()

    async def run(self, client: httpx.AsyncClient, post: Post) -> None:
        """Send it and keep it until this is cancelled."""
        watcher = StreamWatcher(post.endpoint, strip_usage=False)
        try:
            async with _stream(client, post, _Stopwatch()) as response:
                async for chunk in response.aiter_raw():
                    watcher.feed(chunk)
                    if watcher.first_token:
                        self._over.set()
                        await asyncio.Event().wait()
            raise AskError(f"{post.url} answered without any content")
        except AskError as error:
            self.failure = error
            self._over.set()

    async def started_within(self, seconds: float) -> bool:
        """Whether its first content has come, waiting so long for it."""
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return False
        return self.failure is None


@asynccontextmanager
async def held(client: httpx.AsyncClient, post: Post) -> AsyncIterator[Held]:
    """A request that is in the engine for as long as the block runs, or until it ends by itself."""
    one = Held()
    task = asyncio.create_task(one.run(client, post))
    try:
        yield one
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def _stream(client: httpx.AsyncClient, post: Post, stopwatch: "_Stopwatch") -> AsyncIterator[httpx.Response]:
    """The answer's bytes as they come. Raises AskError for every other status than 200, and for a broken stream."""
    headers = {"content-type": "application/json", **post.headers}
    extensions = {"trace": stopwatch.note}
    try:
        async with client.stream(
            "POST", post.url + post.endpoint, content=post.body, headers=headers, extensions=extensions
        ) as response:
            if response.status_code != 200:
                said = _first_words((await response.aread()).decode(errors="replace"))
                raise AskError(f"{post.url} answered {response.status_code}: {said}", response.status_code)
            yield response
    except (httpx.HTTPError, GarbledError) as error:
        raise AskError(f"{post.url} did not answer: {error or type(error).__name__}") from error


class _Stopwatch:
    """Notes when a request's last byte was handed to the system."""

    def __init__(self) -> None:
        self.sent_at: float | None = None

    async def note(self, event: str, info: Mapping[str, Any]) -> None:  # noqa: ARG002 - httpcore's signature
        if event.endswith("send_request_body.complete"):
            self.sent_at = time.perf_counter()


def _first_words(text: str) -> str:
    return " ".join(text.split())[:_SAID]
