"""What many streams cost that mostly wait: memory of the gateway for each, CPU per chunk; `make bench-streams`.

Cheap engines send each stream a chunk every few seconds. All streams are open at once; each byte of each is counted at
the clients. The exit status is 1 where a stream was refused, dropped or differs from what engines sent, or where one
costs more memory than it may. With `--where` the gateway runs in this process, and Python says who holds what.
"""

import argparse
import asyncio
import gc
import json
import resource
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from uvloop import new_event_loop
from wire.accounts import cpu_us, resident_bytes
from wire.load import requests, send
from wire.routers import Process, prefixgate, upstreams
from wire.streams import Tally, open_streams

from gateway.config import build
from gateway.serving.server import running

ENGINES = 2
MOST_KIB = 40.0
KIB = 1024
SETTLE_S = 2.0


async def one_alone(port: int, size: int) -> tuple[int, int]:
    """Number and checksum of the bytes that a stream has which is alone."""
    tally = Tally()
    await asyncio.gather(*await open_streams(port, requests(size, 1, stream=True), 1, tally))
    [body] = tally.bodies
    return body


async def measure(router: Process, streams: int, size: int, chunks: int, gap_s: float) -> dict[str, object]:
    """All figures, from a warm gateway to its rest."""
    await send(router.port, (next(requests(size, 2)) for _ in range(200)), 16)
    expected = await one_alone(router.port, size)
    await asyncio.sleep(SETTLE_S)
    before, tally = resident_bytes(router.pid), Tally()
    ends = await open_streams(router.port, requests(size, 3, stream=True), streams, tally)
    await tally.all_begun(streams)
    cpu_from, reads_from = cpu_us(router.pid), tally.reads
    await asyncio.sleep(max(gap_s, chunks * gap_s / 2))
    cpu_to, reads_to = cpu_us(router.pid), tally.reads
    open_now = sum(not end.done() for end in ends)
    during = resident_bytes(router.pid)
    await asyncio.gather(*ends)
    await asyncio.sleep(SETTLE_S)
    return {
        "streams": streams,
        "open_at_once": open_now,
        "whole": tally.bodies[expected],
        "different": tally.bodies.total() - tally.bodies[expected],
        "refused": tally.refused,
        "dropped": tally.dropped,
        "body_bytes": tally.body_bytes,
        "kib_per_stream": round((during - before) / streams / KIB, 1),
        "cpu_us_per_chunk": round((cpu_to - cpu_from) / max(reads_to - reads_from, 1), 1),
        "memory_before_mib": round(before / KIB**2),
        "memory_during_mib": round(during / KIB**2),
        "memory_after_mib": round(resident_bytes(router.pid) / KIB**2),
    }


async def where(engines: list[int], streams: int, size: int) -> list[str]:
    """Who holds the memory of a stream, as Python knows it: the lines that hold most, in bytes per stream."""
    urls = [f"http://127.0.0.1:{port}" for port in engines]
    pool = {"name": "p", "engine": "vllm", "replicas": urls, "model": "m"}
    async with running(build({"pools": [pool], "server": {"port": 0, "admin_port": 0}})) as run:
        port, tally = int(run.url.rpartition(":")[2]), Tally()
        await send(port, (next(requests(size, 2)) for _ in range(200)), 16)
        gc.collect()
        tracemalloc.start(1)
        ends = await open_streams(port, requests(size, 3, stream=True), streams, tally)
        await tally.all_begun(streams)
        gc.collect()
        held = tracemalloc.take_snapshot().statistics("lineno")
        tracemalloc.stop()
        await asyncio.gather(*ends)
    root = str(Path(__file__).parents[2]) + "/"
    held = [one for one in held if str(Path(__file__).parent) not in one.traceback[0].filename]
    lines = [f"{one.size / streams:8,.0f}  {one.traceback[0]}".replace(root, "") for one in held[:40]]
    return [*lines, f"{sum(one.size for one in held) / streams:8,.0f}  together"]


def main(arguments: list[str] | None = None, show: Callable[[str], None] = print) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=5_000)
    parser.add_argument("--chunks", type=int, default=8, help="of each stream")
    parser.add_argument("--gap-s", type=float, default=4.0, help="between them")
    parser.add_argument("--size", type=int, default=16_000, help="bytes of a request's body")
    parser.add_argument("--most-kib", type=float, default=MOST_KIB, help="that a stream may cost")
    parser.add_argument("--where", action="store_true", help="who holds it; best with fewer streams")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the processes started here inherit it
    pace = (options.chunks, 1000 * options.gap_s)
    with (
        tempfile.TemporaryDirectory() as name,
        upstreams(ENGINES, *pace, Path(name)) as processes,
        asyncio.Runner(loop_factory=new_event_loop) as runner,
    ):
        engines = [engine.port for engine in processes]
        if options.where:
            show("\n".join(runner.run(where(engines, options.streams, options.size))))
            return
        with prefixgate(engines, Path(name)) as router:
            figures = runner.run(measure(router, options.streams, options.size, options.chunks, options.gap_s))
    show(json.dumps(figures, indent=2) if options.json else "\n".join(f"{key:20} {figures[key]}" for key in figures))
    costs, whole = float(str(figures["kib_per_stream"])), figures["whole"] == options.streams
    if not whole or costs > options.most_kib:
        sys.exit(f"every stream must come whole and cost at most {options.most_kib:g} KiB")


if __name__ == "__main__":
    main()
