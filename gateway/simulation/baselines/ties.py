"""Who costs least: all of them, so that each policy breaks its ties as it was published; pure."""

from collections.abc import Sequence

from gateway.simulation.baselines.base import Worker


def cheapest(workers: Sequence[Worker], costs: Sequence[float]) -> list[Worker]:
    """The workers whose cost is the lowest, in the order given."""
    lowest = min(costs)
    return [worker for worker, cost in zip(workers, costs, strict=True) if cost == lowest]


def least_busy(workers: Sequence[Worker]) -> list[Worker]:
    """The workers with the fewest prompts in flight, in the order given."""
    return cheapest(workers, [len(worker.inflight) for worker in workers])
