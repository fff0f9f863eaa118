"""The demo's live fleet against the same fleet in virtual time, decision by decision, for `make live-vs-simulated`.

usage: live_vs_simulated.py [--seeds 1,2,3] [--speed 2] [--load 0.2,0.35] [--sessions 60] [--explain]

Exits with 1 where, over all seeds at one load, fewer than 95 % of the requests went to the same replica, or hit rates
are more than 2 points apart.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace

from gateway.demo.fleet import StartError
from gateway.demo.likeness import Difference, Likeness, Side, compare
from gateway.demo.workload import Shape
from gateway.routing.snapshot import quantile

LEAST_AGREED = 0.95
MOST_POINTS = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3", help="of the workload")
    parser.add_argument("--speed", type=float, default=2.0, help="how many times faster than true engines")
    parser.add_argument("--load", default="", help="loads to stretch the workload to (default: the demo's own pace)")
    parser.add_argument("--sessions", type=int, default=Shape().sessions)
    parser.add_argument("--explain", action="store_true", help="show both tables of the first difference")
    options = parser.parse_args()
    shape = replace(Shape(), sessions=options.sessions)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    loads = [float(load) for load in options.load.split(",")] if options.load else [None]
    good = True
    for load in loads:
        try:
            compared = [_measure(shape, seed, options.speed, load, options.explain) for seed in seeds]
        except (StartError, ValueError) as error:
            print(f"live_vs_simulated: {error}", file=sys.stderr)
            return 1
        good = _verdict(compared) and good
    return 0 if good else 1


def _measure(shape: Shape, seed: int, speed: float, load: float | None, explain: bool) -> Likeness:
    likeness = asyncio.run(compare(shape, seed, speed, load))
    print(
        f"\nseed {seed}, load {likeness.load:.2f}, time {speed:g}x compressed, {likeness.requests} requests; "
        f"sockets and processes add {likeness.delay_ms:.1f} ms (wall); sent at most {likeness.late_ms:.1f} ms late"
    )
    print(f"{'':28}{'same replica':>14}{'hit rate':>10}{'TTFT mean':>11}{'p50':>8}{'p90':>8} ms")
    for side in likeness.sides:
        print(_row(side))
    print(f"{'the live past, retold':28}{likeness.retold:>14.1%}")
    print(f"{'simulated twice, shaken':28}{likeness.unshaken:>14.1%}", flush=True)
    if explain and likeness.difference is not None:
        _explain(likeness.difference)
    return likeness


def _row(side: Side) -> str:
    ordered = sorted(side.ttfts_ms)
    mean = sum(ordered) / len(ordered)
    p50, p90 = (quantile(ordered, share) or 0.0 for share in (0.5, 0.9))
    agreed = "" if side.name == "live" else f"{side.agreed:.1%}"
    return f"{side.name:28}{agreed:>14}{side.hit_rate:>10.1%}{mean:>11.0f}{p50:>8.0f}{p90:>8.0f}"


def _explain(difference: Difference) -> None:
    """Each replica's costs, as the live gateway saw them and as the simulated one did, in ms of the wall's clock."""
    print(f"first difference: request {difference.number}; costs in ms of the wall's clock")
    for live, simulated in zip(difference.live, difference.simulated.candidates, strict=True):
        chosen = difference.simulated.chosen is simulated
        shown = []
        for where, cached, terms, cost, here in (
            ("live", live.cached_tokens, live.terms, live.cost_ms, live.chosen),
            ("simulated", simulated.cached_tokens, simulated.terms, simulated.cost_ms, chosen),
        ):
            parts = " + ".join(f"{term.name} {term.ms:.1f}" for term in terms if term.ms)
            shown.append(f"{where}{'*' if here else ''}: {cached} cached, {parts} = {cost:.1f}")
        print(f"  {live.replica:14} {shown[0]}  |  {shown[1]}")


def _verdict(compared: Sequence[Likeness]) -> bool:
    """Over all seeds of one load, for the texts' side and the journal's: the shares are of all their requests."""
    total = sum(one.requests for one in compared)
    retold = sum(one.retold * one.requests for one in compared) / total
    unshaken = sum(one.unshaken * one.requests for one in compared) / total
    good = True
    loads = [one.load for one in compared]
    where = f"{loads[0]:.2f}" if max(loads) - min(loads) < 0.005 else f"{min(loads):.2f} to {max(loads):.2f}"
    print(f"\nload {where}, {len(compared)} seeds, {total} requests; to the same replica went")
    print(f"  {retold:.1%} of them where the live past is retold")
    print(f"  {unshaken:.1%} of those simulated twice, with requests up to 5 ms later the second time")
    for place in (1, 2):
        agreed = sum(one.sides[place].agreed * one.requests for one in compared) / total
        points = 100 * max(abs(one.sides[place].hit_rate - one.sides[0].hit_rate) for one in compared)
        kept = agreed >= LEAST_AGREED and points <= MOST_POINTS
        good = good and kept
        name, wanted = compared[0].sides[place].name, "" if kept else f" (wanted: {LEAST_AGREED:.0%}, {MOST_POINTS:g})"
        print(f"  {agreed:.1%} of those {name}; hit rates at most {points:.1f} points apart{wanted}")
    return good


if __name__ == "__main__":
    sys.exit(main())
