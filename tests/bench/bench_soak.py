"""An hour of traffic, scaled: does anything grow? Memory, index, connections, journal; `make bench-soak`.

Every kind of request at once and at full speed, over two cheap engines that are restarted in turn. The gateway's
memory is compared over the second half of the requests, when all that is bounded is full. The exit status is 1 where
memory still grows, a request ended otherwise than it should, or something is still open when all is over.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

import httpx
from uvloop import new_event_loop
from wire.growth import Sample, chart, sample, slope
from wire.mixed import Tally, Traffic, visit
from wire.routers import Process, prefixgate, upstream

CONNECTIONS = 64
ENGINE = {"chunks": 10, "gap_ms": 5.0, "cache_blocks": 8_000, "kv_tokens": 1_000_000}
MOST_MIB_PER_100K = 3.0
NOISE_MIB = 3.0
TOLERATED = (502, 503)
"""What a request may get whose engine is restarted, as long as few do."""
MOST_TOLERATED = 0.01
JOURNAL_BYTES = 2_000_000
REST_S = 20.0


class Engines:
    """Two cheap engines that can be restarted on their ports."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._folder = folder
        self._stacks = [stack.enter_context(ExitStack()) for _ in range(2)]
        self.ports = [self._start(number, 0) for number in range(2)]

    def _start(self, number: int, port: int) -> int:
        log = self._folder / f"upstream-{number}.log"
        return self._stacks[number].enter_context(upstream(log, **ENGINE, port=port)).port

    async def restart_in_turn(self, every_s: float, down_s: float) -> None:
        """Until cancelled."""
        turn = 0
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(self._stacks[turn].close)
            await asyncio.sleep(down_s)
            await asyncio.to_thread(self._start, turn, self.ports[turn])
            turn = 1 - turn


async def soak(
    router: Process, engines: Engines, most: int, minutes: float, every_s: float
) -> tuple[list[Sample], Tally]:
    """Samples from the beginning to the rest after all, and what became of the requests."""
    traffic, tally, samples = Traffic(1, most), Tally(), list[Sample]()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{router.admin_port}", trust_env=False, timeout=30) as http:

        async def look() -> None:
            page = (await http.get("/metrics")).text
            samples.append(sample(router.pid, router.port, engines.ports, page, tally.requests))

        restarts = asyncio.create_task(engines.restart_in_turn(every_s, every_s / 10))
        visits = asyncio.create_task(visit(router.port, traffic, tally, CONNECTIONS))
        until = time.monotonic() + 60 * minutes
        while not visits.done():
            await look()
            await asyncio.wait({visits}, timeout=min(1.0, every_s / 4))
            if time.monotonic() > until:
                traffic.end()
        restarts.cancel()
        with suppress(asyncio.CancelledError):
            await restarts
        until = time.monotonic() + REST_S
        while True:
            await asyncio.sleep(0.5)
            await look()
            rest = samples[-1]
            if not (rest.clients or rest.inflight or rest.waiting_lines) or time.monotonic() > until:
                return samples, tally


def complaints(samples: list[Sample], tally: Tally, most_mib: float) -> list[str]:
    """What is not as it should be."""
    *running, rest = samples
    half = [one for one in running if one.requests >= rest.requests / 2]
    grown, requests = slope(half), half[-1].requests - half[0].requests
    found = []
    if grown * requests / 100_000 > NOISE_MIB + most_mib * requests / 100_000:
        found.append(f"memory grows by {grown:.1f} MiB for each 100,000 requests")
    odd = {key: count for key, count in tally.surprises.items() if key[1] not in TOLERATED}
    if odd:
        found.append(f"requests ended otherwise than they should: {odd}")
    if tally.surprises.total() > MOST_TOLERATED * tally.requests:
        found.append(f"too many failed for their engine's restart: {dict(tally.surprises)}")
    if rest.clients or rest.inflight or rest.waiting_lines:
        found.append(f"something is left when all is over: {rest}")
    return found


def main(arguments: list[str] | None = None, show: Callable[[str], None] = print) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="at most")
    parser.add_argument("--requests", type=int, default=10_000_000, help="at most")
    parser.add_argument("--restart-s", type=float, default=15.0, help="between restarts of an engine")
    parser.add_argument("--most-mib", type=float, default=MOST_MIB_PER_100K, help="of growth for 100,000 requests")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        engines = Engines(stack, folder)
        journal = f'[journal]\npath = "{folder / "journal.jsonl"}"\nmax_bytes = {JOURNAL_BYTES}\n'
        router = stack.enter_context(prefixgate(engines.ports, folder, tables=journal))
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            samples, tally = runner.run(soak(router, engines, options.requests, options.minutes, options.restart_s))
    wrong = complaints(samples, tally, options.most_mib)
    half = [one for one in samples if one.requests >= samples[-1].requests / 2]
    if options.json:
        ends = {f"{kind}: {status}": count for (kind, status), count in sorted(tally.ends.items())}
        figures = {"slope_mib_per_100k": slope(half), "ends": ends, "wrong": wrong}
        show(json.dumps({**figures, "samples": [asdict(one) for one in samples]}, indent=2))
    else:
        show(chart(samples))
        for name, one in (
            ("after a tenth", samples[len(samples) // 10]),
            ("half-way", half[0]),
            ("at rest", samples[-1]),
        ):
            show(f"{name:14}" + ", ".join(f"{key} {value:,.0f}" for key, value in asdict(one).items()))
        show(
            f"ends          {', '.join(f'{kind} {status}: {n:,}' for (kind, status), n in sorted(tally.ends.items()))}"
        )
        show(f"second half   {slope(half):+.2f} MiB for each 100,000 requests: {'; '.join(wrong) or 'flat'}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
