"""What a ladder asks for, and in which order; pure."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True, slots=True, order=True)
class Rung:
    """Prompts of `isl` tokens, of which the share `cached` was sent before."""

    isl: int
    cached: float = 0.0

    @property
    def label(self) -> str:
        """As in `8k, 50% cached`."""
        return written(self.isl) + (f", {self.cached:.0%} cached" if self.cached else "")

    def primed_tokens(self, block_tokens: int) -> int:
        """The part that is sent before, in whole blocks."""
        return int(self.isl * self.cached) // block_tokens * block_tokens


@dataclass(frozen=True, slots=True)
class Step:
    """One request; a negative round only warms up. `target` is the target's place."""

    round: int
    rung: Rung
    target: int


def rungs_of(isls: Iterable[int], cached: Iterable[float]) -> list[Rung]:
    """Every length with every share."""
    shares = sorted(set(cached))
    return [Rung(isl, share) for isl in sorted(set(isls)) for share in shares]


def steps_of(rungs: Sequence[Rung], targets: int, warm_up: int, repeats: int, seed: int) -> list[Step]:
    """Round by round every rung on every target, so that whatever drifts hits all of them.

    Rungs are shuffled in each round. The targets' order is drawn for each rung and rotated from round to round, so
    that each takes each place equally often.
    """
    rng = random.Random(seed)
    orders = {rung: rng.sample(range(targets), targets) for rung in rungs}
    steps = []
    for number in range(-warm_up, repeats):
        for rung in rng.sample(list(rungs), len(rungs)):
            order = orders[rung]
            turn = number % targets
            steps += [Step(number, rung, target) for target in order[turn:] + order[:turn]]
    return steps


def cost_of(step: Step) -> int:
    """Tokens that the engine has to prefill for it: the measure of progress."""
    return step.rung.isl


def parse_isls(text: str) -> list[int]:
    """`1k,24k,500`: k is 1,024. ValueError with one sentence."""
    return [_isl(part.strip()) for part in text.split(",") if part.strip()] or [_isl(text)]


def parse_shares(text: str) -> list[float]:
    """`0,0.5,0.9`: shares of the prompt, each at least 0 and below 1. ValueError with one sentence."""
    shares = []
    for part in text.split(","):
        try:
            share = float(part)
        except ValueError:
            share = -1.0
        if not 0 <= share < 1:
            raise ValueError(f"`{part.strip()}` is not a share of a prompt, as in 0,0.5,0.9")
        shares.append(share)
    return shares


def written(tokens: int) -> str:
    """24576 as 24k."""
    return f"{tokens // KIB}k" if tokens % KIB == 0 else f"{tokens}"


def _isl(part: str) -> int:
    number, times = (part[:-1], KIB) if part[-1:].lower() == "k" else (part, 1)
    if not number.isascii() or not number.isdigit() or not 16 <= int(number) * times <= 10_000_000:
        raise ValueError(f"`{part}` is not a prompt length of at least 16 tokens, as in 1k,8k,24k")
    return int(number) * times
