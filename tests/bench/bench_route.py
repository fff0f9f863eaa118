"""What a decision costs: CPU of `Router.route` for a prompt of 16,000 tokens over 16 replicas; `make bench-route`.

Every replica holds a different part of the prompt, has requests in flight and a learned curve, as in production.
Prints µs of CPU per call, the median of many (and the first decile, for machines that are busy otherwise), for what
the prompt is hashed as and for how much of it is new.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from random import Random
from statistics import median, quantiles

from engines.reports import EngineDescription, LoadReport, ModelCard, Usage
from gateway.routing.chain import ChainForm, PrefixChain, token_chain, token_form
from gateway.routing.chain import chain as text_chain
from gateway.routing.curves import ENOUGH
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.facts import Finished, FirstToken, LoadReported, Outcome, ReplicaUp
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router

TOKENS = 16_000
REPLICAS = 16
BLOCKS = (256, 64, 16)
BYTES_PER_TOKEN = 4


class Bench:
    """One router over two pools of eight replicas, warmed by a mixed workload from a seed."""

    def __init__(self, block_tokens: int | None, seed: int) -> None:
        self.rng = Random(seed)
        self.block_tokens = block_tokens
        encoding = "" if block_tokens is None else "bench"
        self.form = ChainForm() if block_tokens is None else token_form(encoding, block_tokens)
        names = [f"r{number}" for number in range(REPLICAS)]
        specs = [ReplicaSpec(name, f"http://{name}") for name in names]
        half = REPLICAS // 2
        pools = [PoolSpec("a", "m", tuple(specs[:half]), encoding=encoding)]
        pools.append(PoolSpec("b", "m", tuple(specs[half:]), encoding=encoding))
        self.router = Router(pools, policy="ttft")
        self.asked = 0
        self.now = 0.0
        description = EngineDescription(block_tokens=block_tokens or 256, reports_cached_tokens=True)
        for name in names:
            self.router.observe(ReplicaUp(name, 0.0, (ModelCard("m"),), description))
            report = LoadReport(kv_capacity_tokens=1_000_000, block_tokens=block_tokens or 256)
            self.router.observe(LoadReported(name, 0.0, report))
        self.system = self.rng.randbytes(4000 * BYTES_PER_TOKEN)
        self.documents = [self.rng.randbytes(8000 * BYTES_PER_TOKEN) for _ in range(64)]

    def prompt(self, *, new: bool) -> PrefixChain:
        """A system prompt that all share, then a document that some have, then what is new; or nothing known."""
        known = b"" if new else self.system + self.rng.choice(self.documents)
        prompt = known + self.rng.randbytes(TOKENS * BYTES_PER_TOKEN - len(known))
        if self.block_tokens is None:
            return text_chain(b"m", prompt)
        return token_chain(self.form, prompt)

    def request(self, *, new: bool, replica: str | None = None) -> RouteRequest:
        """Ready to be routed; to this replica if one is named."""
        self.asked += 1
        chain = self.prompt(new=new)
        text, tokens = (chain, ()) if self.block_tokens is None else (PrefixChain(), (chain,))
        return RouteRequest(str(self.asked), "m", text, True, self.now, tokens, pinned_replica=replica)

    def learn(self) -> None:
        """Every replica serves some of each kind of prompt, alone."""
        for number in range(2 * ENOUGH * REPLICAS):
            request = self.request(new=number // REPLICAS % 2 == 0, replica=f"r{number % REPLICAS}")
            answer = self.router.route(request, self.now)
            assert isinstance(answer, Decision)
            self.serve(answer)

    def serve(self, answer: Decision) -> None:
        """The request is answered well, and about as fast as predicted."""
        self.now += answer.chosen.prefill_ms / 1000 * self.rng.uniform(0.9, 1.1)
        self.router.observe(FirstToken(answer.ticket, self.now))
        cached = answer.chosen.cached_tokens
        usage = Usage(answer.chosen.prompt_tokens, 100, cached)
        self.router.observe(Finished(answer.ticket, self.now + 0.1, Outcome.COMPLETED, usage, 100))

    def route_us(self, count: int, *, new: bool) -> tuple[float, float]:
        """Median and first decile of the CPU-µs of `route`, each call on another prompt, others in flight."""
        spent = []
        flying: list[Decision] = []
        for _ in range(count):
            request = self.request(new=new)
            began = time.process_time_ns()
            answer = self.router.route(request, self.now)
            spent.append((time.process_time_ns() - began) / 1000)
            self.now += 0.3
            assert isinstance(answer, Decision)
            flying.append(answer)
            if len(flying) > REPLICAS // 2:
                self.serve(flying.pop(0))
        for answer in flying:
            self.serve(answer)
        return median(spent), quantiles(spent, n=10)[0]


def main(arguments: list[str] | None = None, show: Callable[[str], None] = print) -> list[dict[str, object]]:
    """Run it; the rows that it prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rows: list[dict[str, object]] = []
    for block in (*BLOCKS, None):
        bench = Bench(block, options.seed)
        bench.learn()
        bench.route_us(max(options.calls // 2, 50), new=False)  # caches fill, curves learn
        gc.collect()
        what = "text, 256 bytes" if block is None else f"tokens, {block}"
        for name, new in (("three quarters known", False), ("all new", True)):
            middle, fast = bench.route_us(options.calls, new=new)
            row = {"hashed_as": what, "prompt": name, "route_cpu_us": round(middle, 1), "p10_cpu_us": round(fast, 1)}
            rows.append(row)
    if options.json:
        show(json.dumps(rows, indent=2))
        return rows
    what = f"{TOKENS:,} tokens over {REPLICAS} replicas, median of {options.calls} calls (seed {options.seed})"
    show(f"Router.route, {what}")
    for row in rows:
        show(f"  {row['hashed_as']:<16} {row['prompt']:<21} {row['route_cpu_us']:>7} µs CPU (p10 {row['p10_cpu_us']})")
    return rows


if __name__ == "__main__":
    main()
