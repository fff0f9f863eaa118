"""Ten times what the engines can serve, over real sockets: goodput, waits, shares, recovery; `make bench-overload`.

Four simulated engines (the demo's) behind one gateway. First as many clients as keep them busy, each with one request
at a time, show the capacity: tokens that engines had to compute or generate, per second. Then requests arrive as they
like, at ten times that rate, from two equal tenants, for a person or as batch; then at half of it, to see how long it
takes until nobody waits and nobody is refused. TTFT is the client's, from sending to the first content. The load
generator and the engines share the machine with the gateway: `late` is how much later than meant requests were sent.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.table import Table
from wire.accounts import cpu_us
from wire.load import words
from wire.routers import Process, prefixgate

from gateway.demo.fleet import SimulatedEngine, simulated_engines
from gateway.demo.replay import chat_body
from gateway.routing.snapshot import quantile
from gateway.serving.engine_client import EngineClient, EngineGoneError
from gateway.wire.request import Endpoint
from gateway.wire.stream import StreamWatcher

BUSY_CLIENTS = 48
FAMILIES = 12
SHARED_BYTES, OWN_BYTES = 12_000, 12_000
ANSWER_TOKENS = 16
PRIORITIES = {"interactive": 0.7, "batch": 0.3}


@dataclass(slots=True)
class Ended:
    """One request as its client saw it; `ttft_s` None where it was refused or failed."""

    at_s: float
    tenant: str
    priority: str
    late_s: float
    status: int = 0
    ttft_s: float | None = None
    tokens: int = 0
    code: str = ""
    retry_after_s: float | None = None
    told_s: float = 0.0


@dataclass(slots=True)
class Load:
    """Sends requests, and keeps what became of them."""

    url: str
    rng: Random
    client: EngineClient = field(default_factory=EngineClient)
    ended: list[Ended] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    families: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.families = [words(Random(number), SHARED_BYTES).decode() for number in range(FAMILIES)]

    def body(self) -> bytes:
        """One of the shared beginnings, and a question of its own."""
        system, user = self.rng.choice(self.families), words(self.rng, OWN_BYTES).decode()
        messages = ({"role": "system", "content": system}, {"role": "user", "content": user})
        return chat_body(messages, ANSWER_TOKENS)

    async def ask(self, tenant: str, priority: str, due: float) -> None:
        """One request and what came of it."""
        body = self.body()
        headers = [
            (b"content-type", b"application/json"),
            (b"authorization", f"Bearer {tenant}".encode()),
            (b"x-priority", priority.encode()),
        ]
        sent = time.monotonic()
        ended = Ended(sent - self.began, tenant, priority, sent - due)
        self.ended.append(ended)
        watcher = StreamWatcher(Endpoint.CHAT, strip_usage=False)
        with suppress(EngineGoneError):
            response = await self.client.send(self.url, "POST", Endpoint.CHAT, headers, body)
            if response.status != 200:
                raw = await response.body(1 << 20)
                ended.status, ended.code = response.status, str(json.loads(raw)["error"]["code"])
                ended.told_s = time.monotonic() - sent
                ended.retry_after_s = float(response.header(b"retry-after") or 0)
                return
            while chunk := await response.read():
                watcher.feed(chunk)
                if ended.ttft_s is None and watcher.first_token:
                    ended.ttft_s = time.monotonic() - sent
            if watcher.done and watcher.usage is not None:
                ended.status = 200
                usage = watcher.usage
                ended.tokens = usage.prompt_tokens - (usage.cached_tokens or 0) + usage.completion_tokens

    async def keep_busy(self, clients: int, seconds: float) -> None:
        """So many clients, each with one request after the other."""
        until = time.monotonic() + seconds

        async def one() -> None:
            while time.monotonic() < until:
                await self.ask("c", "interactive", time.monotonic())

        await asyncio.gather(*(one() for _ in range(clients)))

    async def arrive(self, per_s: float, seconds: float, tenants: Sequence[str]) -> list[asyncio.Task[None]]:
        """Requests as a Poisson process; those that are still going on."""
        tasks = []
        due = time.monotonic()
        until = due + seconds
        while (due := due + self.rng.expovariate(per_s)) < until:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            [priority] = self.rng.choices(list(PRIORITIES), list(PRIORITIES.values()))
            tasks.append(asyncio.create_task(self.ask(self.rng.choice(tenants), priority, due)))
        return tasks

    def served(self, since: float, until: float, **alike: str) -> list[Ended]:
        """Those whose first token came in that time, in seconds since it began."""
        return [one for one in self.answers(**alike) if since <= one.at_s + (one.ttft_s or 0) < until]

    def answers(self, **alike: str) -> list[Ended]:
        """Those that were served whole."""
        return [one for one in self.ended if one.status == 200 and all(getattr(one, k) == v for k, v in alike.items())]

    def goodput(self, since: float, until: float, **alike: str) -> float:
        """Tokens per second."""
        return sum(one.tokens for one in self.served(since, until, **alike)) / (until - since)


@dataclass(frozen=True, slots=True)
class Result:
    """The figures; times in seconds, rates in requests or tokens per second."""

    capacity_tokens: float
    capacity_requests: float
    offered: float
    arrivals: int
    served: int
    failed: int
    goodput: float
    deadline_s: float
    ttft_p50_s: dict[str, float | None]
    ttft_p99_s: dict[str, float | None]
    shares: dict[str, float]
    batch_share: float
    shed: dict[str, int]
    retry_after_median_s: float | None
    told_p50_s: float | None
    recovered_s: float | None
    left_booked: int
    cpu_us_per_arrival: float
    cpu_share: float
    late_p99_s: float


async def snapshot(http: httpx.AsyncClient) -> dict[str, object]:
    """The gateway's own view."""
    shown: dict[str, object] = (await http.get("/api/snapshot")).json()["snapshot"]
    return shown


