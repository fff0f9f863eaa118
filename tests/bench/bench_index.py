"""Memory and time of the prefix index at a million blocks, for `make bench-index`.

usage: bench_index.py [--blocks 1000000] [--replicas 8] [--seed 1]
"""

import argparse
import gc
import random
import statistics
import time
import tracemalloc
from array import array
from collections.abc import Callable

import msgspec

from engines.cache_events import BlocksStored
from engines.registry import dialect
from gateway.routing.beliefs import Beliefs, CacheView
from gateway.routing.chain import ChainForm, PrefixChain, token_chain

CHAIN_BLOCKS = 1000
REPEATS = 7


def tokens(rng: random.Random, count: int) -> bytes:
    return array("I", rng.choices(range(129_000), k=count)).tobytes()


def seconds(work: Callable[[], object]) -> float:
    """The median of several runs."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def chains(rng: random.Random, form: ChainForm, total_blocks: int) -> list[PrefixChain]:
    return [token_chain(form, tokens(rng, CHAIN_BLOCKS * form.block)) for _ in range(total_blocks // CHAIN_BLOCKS)]


class Guess:
    """An attempt that sends a chain somewhere."""

    first_token_at = None

    def __init__(self, chain: PrefixChain) -> None:
        self.chain = chain
        self.ticket = 1


def memory_of_guesses(rng: random.Random, blocks: int, replicas: int) -> float:
    """Bytes a block-replica entry that routing made."""
    beliefs = Beliefs()
    views = [beliefs.add_replica(blocks, lambda: ()) for _ in range(replicas)]
    form = ChainForm(16, "bench")
    gc.collect()
    tracemalloc.start()
    for number in range(blocks // CHAIN_BLOCKS):
        (chain,) = chains(rng, form, CHAIN_BLOCKS)
        beliefs.index.settle(views[number % replicas].slot, chain)
    del chain
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held / blocks


def stored(chain: PrefixChain, number: int) -> BlocksStored:
    hashes = tuple(number << 32 | block for block in range(len(chain.hashes)))
    return BlocksStored(hashes, None, chain.tokens, chain.form.block)


def memory_of_statements(rng: random.Random, blocks: int, replicas: int) -> tuple[float, Beliefs, list[CacheView]]:
    """Bytes a block-replica entry that events stated, and the filled index."""
    beliefs = Beliefs()
    views = [beliefs.add_replica(10_000, lambda: ()) for _ in range(replicas)]
    for view in views:
        beliefs.synced(view, 0)
    form = ChainForm(16, "bench")
    gc.collect()
    tracemalloc.start()
    for number in range(blocks // CHAIN_BLOCKS):
        (chain,) = chains(rng, form, CHAIN_BLOCKS)
        beliefs.events(views[number % replicas], 0, [stored(chain, number)])
    del chain
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held / blocks, beliefs, views


def event_payload(rng: random.Random, block_tokens: int, number: int) -> bytes:
    """A vLLM event of 64 blocks, as it comes over the wire."""
    ids = rng.choices(range(129_000), k=64 * block_tokens)
    event = {
        "type": "BlockStored",
        "block_hashes": [rng.getrandbits(64) for _ in range(64)],
        "parent_block_hash": None,
        "token_ids": ids,
        "block_size": block_tokens,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None] * 64,
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }
    return msgspec.msgpack.encode([float(number), [event], 0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print(f"{options.blocks:,} blocks over {options.replicas} replicas, seed {options.seed}")
    print(f"memory of a guessed block    {memory_of_guesses(rng, options.blocks, options.replicas):8.0f} bytes")
    size, beliefs, views = memory_of_statements(rng, options.blocks, options.replicas)
    print(f"memory of a stated block     {size:8.0f} bytes")
    for block_tokens in (16, 64, 256):
        chain = token_chain(ChainForm(block_tokens, "bench"), tokens(rng, 100_000))
        for view in views:
            beliefs.index.settle(view.slot, chain)
        assert {depths.likely for depths in beliefs.index.depths(chain)} == {len(chain.hashes)}
        walk = seconds(lambda chain=chain: beliefs.index.depths(chain))
        hashing = seconds(lambda chain=chain: token_chain(chain.form, chain.tokens))
        print(
            f"100k tokens, blocks of {block_tokens:3}    {walk * 1e6:8.0f} us to match all replicas "
            f"({len(chain.hashes)} links, all held), {hashing * 1e6:.0f} us to hash"
        )
        for view in views:
            beliefs.index.forget(view.slot, chain.hashes)
    vllm = dialect("vllm")
    for block_tokens in (16, 64, 256):
        payloads = [event_payload(rng, block_tokens, number) for number in range(REPEATS * 4)]
        fresh = Beliefs()
        view = fresh.add_replica(10_000, lambda: ())
        fresh.synced(view, 0)
        view.ledger.resize(block_tokens)
        waiting = iter(payloads)

        def take(fresh: Beliefs = fresh, view: CacheView = view, waiting: object = waiting) -> None:
            batch = vllm.read_events(next(waiting))  # type: ignore[call-overload]
            fresh.events(view, 0, batch.events)

        took = seconds(take)
        print(f"event of 64 blocks of {block_tokens:3}     {took * 1e6:8.0f} us from bytes to index")


if __name__ == "__main__":
    main()
