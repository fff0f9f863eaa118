"""What the gateway costs on the wire, beside peers where they are installed (`make bench-peers`); `make bench`.

Each router stands in front of the same two cheap engines and gets the same requests, in turns and several rounds, of
which the best counts: CPU-µs per request for bodies of 1, 16 and 100 KB, per streamed chunk, the time it adds to an
answer, and its memory after many distinct prompts. CPU is the kernel's account of the router's processes; the machine's
noise is in all of them, so read the ratios.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from math import inf
from pathlib import Path
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table
from uvloop import new_event_loop
from wire.accounts import cpu_us, resident_bytes
from wire.load import Outcome, requests, send
from wire.routers import ROUTERS, Process, Router, upstreams

SIZES = (1_000, 16_000, 100_000)
CONNECTIONS = 16
STREAMS = 128
CHUNKS = 100
GAP_MS = 20.0
ENGINES = 2
ROUNDS = 6
REFERENCE = "sglang-router"
MIB = 2**20


@dataclass(slots=True)
class Figures:
    """One router's, of the best round each: noise only ever adds."""

    name: str
    cpu_us: dict[int, float]
    """Per request, by size of the body in bytes."""
    chunk_us: float
    added_ms: tuple[float, float]
    """Median and 99th percentile of an answer, less those without a router."""
    start_mib: float
    end_mib: float
    prompts: int


def run(port: int, source: Iterator[bytes], connections: int) -> Outcome:
    """Send it all; ends the program where an answer is no success."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        outcome = runner.run(send(port, source, connections))
    if outcome.refused:
        raise SystemExit(f"{len(outcome.refused)} requests were refused, the first with {outcome.refused[0]!r}")
    return outcome


def per_request(router: Process, size: int, count: int, seed: int) -> float:
    """CPU-µs of the router per request with a body of `size` bytes."""
    source = list(islice(requests(size, seed), count))
    before = cpu_us(router.pid)
    run(router.port, iter(source), CONNECTIONS)
    return (cpu_us(router.pid) - before) / count


def per_chunk(router: Process, seed: int) -> float:
    """CPU-µs of the router per chunk, with `STREAMS` streams at a time; what the requests cost is in it."""
    source = list(islice(requests(1_000, seed, stream=True), STREAMS))
    before = cpu_us(router.pid)
    outcome = run(router.port, iter(source), STREAMS)
    return (cpu_us(router.pid) - before) / outcome.chunks


def times_ms(port: int, count: int, seed: int) -> tuple[float, float]:
    """Median and 99th percentile of an answer to 16 KB, one request at a time."""
    seconds = run(port, islice(requests(16_000, seed), count), 1).seconds
    return 1000 * median(seconds), 1000 * quantiles(seconds, n=100)[98]


def measure(routers: Sequence[Router], engines: Sequence[int], folder: Path, scale: float, seed: int) -> list[Figures]:
    """All figures, in `ROUNDS` rounds of short turns: what the machine does meanwhile meets all routers alike."""
    prompts = round(20_000 * scale)
    with ExitStack() as stack:
        running = [(router.name, stack.enter_context(router.run(engines, folder))) for router in routers]
        for _, process in running:
            run(process.port, islice(requests(16_000, seed), 300), CONNECTIONS)  # warm
        start_mib = {name: resident_bytes(process.pid) / MIB for name, process in running}
        sizes = {name: dict.fromkeys(SIZES, inf) for name, _ in running}
        chunk = dict.fromkeys(start_mib, inf)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ("", *start_mib)}
        for turn in range(ROUNDS):
            print(f"round {turn + 1} of {ROUNDS} …", file=sys.stderr)
            for size in SIZES:
                count = max(round(scale * (1_000 if size < 50_000 else 300)), 20)
                for name, process in running:
                    sizes[name][size] = min(sizes[name][size], per_request(process, size, count, seed + turn))
            for name, process in running:
                chunk[name] = min(chunk[name], per_chunk(process, seed + turn))
            for name, port in (("", engines[0]), *((name, process.port) for name, process in running)):
                times[name].append(times_ms(port, 200, seed + turn))
        figures = []
        for name, process in running:
            print(f"{prompts} prompts to {name} …", file=sys.stderr)
            run(process.port, islice(requests(16_000, seed + 99), prompts), CONNECTIONS)
            time.sleep(1.0)
            end_mib = resident_bytes(process.pid) / MIB
            pairs = zip(map(min, *times[name]), map(min, *times[""]), strict=True)
            p50, p99 = (through - alone for through, alone in pairs)
            figures.append(Figures(name, sizes[name], chunk[name], (p50, p99), start_mib[name], end_mib, prompts))
        return figures


def row(one: Figures) -> dict[str, object]:
    """The figures under the names that `--json` gives them."""
    return {
        "router": one.name,
        **{f"cpu_us_{size // 1000}kb": round(us, 1) for size, us in one.cpu_us.items()},
        "cpu_us_per_chunk": round(one.chunk_us, 1),
        "added_p50_ms": round(one.added_ms[0], 3),
        "added_p99_ms": round(one.added_ms[1], 3),
        "memory_start_mib": round(one.start_mib),
        f"memory_after_{one.prompts}_prompts_mib": round(one.end_mib),
    }


def table(rows: Sequence[dict[str, object]]) -> Table:
    """The rows for people, and below them each as a share of the reference's."""
    shown = Table(title="CPU-µs of the router per request and chunk; milliseconds added; memory", box=None)
    for name in rows[0]:
        shown.add_column(name.replace("_", " "), justify="left" if name == "router" else "right")
    for one in rows:
        shown.add_row(*map(str, one.values()))
    reference = next((one for one in rows if one["router"] == REFERENCE), None)
    for one in rows if reference else ():
        if one is not reference:
            pairs = [(float(str(one[name])), float(str(reference[name]))) for name in list(one)[1:]]
            ratios = [f"{figure / of_reference:.2f}×" if of_reference else "" for figure, of_reference in pairs]
            shown.add_row(f"{one['router']} ÷ {REFERENCE}", *ratios)
    return shown


def main(arguments: list[str] | None = None, show: Callable[[str], None] = print) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routers", help="some of: " + ", ".join(router.name for router in ROUTERS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of requests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    wanted = options.routers.split(",") if options.routers else [router.name for router in ROUTERS if router.installed]
    rows = []
    with tempfile.TemporaryDirectory() as name, upstreams(ENGINES, CHUNKS, GAP_MS, Path(name)) as processes:
        engines = [engine.port for engine in processes]
        chosen = [router for router in ROUTERS if router.name in wanted]
        rows = [row(one) for one in measure(chosen, engines, Path(name), options.scale, options.seed)]
    if options.json:
        show(json.dumps(rows, indent=2))
    else:
        Console(width=200).print(table(rows))


if __name__ == "__main__":
    main()