async def first_quiet(http: httpx.AsyncClient, load: Load, since: float, patience_s: float) -> float | None:
    """Seconds until no interactive request waits, and none that came later was refused."""
    while (waited := time.monotonic() - since) < patience_s:
        rows = (await snapshot(http))["queue"]["priorities"]  # type: ignore[index]
        if rows[0]["depth"] == 0:
            await asyncio.sleep(0.5)
            refused = [one.at_s for one in load.ended if one.code and one.priority == "interactive"]
            return max(waited, max(refused, default=0.0) + load.began - since)
        await asyncio.sleep(0.1)
    return None


async def measure(gateway: Process, options: argparse.Namespace, said: Callable[[str], None]) -> Result:
    """Capacity, overload, recovery."""
    url = f"http://127.0.0.1:{gateway.port}"
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{gateway.admin_port}", trust_env=False, timeout=30
    ) as http:
        busy_s = max(options.seconds / 3, 4.0)
        said(f"capacity: {BUSY_CLIENTS} clients for {busy_s:g} s")
        calm = Load(url, Random(options.seed))
        await calm.keep_busy(BUSY_CLIENTS, busy_s)
        tokens, requests = calm.goodput(busy_s / 3, busy_s), len(calm.served(busy_s / 3, busy_s)) / (busy_s * 2 / 3)
        await calm.client.close()

        rate = options.times * requests
        said(f"overload: {rate:.0f} requests a second, {options.times:g} times that, for {options.seconds:g} s")
        load = Load(url, Random(options.seed + 1))
        cpu = cpu_us(gateway.pid)
        tasks = await load.arrive(rate, options.seconds, ("a", "b"))
        cpu, ended = cpu_us(gateway.pid) - cpu, time.monotonic()
        over = list(load.ended)

        said("recovery: half of what can be served")
        quiet, more = await asyncio.gather(
            first_quiet(http, load, ended, 4 * options.deadline_s),
            load.arrive(requests / 2, 2 * options.deadline_s, ("a", "b")),
        )
        await asyncio.gather(*tasks, *more)
        await load.client.close()
        last = await snapshot(http)
        left = int(last["held"]) + sum(one["inflight"] for one in last["replicas"])  # type: ignore[attr-defined, call-overload]
    since, until = min(options.deadline_s, options.seconds / 3), options.seconds
    goodput = load.goodput(since, until)
    people = {
        name: [one.ttft_s for one in over if one.status == 200 and one.priority == name and one.ttft_s]
        for name in PRIORITIES
    }
    refused = [one for one in over if one.code]
    return Result(
        tokens,
        requests,
        len(over) / options.seconds,
        len(over),
        sum(one.status == 200 for one in over),
        sum(one.status not in (200, 429) for one in load.ended),
        goodput / tokens,
        options.deadline_s,
        {name: quantile(sorted(ttfts), 0.5) for name, ttfts in people.items()},
        {name: quantile(sorted(ttfts), 0.99) for name, ttfts in people.items()},
        {tenant: load.goodput(since, until, tenant=tenant) / goodput for tenant in ("a", "b")},
        load.goodput(since, until, priority="batch") / goodput,
        dict(Counter(f"{one.code} {one.priority}" for one in refused)),
        median(one.retry_after_s or 0 for one in refused) if refused else None,
        median(one.told_s for one in refused) if refused else None,
        quiet,
        left,
        cpu / max(len(over), 1),
        cpu / 1_000_000 / options.seconds,
        quantile(sorted(one.late_s for one in over), 0.99) or 0.0,
    )


