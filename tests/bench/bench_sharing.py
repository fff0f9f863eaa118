"""What sharing costs: CPU per request of one gateway process that tells another of it; `make bench-sharing`.

Two routers over the same four replicas, one of which serves and tells. Prompts of 16 KB, the first half of them known,
and caches that are full. Prints µs of CPU a request, the median of many batches, for requests that end before their
batch is sent (as with engines that are done in milliseconds), for those that end in the next one, and for long streams.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from random import Random
from statistics import median

from engines.reports import EngineDescription, LoadReport, ModelCard, Usage
from gateway.routing.batch import Batch, decoded, encoded
from gateway.routing.chain import chain
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.facts import Finished, FirstToken, LoadReported, Outcome, PeerHeard, ReplicaUp
from gateway.routing.outbox import BRIEF_S
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router

REPLICAS = 4
BLOCKS = 32
BLOCK_BYTES = 512
PREFIXES = 100
PER_BATCH = 32
GAP_S = 0.0005
"""Between requests: 2000 a second."""


def router() -> Router:
    """A fleet that is up, whose engines say what they cached."""
    specs = tuple(ReplicaSpec(f"r{number}", f"http://10.0.0.{number}:8000") for number in range(REPLICAS))
    made = Router([PoolSpec("p", "m", specs)])
    for spec in specs:
        made.observe(ReplicaUp(spec.name, 0.0, (ModelCard("m"),), EngineDescription(reports_cached_tokens=True)))
        made.observe(LoadReported(spec.name, 0.0, LoadReport(kv_capacity_tokens=1_000_000, block_tokens=16)))
    return made


class Bench:
    """One router that serves and one that hears of it. First tokens and ends come so many batches after bookings."""

    def __init__(self, seed: int, first_token_after: int, end_after: int) -> None:
        self.rng = Random(seed)
        self.after = first_token_after, end_after
        self.serving, self.hearing = router(), router()
        self.outbox = self.serving.tell_peers("bench")
        self.prefixes = [self.rng.randbytes(BLOCKS // 2 * BLOCK_BYTES) for _ in range(PREFIXES)]
        self.now = 0.0
        self.asked = 0
        self.flying: list[list[Decision]] = [[] for _ in range(end_after + 1)]
        self.spent_us: dict[str, list[float]] = {}
        self.bytes = 0

    def request(self) -> RouteRequest:
        """The first half of its prompt is one of many that are known."""
        self.asked += 1
        prompt = self.rng.choice(self.prefixes) + self.rng.randbytes(BLOCKS // 2 * BLOCK_BYTES)
        return RouteRequest(str(self.asked), "m", chain(b"m", prompt, BLOCK_BYTES), True, self.now)

    def batch(self) -> None:
        """Requests come, others go on or end, and what there is to tell is told."""
        first_token_after, end_after = self.after
        self.flying = [[], *self.flying[:-1]]
        for _ in range(PER_BATCH):
            self.now += GAP_S
            answer = self.serving.route(self.request(), self.now)
            assert isinstance(answer, Decision)
            self.flying[0].append(answer)
        for answer in self.flying[first_token_after]:
            self.serving.observe(FirstToken(answer.ticket, self.now))
        for answer in self.flying[end_after]:
            cached = answer.chosen.cached_tokens
            usage = Usage(answer.chosen.prompt_tokens, 10, cached - cached % 16)
            self.serving.observe(Finished(answer.ticket, self.now, Outcome.COMPLETED, usage, 10))
        batch = self.outbox.take(self.now + 2 * BRIEF_S)  # nothing waits for its end
        assert batch is not None
        assert len(self.outbox) == 0
        self.tell(batch)

    def tell(self, batch: Batch) -> None:
        """From one to the other, by the clock of the CPU."""
        times = [time.process_time_ns()]
        payload = encoded(batch)
        times.append(time.process_time_ns())
        heard = decoded(payload)
        times.append(time.process_time_ns())
        self.hearing.observe(PeerHeard(self.now, heard))
        times.append(time.process_time_ns())
        for number, name in enumerate(("encode", "decode", "learn")):
            spent_us = (times[number + 1] - times[number]) / 1000 / PER_BATCH
            self.spent_us.setdefault(name, []).append(spent_us)
        self.bytes += len(payload)

    def run(self, batches: int) -> dict[str, float]:
        """µs and bytes per request."""
        self.spent_us = {}
        self.bytes = self.asked = 0
        gc.collect()
        for _ in range(batches):
            self.batch()
        row = {f"{name}_cpu_us": round(median(spent), 1) for name, spent in self.spent_us.items()}
        return {**row, "all_cpu_us": round(sum(row.values()), 1), "bytes": round(self.bytes / self.asked)}


def note_us(seed: int, requests: int) -> float:
    """What it costs the one that tells to note a request, before it is sent: all of its facts with and without."""
    spent: dict[bool, list[float]] = {True: [], False: []}
    for tells in (True, False) * 2:
        bench = Bench(seed, 0, 0)
        outbox = bench.outbox if tells else None
        bench.serving._outbox = bench.serving._learner.outbox = outbox
        for number in range(requests):
            request = bench.request()
            began = time.process_time_ns()
            answer = bench.serving.route(request, bench.now)
            assert isinstance(answer, Decision)
            bench.serving.observe(FirstToken(answer.ticket, bench.now))
            usage = Usage(answer.chosen.prompt_tokens, 10, answer.chosen.cached_tokens)
            bench.serving.observe(Finished(answer.ticket, bench.now, Outcome.COMPLETED, usage))
            spent[tells].append((time.process_time_ns() - began) / 1000)
            bench.now += GAP_S
            if number % PER_BATCH == 0:
                bench.outbox.take(bench.now)
    return round(median(spent[True]) - median(spent[False]), 1)


def main(arguments: list[str] | None = None, show: Callable[[str], None] = print) -> list[dict[str, object]]:
    """Run it; the rows that it prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    kinds = {"end before they are told": (0, 0), "end a batch later": (1, 1), "end many batches later": (2, 8)}
    rows: list[dict[str, object]] = []
    for name, after in kinds.items():
        bench = Bench(options.seed, *after)
        bench.run(max(options.batches // 2, 20))
        rows.append({"requests": name, **bench.run(options.batches)})
    noted = note_us(options.seed, options.batches * PER_BATCH)
    if options.json:
        show(json.dumps([*rows, {"note_cpu_us": noted}], indent=2))
        return rows
    show(f"Sharing a request of {BLOCKS} blocks, half of them known, µs of CPU (seed {options.seed})")
    for row in rows:
        show(
            f"  {row['requests']:<25} encode {row['encode_cpu_us']:>5}  decode {row['decode_cpu_us']:>5}  "
            f"learn {row['learn_cpu_us']:>5}  all {row['all_cpu_us']:>5}  bytes {row['bytes']}"
        )
    show(f"  to note one of them costs its own process {noted}")
    return rows


if __name__ == "__main__":
    main()
