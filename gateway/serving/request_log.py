"""One line of JSON for each request, or for each that had a problem; never a prompt, an answer or a key; does I/O."""

import asyncio
import os
import time
from collections import deque
from datetime import UTC, datetime
from typing import Final

import msgspec

from gateway.routing.facts import Finished, Outcome, Refused
from gateway.routing.scoreboard import RequestRecord

WAITING_LINES: Final = 10_000
"""Lines that may wait to be written; what comes on top is dropped and counted."""
WRITE_EVERY_S: Final = 0.2
_STDERR: Final = 2


class RequestLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is said of a request. Times are milliseconds; tokens by the engine's word, `predicted_*` by ours."""

    time: str
    request: str
    endpoint: str
    tenant: str
    outcome: str
    total_ms: float
    model: str = ""
    pool: str = ""
    replica: str = ""
    policy: str = ""
    attempts: int = 0
    reason: str = ""
    """Why it was refused: the error's code, or its type."""
    ttft_ms: float | None = None
    predicted_ttft_ms: float | None = None
    predicted_cached_tokens: int | None = None
    cached_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class RequestLog:
    """Takes requests as they end; they are written together a moment later, by a thread, so that none waits."""

    def __init__(self, *, everything: bool, file: int = _STDERR) -> None:
        self.dropped = 0
        self._everything = everything
        self._file = file
        self._lines: deque[RequestLine] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def wants(self, outcome: Outcome, attempts: int) -> bool:
        """Whether a request that ended so gets a line."""
        return self._everything or attempts > 1 or outcome not in (Outcome.COMPLETED, Outcome.CLIENT_GONE)

    def add(self, line: RequestLine) -> None:
        """Have it written; never waits."""
        if len(self._lines) >= WAITING_LINES:
            self.dropped += 1
            return
        self._lines.append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WRITE_EVERY_S, self._due)

    def notices(self) -> list[str]:
        """What an operator should know: sentences."""
        if not self.dropped:
            return []
        return [f"{self.dropped} lines about requests were dropped: whoever reads stderr is slower than they come"]

    async def close(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=1.0)
        await asyncio.wait([asyncio.create_task(asyncio.to_thread(self._write, self._taken()))], timeout=1.0)

    def _due(self) -> None:
        self._timer = None
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(asyncio.to_thread(self._write, self._taken()))
        else:  # whoever reads is slow
            self._timer = asyncio.get_running_loop().call_later(WRITE_EVERY_S, self._due)

    def _taken(self) -> list[RequestLine]:
        lines = list(self._lines)
        self._lines.clear()
        return lines

    def _write(self, lines: list[RequestLine]) -> None:
        rest = memoryview(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:  # nobody reads it
            self.dropped += len(lines)


def request_line(
    request_id: str,
    endpoint: str,
    tenant: str,
    accepted_at: float,
    end: Finished | Refused,
    record: RequestRecord | None,
    reason: str,
) -> RequestLine:
    """The line of a request that ended; `record` is of its last decision, where there was one."""
    said = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
    total_ms = _ms(end.at - accepted_at)
    if isinstance(end, Refused):
        return RequestLine(said, request_id, endpoint, tenant, end.outcome, total_ms, end.model, reason=reason)
    if record is None or record.decision.ticket != end.ticket:  # no longer kept, or of another request with that id
        return RequestLine(said, request_id, endpoint, tenant, end.outcome, total_ms, reason=reason)
    decision, usage = record.decision, record.usage
    chosen = decision.chosen
    return RequestLine(
        time=said,
        request=request_id,
        endpoint=endpoint,
        tenant=tenant,
        outcome=end.outcome,
        total_ms=total_ms,
        model=decision.model,
        pool=chosen.pool,
        replica=chosen.replica,
        policy=decision.policy,
        attempts=record.attempts,
        reason=reason,
        ttft_ms=None if record.ttft_s is None else _ms(record.ttft_s),
        predicted_ttft_ms=round(chosen.ttft_ms, 3),
        predicted_cached_tokens=chosen.cached_tokens,
        cached_tokens=None if usage is None else usage.cached_tokens,
        prompt_tokens=None if usage is None else usage.prompt_tokens,
        completion_tokens=None if usage is None else usage.completion_tokens,
    )


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
