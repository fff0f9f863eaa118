"""A storm over a fleet of simulated engines at steady load: does every request get its answer? `make chaos`.

Engines crash, hang, stall, break off, talk nonsense and lie, the Redis goes away, the gateway is told to reload, and
another one takes over, drawn from a seed, while some engines are always left alone. Every answer is compared with
what an undisturbed engine says. The exit status is 1 when a request failed that a replica could have served, when
something is still booked at the end, or when requests and ends do not add up.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from storm.account import Account
from storm.asks import Traffic
from storm.disturbances import KINDS
from storm.expected import expected_answers
from storm.reading import Said
from storm.schedule import Storm, plan
from storm.visitor import Visit, visit
from storm.world import World, world
from uvloop import new_event_loop

WARM_SHARE = 0.25
AFTER_S = 2.0
SHOWN = 40


class Crowd:
    """Clients that come at their own times, whatever becomes of those before them."""

    def __init__(self, here: World, traffic: Traffic, expected: Mapping[bytes, Said], seed: int) -> None:
        self.visits: list[Visit] = []
        self.sent = 0
        self._world = here
        self._traffic = traffic
        self._expected = expected
        self._seed = seed
        self._rng = Random(f"arrivals {seed}")
        self._tasks: set[asyncio.Task[None]] = set()

    async def come(self, rate: float, until: float) -> None:
        """So many a second until then (on the loop's clock); then wait for the last answers."""
        clock = asyncio.get_running_loop().time
        at = clock()
        while True:
            at += self._rng.expovariate(rate)
            if at >= until:
                break
            await asyncio.sleep(max(0.0, at - clock()))
            task = asyncio.create_task(self._one(f"chaos-{self._seed}-{self.sent}"))
            self.sent += 1
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _one(self, request_id: str) -> None:
        done = await visit(self._world.file.url, self._traffic.draw(), request_id, self._expected)
        done.attempts, done.last_replica = await self._world.told(request_id)
        done.replica = done.replica or done.last_replica
        self.visits.append(done)

    @property
    def line(self) -> str:
        """How it goes, in words."""
        failed = sum(one.outcome == "failed" for one in self.visits)
        return f"sent {self.sent}, ended {len(self.visits)}, failed {failed}"


async def run(options: argparse.Namespace, folder: Path, show_progress: bool) -> tuple[Account, float]:
    """The whole storm; the account, and when it began on its clock."""
    traffic = Traffic(options.seed, options.corpus, options.leaving)
    expected = await expected_answers(traffic.corpus)
    kinds = [kind for kind in KINDS if kind in (options.only or KINDS) and kind not in options.without]
    async with world(options.engines, options.speed, folder, tuple(options.timeouts), redis="redis" in kinds) as (
        here,
        wrong,
    ):
        skipped = await here.missing(kinds)
        kinds = [kind for kind in kinds if kind not in skipped]
        clock = asyncio.get_running_loop().time
        began, first = clock(), here.gateway
        until = began + options.seconds
        storm, crowd = Storm(here, options.together), Crowd(here, traffic, expected, options.seed)
        memory = [here.memory_mib()]
        planned = (
            plan(Random(options.seed), kinds, options.engines, options.every, tuple(options.lasts)) if kinds else []
        )
        tasks = [
            asyncio.create_task(crowd.come(options.rate, until)),
            asyncio.create_task(storm.rage(planned, until - AFTER_S)),
        ]
        with _progress() if show_progress else nullcontext() as bar:
            row = bar.add_task("", total=options.seconds, said="", storm="") if bar is not None else None
            while not all(task.done() for task in tasks):
                await asyncio.wait(tasks, timeout=0.25)
                if len(memory) == 1 and clock() - began >= WARM_SHARE * options.seconds:
                    memory.append(here.memory_mib())
                if bar is not None and row is not None:
                    spent = min(clock() - began, options.seconds)
                    bar.update(row, completed=spent, said=crowd.line, storm=", ".join(storm.now))
        await asyncio.gather(*tasks)
        booked = await here.at_rest()
        memory += [here.memory_mib()] * (3 - len(memory))
        ended = await here.ended()
        same = here.gateway is first
    account = Account(
        crowd.sent, crowd.visits, storm.seen, skipped, (memory[0], memory[1], memory[2]), ended, booked, same, wrong
    )
    return account, began


def _progress() -> Progress:
    words = TextColumn("{task.fields[said]} [dim]{task.fields[storm]}")
    return Progress(BarColumn(30), TimeElapsedColumn(), words, console=Console(stderr=True), transient=True)


def show(account: Account, began: float, console: Console) -> None:
    """The account in tables."""
    table = Table(title="By kind of disturbance", title_justify="left")
    for name in ("disturbance", "times", "in flight", "retried", "continued", "cut by an error frame", "failed"):
        table.add_column(name, justify="left" if name == "disturbance" else "right")
    for row in account.rows():
        continued = "" if row.continued is None else str(row.continued)
        table.add_row(row.kind, *map(str, (row.times, row.in_flight, row.retried, continued, row.cut, row.failed)))
    console.print(table)
    for kind, why in account.skipped.items():
        console.print(f"not tried: {kind}: {why}", highlight=False)
    alike: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for one in account.failures(began):
        there = [said for said in one["during"] if said.rpartition(" ")[2] in one["replicas"]] or one["during"]
        alike.setdefault((one["outcome"], ", ".join(there) or "nothing", one["why"][:60]), []).append(one)
    for (outcome, during, _), rows in sorted(alike.items(), key=lambda item: item[1][0]["from_s"])[:SHOWN]:
        one = rows[0]
        where = f"{' then '.join(one['replicas']) or 'no replica'}, {one['attempts']} attempts"
        line = f"{len(rows):3} {outcome} during {during}; such as {one['request']} ({one['kind']}, {one['from_s']} to "
        line += f"{one['to_s']} s, {where}): {one['why'][:250]}"
        console.print(line, highlight=False, markup=False)
    if len(alike) > SHOWN:
        console.print(f"… and {len(alike) - SHOWN} more kinds of failure (--json shows all)")
    ends = account.outcomes
    console.print(
        f"sent {account.sent} = completed {ends['completed']} + refused with a reason {ends['refused']} "
        f"+ client left {ends['left']} + cut by an error frame {ends['cut']} + failed {ends['failed']}",
        highlight=False,
    )
    start, warm, end = account.memory_mib
    console.print(f"memory of the gateway: {start:.0f} MiB, warm {warm:.0f}, at the end {end:.0f}", highlight=False)
    console.print(f"bookings at the end: {account.booked or 'none'}", highlight=False)
    for complaint in account.complaints():
        console.print(f"wrong: {complaint}", highlight=False, markup=False)


def main(arguments: list[str] | None = None, out: Callable[[str], None] = print) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--seed", type=int, default=1)
    add("--seconds", type=float, default=60.0)
    add("--rate", type=float, default=30.0, help="requests a second")
    add("--engines", type=int, default=4, help="half of them vLLM, half SGLang")
    add("--together", type=int, default=2, help="engines that are disturbed at a time, at most")
    add("--every", type=float, default=0.7, help="seconds between disturbances, on average")
    add("--lasts", type=float, nargs=2, default=(0.5, 3.0), metavar="S", help="how long one lasts, from and to")
    add("--timeouts", type=float, nargs=3, default=(1.0, 6.0, 2.0), metavar="S",
        help="the gateway's: connect, first byte, idle (a healthy engine answers in well under a second)")  # fmt: skip
    add("--speed", type=float, default=2.0, help="of the engines")
    add("--corpus", type=int, default=300, help="different requests")
    add("--leaving", type=float, default=0.08, help="share of clients that leave early")
    add("--only", action="append", choices=tuple(KINDS), metavar="KIND", help=f"of {', '.join(KINDS)} (repeatable)")
    add("--without", action="append", default=[], choices=tuple(KINDS), metavar="KIND", help="(repeatable)")
    add("--folder", type=Path, help="keeps the logs of all processes (default: none are kept)")
    add("--json", action="store_true")
    options = parser.parse_args(arguments)
    if not 0 < options.together < options.engines:
        parser.error("--together must be less than --engines: somebody has to serve")
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        runner = stack.enter_context(asyncio.Runner(loop_factory=new_event_loop))
        account, began = runner.run(run(options, folder, show_progress=sys.stderr.isatty()))
        if options.json:
            out(json.dumps(account.figures(began), indent=2))
        else:
            show(account, began, Console(width=None if sys.stdout.isatty() else 160))
    sys.exit(1 if account.complaints() else 0)


if __name__ == "__main__":
    main()
