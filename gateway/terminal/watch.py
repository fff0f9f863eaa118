"""Listening to a gateway's live events, again and again; does I/O."""

import time
from collections.abc import Iterator
from typing import Final

import httpx
import msgspec

from gateway.serving.admin import AdminView

AGAIN_S: Final = 2.0
SILENT_S: Final = 10.0
_VIEW: Final = msgspec.json.Decoder(AdminView)


class WatchError(Exception):
    """The gateway cannot be watched; the message is one sentence and says what to do."""


class Lost(msgspec.Struct, frozen=True):
    """The gateway does not answer; it is asked again."""

    reason: str


def watch(url: str, token: str | None) -> Iterator[AdminView | Lost]:
    """Views as the gateway sends them, one a second. Raises WatchError where asking again is of no use."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=SILENT_S) as client:
        while True:
            try:
                yield from _listen(client)
                yield Lost("the gateway ended its answer")
            except httpx.InvalidURL as error:
                raise WatchError(f"{url} is no URL: {error}") from error
            except httpx.HTTPError as error:
                yield Lost(f"{url} does not answer: {error or type(error).__name__}")
            time.sleep(AGAIN_S)


def _listen(client: httpx.Client) -> Iterator[AdminView]:
    with client.stream("GET", "/api/events") as answer:
        if answer.status_code in (401, 403):
            raise WatchError("the admin port wants its token: name its environment variable with --token-env")
        if answer.status_code != 200:
            raise WatchError(f"{client.base_url} is no admin port of a gateway: it answers {answer.status_code}")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                try:
                    yield _VIEW.decode(line[len("data: ") :])
                except msgspec.DecodeError as error:
                    raise WatchError(f"the gateway is of another version: {error}") from error
