"""One process that sends load: prepares its requests, says so, waits for a word on stdin, sends, prints how it went."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from random import Random

from uvloop import new_event_loop

from wire.load import posted, requests, send, words

SYSTEM_BYTES = 4_096
TURN_BYTES = 2_048
TURNS = 6
PER_SYSTEM = 25


def conversations(count: int, seed: int) -> Iterator[bytes]:
    """The turns of so many conversations, mixed; those of 25 begin alike. Each turn repeats all before it."""
    rng = Random(seed)
    systems = [words(Random(number), SYSTEM_BYTES) for number in range(count // PER_SYSTEM + 1)]
    told = [b'{"role":"system","content":"%b"}' % systems[number // PER_SYSTEM] for number in range(count)]
    for _ in range(TURNS):
        for number in rng.sample(range(count), count):
            told[number] += b',{"role":"user","content":"%b"}' % words(rng, TURN_BYTES)
            yield posted(b'"max_tokens":64,"messages":[%b]' % told[number])


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--size", type=int, help="bytes of a body; without: conversations")
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args()
    if options.size is None:
        source = list(conversations(options.count, options.seed))
    else:
        source = list(islice(requests(options.size, options.seed), options.count))
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        outcome = runner.run(send(options.port, iter(source), options.connections))
    seconds = time.perf_counter() - began
    if outcome.refused:
        sys.exit(f"{len(outcome.refused)} requests were refused, the first with {outcome.refused[0]!r}")
    print(json.dumps({"requests": len(outcome.seconds), "seconds": seconds}), flush=True)
    sys.stdin.readline()  # so that its CPU can be read


if __name__ == "__main__":
    main()