async def run(options: argparse.Namespace, said: Callable[[str], None]) -> Result:
    """Over engines and a gateway of its own."""
    async with simulated_engines(options.speed) as engines:
        with (
            tempfile.TemporaryDirectory(prefix="prefixgate-bench-") as folder,
            prefixgate(
                _ports(engines, "vllm"), Path(folder), workers=options.workers, tables=_tables(engines, options)
            ) as gateway,
        ):
            return await measure(gateway, options, said)


def _ports(engines: Sequence[SimulatedEngine], dialect: str) -> list[int]:
    return [urlsplit(engine.url).port or 0 for engine in engines if engine.dialect == dialect]


def _tables(engines: Sequence[SimulatedEngine], options: argparse.Namespace) -> str:
    urls = ", ".join(f'"{engine.url}"' for engine in engines if engine.dialect == "sglang")
    return (
        f'[[pools]]\nname = "q"\nengine = "sglang"\nreplicas = [{urls}]\n'
        f"[queue]\ninteractive_deadline_s = {options.deadline_s}\nbatch_deadline_s = {6 * options.deadline_s}\n"
    )


def table(result: Result) -> Table:
    """For people."""
    made = Table("figure", "value")

    def ms(seconds: float | None) -> str:
        return "–" if seconds is None else f"{1000 * seconds:,.0f} ms"

    rows = {
        "capacity": f"{result.capacity_requests:.1f} requests/s, {result.capacity_tokens:,.0f} tokens/s",
        "offered": f"{result.offered:.0f} requests/s, {result.offered / result.capacity_requests:.1f} times",
        "arrived": f"{result.arrivals:,}",
        "served / refused / failed": f"{result.served:,} / {sum(result.shed.values()):,} / {result.failed:,}",
        "goodput / capacity": f"{result.goodput:.3f}",
        "deadline (interactive)": ms(result.deadline_s),
        **{
            f"TTFT p50 / p99, {name}": f"{ms(result.ttft_p50_s[name])} / {ms(result.ttft_p99_s[name])}"
            for name in PRIORITIES
        },
        "shares of tenants": ", ".join(f"{name} {share:.3f}" for name, share in result.shares.items()),
        "share of batch": f"{result.batch_share:.3f}",
        "refused": ", ".join(f"{name}: {count:,}" for name, count in result.shed.items()) or "none",
        "told so within, median": ms(result.told_p50_s),
        "Retry-After, median": "–" if result.retry_after_median_s is None else f"{result.retry_after_median_s:g} s",
        "nobody waits after the end": ms(result.recovered_s),
        "booked or held at the end": f"{result.left_booked}",
        "gateway CPU": f"{result.cpu_us_per_arrival:,.0f} µs a request, {100 * result.cpu_share:.0f} % of a core",
        "sent late, p99": ms(result.late_p99_s),
    }
    for name, value in rows.items():
        made.add_row(name, value)
    return made


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload (60)")
    parser.add_argument("--times", type=float, default=10.0, help="the capacity (10)")
    parser.add_argument("--deadline-s", type=float, default=5.0, help="of interactive requests (5)")
    parser.add_argument("--speed", type=float, default=1.0, help="of the engines: 1 is as measured on hardware")
    parser.add_argument("--workers", type=int, default=1, help="of the gateway (1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    console = Console(stderr=True)
    result = asyncio.run(run(options, lambda text: console.print(text, style="dim")))
    if options.json:
        print(json.dumps({name: getattr(result, name) for name in Result.__slots__}))  # type: ignore[attr-defined]
    else:
        Console().print(table(result))


if __name__ == "__main__":
    main()
