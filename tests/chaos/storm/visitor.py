"""Sends one request over a connection of its own, and says what became of it; does I/O."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from raw_client import Headers, RawClient, raw_client

from storm.asks import Ask
from storm.reading import CutError, Said, UnsoundError, agree, read_stream, read_whole

PATIENCE_S = 30.0
Outcome = Literal["completed", "refused", "left", "cut", "failed"]
"""`refused`: a mistake that nobody could serve; `cut`: a stream that nobody could go on with, and an error frame."""


@dataclass(slots=True)
class Visit:
    """A request and its end; times on the loop's clock. `why` is what the gateway said, where it did not go well."""

    ask: Ask
    request_id: str
    began: float
    ended: float = 0.0
    outcome: Outcome = "failed"
    why: str = ""
    replica: str = ""
    """Who began the answer, by its head; who tried last, where there was none."""
    last_replica: str = ""
    attempts: int | None = None


async def visit(url: str, ask: Ask, request_id: str, expected: Mapping[bytes, Said]) -> Visit:
    """Send it and read the answer; never raises but when cancelled."""
    clock = asyncio.get_running_loop().time
    done = Visit(ask, request_id, clock())
    try:
        async with asyncio.timeout(PATIENCE_S), raw_client(url, limit=1 << 22) as http:
            await http.post(ask.body, ask.path, x_request_id=request_id)
            await _listen(http, done, expected)
    except TimeoutError:
        done.why = f"no (whole) answer in {PATIENCE_S:g} s"
    except asyncio.IncompleteReadError as error:
        done.why = f"the gateway broke off after {error.partial[-200:]!r}"
    except OSError as error:
        done.why = f"the connection failed: {error!r}"
    except UnsoundError as error:
        done.why = str(error)
    done.ended = clock()
    return done


async def _listen(http: RawClient, done: Visit, expected: Mapping[bytes, Said]) -> None:
    ask = done.ask
    if ask.leaves_after == 0:
        await asyncio.sleep(0.02)
        await http.leave()
        done.outcome = "left"
        return
    status, headers = await http.head()
    done.replica = headers.get("x-prefixgate-replica", "")
    if ask.leaves_after is not None and await _leaves(http, headers, ask.leaves_after):
        done.outcome = "left"
        return
    if ask.leaves_after is not None:
        done.outcome = "completed"  # before its client had heard enough
        return
    body = await http.body(headers)
    if ask.refused is not None:
        if status != ask.refused:
            raise UnsoundError(f"{status} instead of {ask.refused}: {body[:200]!r}")
        done.outcome, done.why = "refused", str(json.loads(body)["error"]["message"])
        return
    if status != 200:
        raise UnsoundError(f"{status} {headers.get('retry-after', '')} {body[:300].decode('utf-8', 'replace')}")
    if ask.streams != headers["content-type"].startswith("text/event-stream"):
        raise UnsoundError(f"an answer of type {headers['content-type']}")
    try:
        said = read_stream(ask, body) if ask.streams else read_whole(ask, body)
    except CutError as error:
        done.why = f"cut: {error}"
        done.outcome = "cut" if ask.may_be_cut else "failed"
        return
    if not agree(said, expected[ask.body]):
        raise UnsoundError(f"another answer than undisturbed: {said} instead of {expected[ask.body]}")
    done.outcome = "completed"


async def _leaves(http: RawClient, headers: Headers, after: int) -> bool:
    """Leave after so many bytes; False where the answer was shorter."""
    if "content-length" in headers:
        await http.body(headers)
        return False
    got = 0
    while got < after:
        chunk = await http.chunk()
        if not chunk:
            return False
        got += len(chunk)
    await http.leave()
    return True
