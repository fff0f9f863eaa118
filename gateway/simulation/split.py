"""What an experiment costs, in virtual time: two like halves of the fleet, each with half of the traffic; pure."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from gateway.routing.experiments.definition import Arm, Experiment
from gateway.simulation.fleet import SimulatedReplica

SPLIT: Final = "@"
"""Between a policy of ours and the unit by which traffic is split."""
UNITS: Final = ("prefix-family", "session", "request")


def halves(fleet: Sequence[SimulatedReplica], unit: str) -> Experiment:
    """Every second replica of each pool in one arm, the others in the other."""
    sides: tuple[list[str], list[str]] = ([], [])
    seen: Counter[str] = Counter()
    for replica in fleet:
        sides[seen[replica.pool] % 2].append(replica.name)
        seen[replica.pool] += 1
    arms = tuple(Arm(name, replicas=frozenset(side)) for name, side in zip("ab", sides, strict=True) if side)
    return Experiment("halves", unit, arms, arms[0].name)
