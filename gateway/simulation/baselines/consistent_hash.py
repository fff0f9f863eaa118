"""Consistent hashing with bounded loads, by session or else by the first tokens of a prompt; pure."""

from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from random import Random
from typing import Final

from gateway.simulation.baselines.base import Baseline, Prompt, Worker
from gateway.simulation.baselines.ties import least_busy

VIRTUAL_NODES: Final = 150
LOAD_FACTOR: Final = 1.25
PREFIX_TOKENS: Final = 256


class ConsistentHash(Baseline):
    """A ring with 150 virtual nodes a worker; walk on while a worker's load exceeds 1.25 times the average.

    The key is the session where there is one, else the first 256 tokens (at least one full block of them). Loads
    are prompts in flight; the average is over the workers that are up and counts the prompt that is to come. A prompt
    with neither key (shorter than a block) goes to the least busy, the lowest slot first. In its favour: the key is of
    exact tokens, and the ring is walked as in the paper (a version of the router takes the least busy instead, and
    another tolerates 10 prompts above the average).
    """

    name = "consistent-hash"
    source = "arXiv 1608.01350 (bounded loads); smg model_gateway/src/policies/prefix_hash.rs"

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        ring = sorted((_hash(f"{one.name}#{node}"), one.slot) for one in workers for node in range(VIRTUAL_NODES))
        self._places = [place for place, _ in ring]
        self._slots = [slot for _, slot in ring]

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """The first on the ring from the key's place that is up and not overloaded."""
        key = _key(prompt)
        if key is None:
            return least_busy(up)[0]
        most = LOAD_FACTOR * (sum(len(worker.inflight) for worker in up) + 1) / len(up)
        able = {worker.slot: worker for worker in up if len(worker.inflight) <= most}
        start = bisect_left(self._places, _hash(key))
        for step in range(len(self._slots)):
            worker = able.get(self._slots[(start + step) % len(self._slots)])
            if worker is not None:
                return worker
        raise AssertionError("the least busy worker is never above the average")


def _key(prompt: Prompt) -> str | None:
    if prompt.session is not None:
        return f"session:{prompt.session}"
    if not prompt.blocks:
        return None
    last = min(max(PREFIX_TOKENS // prompt.block_tokens, 1), len(prompt.blocks)) - 1
    return f"prefix:{prompt.blocks[last]}"


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
