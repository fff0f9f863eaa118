"""What a second worker brings: requests a second, CPU, and hit rate with one worker and with two; `make bench-workers`.

The same closed-loop load from processes of its own, through one worker and then through two, over the same cheap
engines. On a machine whose cores engines and load need too, the ratio of throughputs says what is left for the
gateway; the ratio by CPU accounts says what two cores of its own would give: cores over CPU per request. Conversations
whose engines' caches are just large enough, if each turn goes where the one before went, show the hit rate: the
engines' word. A connection's requests all reach the same worker, a conversation's turns come over any connection.
Where two cores are threads of one, both are slower while both are busy, and CPU per request is more with two workers.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table
from wire.accounts import cpu_us, machine_cpu_us, own_cpu_us
from wire.routers import Process, prefixgate, upstreams

SIZES = [1_000, 16_000]
ENGINES = 2
CONNECTIONS = 64
CACHE_BLOCKS = 2_600
CONVERSATIONS = 300


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one load. CPU is for each request: of the gateway, `parent_us` of it of its first process, and of
    engines and load. `strangers` is how many cores the rest of the machine used: above 0.1 the throughputs mean little.
    """

    requests: int
    seconds: float
    gateway_us: float
    parent_us: float
    other_us: float
    strangers: float

    @property
    def per_second(self) -> float:
        """Throughput."""
        return self.requests / self.seconds


@contextmanager
def generators(count: int, port: int, arguments: Sequence[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """So many load generators, ready to go, with different seeds."""
    command = [sys.executable, "-m", "wire.generator", "--port", str(port), *arguments]
    folder = Path(__file__).parent
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": folder}
    started = [subprocess.Popen([*command, "--seed", str(number)], **pipes) for number in range(count)]  # type: ignore[call-overload]
    try:
        for one in started:
            if one.stdout.readline() != "ready\n":
                raise SystemExit("a load generator did not start")
        yield started
    finally:
        for one in started:
            one.kill()
            one.communicate()


def tell(process: subprocess.Popen[str]) -> None:
    """A word on its stdin."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def send(gateway: Process, engines: Sequence[Process], count: int, arguments: Sequence[str]) -> Sent:
    """One load from `count` processes, with the accounts of all who take part."""
    with generators(count, gateway.port, arguments) as started:
        others = [*(one.pid for one in engines), *(one.pid for one in started)]

        def accounts() -> tuple[float, float, float, float]:
            return cpu_us(gateway.pid), own_cpu_us(gateway.pid), sum(map(cpu_us, others)), machine_cpu_us()

        before = accounts()
        for one in started:
            tell(one)
        ends = [json.loads(one.stdout.readline()) for one in started if one.stdout is not None]
        after = accounts()
    requests = sum(end["requests"] for end in ends)
    seconds = max(end["seconds"] for end in ends)
    ours, parents, theirs, all_of_it = (late - early for early, late in zip(before, after, strict=True))
    strangers = max(all_of_it - ours - theirs, 0.0) / seconds / 1_000_000
    return Sent(requests, seconds, ours / requests, parents / requests, theirs / requests, strangers)


def hit_rate(gateway: Process) -> float:
    """Delivered over prompt tokens, by the engines' word."""
    shown = httpx.get(f"http://127.0.0.1:{gateway.admin_port}/metrics", timeout=30, trust_env=False).text

    def total(pattern: str) -> float:
        return sum(map(float, re.findall(rf"^prefixgate_{pattern} (\S+)$", shown, re.MULTILINE)))

    return total(r'cached_tokens_total\{[^}]*kind="delivered"[^}]*\}') / total(r"prompt_tokens_total\{[^}]*\}")


def throughput(size: int, options: argparse.Namespace, folder: Path) -> dict[int, list[Sent]]:
    """Rounds by number of workers, in turns: what else the machine does meanwhile happens to both."""
    each = ["--connections", str(CONNECTIONS // options.generators), "--size", str(size)]
    each += ["--count", str(round(options.scale * 12_000 / options.generators))]
    rounds: dict[int, list[Sent]] = {1: [], options.workers: []}
    with upstreams(ENGINES, 1, 0, folder) as engines, ExitStack() as stack:
        ports = [engine.port for engine in engines]
        gateways = {workers: stack.enter_context(prefixgate(ports, folder, workers)) for workers in rounds}
        for gateway in gateways.values():
            send(gateway, engines, options.generators, [*each[:-1], "200"])  # warm
        for _ in range(options.rounds):
            for workers, gateway in gateways.items():
                rounds[workers].append(send(gateway, engines, options.generators, each))
    return rounds


def best(rounds: Sequence[Sent]) -> Sent:
    """The best of each figure: noise only ever slows."""
    return Sent(
        rounds[0].requests,
        min(one.seconds for one in rounds),
        min(one.gateway_us for one in rounds),
        min(one.parent_us for one in rounds),
        min(one.other_us for one in rounds),
        min(one.strangers for one in rounds),
    )


def conversations(workers: int, options: argparse.Namespace, folder: Path) -> float:
    """The hit rate of conversations on engines with caches."""
    blocks = max(round(options.scale * CACHE_BLOCKS), 50)
    count = max(round(options.scale * CONVERSATIONS), 4)
    with upstreams(ENGINES, 1, 0, folder, blocks) as engines:
        ports = [engine.port for engine in engines]
        with prefixgate(ports, folder, workers) as gateway:
            send(gateway, engines, 1, ["--connections", "16", "--count", str(count)])
            return hit_rate(gateway)


def rows_of(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, object]]:
    """One row for each number of workers and size."""
    for size in options.sizes:
        print(f"{size // 1000} KB …", file=sys.stderr)
        sent = {workers: best(rounds) for workers, rounds in throughput(size, options, folder).items()}
        one = sent[1]
        for workers, each in sent.items():
            yield {
                "load": f"{size // 1000} KB",
                "workers": workers,
                "requests_per_s": round(each.per_second),
                "gateway_cpu_us": round(each.gateway_us, 1),
                "of_parent": round(each.parent_us, 1) if workers > 1 else "",
                "other_cpu_us": round(each.other_us, 1),
                "throughput_ratio": round(each.per_second / one.per_second, 2),
                "ratio_by_cpu": round(workers * one.gateway_us / each.gateway_us, 2),
                "strangers_cores": round(each.strangers, 2),
            }


def main(arguments: list[str] | None = None, show: Callable[[str], None] = print) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="to compare with one (default 2)")
    parser.add_argument("--generators", type=int, default=1, help="processes that send load (default 1)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of bodies, in bytes (default 1000 16000)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of requests")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        rows = list(rows_of(options, Path(name)))
        print("conversations …", file=sys.stderr)
        rates = {workers: conversations(workers, options, Path(name)) for workers in (1, options.workers)}
    if options.json:
        show(json.dumps({"throughput": rows, "hit_rate": rates}, indent=2))
        return
    table = Table(title="Throughput and CPU-µs per request, with one worker and with several", box=None)
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)
    for workers, rate in rates.items():
        show(f"hit rate of conversations with {workers} worker{'s' if workers > 1 else ''}: {100 * rate:.1f} %")


if __name__ == "__main__":
    main()
