"""Dynamo's KV router: blocks still to prefill plus blocks in use, from events and its own counts; pure."""

from collections.abc import Sequence
from random import Random

from gateway.simulation.baselines.base import Prompt, Worker
from gateway.simulation.baselines.event_based import EventBaseline
from gateway.simulation.baselines.prefill_ledger import PrefillLedger
from gateway.simulation.baselines.prefix_sets import PrefixSets
from gateway.simulation.baselines.ties import cheapest


class Dynamo(EventBaseline):
    """The lowest max(active prefill blocks + prompt blocks - overlap, 0) + (active blocks + the prompt's new ones).

    Active prefill is the uncached tokens (at the time of choice) of prompts without a first token, over the block
    size. Active blocks are the distinct full blocks of all prompts in flight there; the prompt adds those of its own
    that are not active there. Defaults: prefill scale 1, device credit 1 without decay, temperature 0, no queue
    threshold, no predicted index; ties at random. In its favour: exact life cycle, events without delay.
    """

    name = "dynamo"
    source = "ai-dynamo/dynamo docs: router concepts and configuration; lib/kv-router/src/scheduling/selector"

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        self._prefill = PrefillLedger(len(workers))
        self._active = PrefixSets(len(workers))
        self._users: list[dict[int, int]] = [{} for _ in workers]  # by slot: prompts in flight with this block

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """The cheapest."""
        overlaps, active = self.held.depths(prompt.blocks), self._active.depths(prompt.blocks)
        costs = []
        for worker in up:
            slot = worker.slot
            raw_prefill = (self._prefill.tokens[slot] + prompt.tokens) / prompt.block_tokens
            in_use = self._active.sizes[slot] + len(prompt.blocks) - active[slot]
            costs.append(max(raw_prefill - overlaps[slot], 0.0) + in_use)
        return self.rng.choice(cheapest(up, costs))

    def sent(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Books its prefill and its blocks."""
        self._prefill.book(prompt.number, worker.slot, self.uncached_tokens(prompt, worker))
        users = self._users[worker.slot]
        for block in prompt.blocks:
            users[block] = users.get(block, 0) + 1
        self._active.add(worker.slot, prompt.blocks)

    def first_token(self, prompt: Prompt, worker: Worker, cached_tokens: int, ttft_s: float, now: float) -> None:
        """Its prefill is done; its blocks stay in use."""
        self._prefill.settle(prompt.number)

    def finished(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Its blocks are in use no more."""
        self._prefill.settle(prompt.number)
        users = self._users[worker.slot]
        unused = []
        for block in prompt.blocks:
            left = users.get(block, 0) - 1
            if left > 0:
                users[block] = left
            else:
                users.pop(block, None)
                unused.append(block)
        self._active.remove(worker.slot, unused)
