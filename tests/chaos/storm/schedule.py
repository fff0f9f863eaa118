"""Which disturbances come when, drawn from a seed, such that engines enough are left alone; does I/O."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from storm.disturbances import KINDS, OF_NO_ENGINE
from storm.servers import Engine
from storm.world import World

SETTLE_S = 2.0
"""How long an engine counts as disturbed after it: the gateway has to find out that it is well again."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One disturbance to come. `engines` are the numbers of those to hit, the preferred one first."""

    kind: str
    after_s: float
    lasts_s: float
    engines: tuple[int, ...]


@dataclass(slots=True)
class Disturbance:
    """One that has begun; times on the loop's clock."""

    kind: str
    replica: str
    began: float
    ended: float = float("inf")
    wrong: str = ""
    """Why the disturbance itself did not go as it should."""
    continued: int | None = None


def plan(
    rng: Random, kinds: Sequence[str], engines: int, every_s: float, lasts_s: tuple[float, float]
) -> list[Planned]:
    """A thousand, each kind as often as every other."""
    planned: list[Planned] = []
    while len(planned) < 1000:
        for kind in rng.sample(list(kinds), len(kinds)):
            order = tuple(rng.sample(range(engines), engines))
            planned.append(Planned(kind, rng.expovariate(1 / every_s), rng.uniform(*lasts_s), order))
    return planned


@dataclass
class Storm:
    """Carries out a plan, with at most `together` engines disturbed at a time."""

    world: World
    together: int
    seen: list[Disturbance] = field(default_factory=list)
    _disturbed: set[str] = field(default_factory=set)
    _calm: asyncio.Event = field(default_factory=asyncio.Event)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def now(self) -> list[str]:
        """What is going on, in words."""
        return [f"{one.kind} {one.replica}".strip() for one in self.seen if one.ended == float("inf")]

    async def rage(self, planned: Sequence[Planned], until: float) -> None:
        """Begin one after the other until then (on the loop's clock), and see all of them to their end."""
        clock = asyncio.get_running_loop().time
        for one in planned:
            await asyncio.sleep(one.after_s)
            engine = await self._free_engine(one, until)
            if engine is None or clock() >= until:
                break
            task = asyncio.create_task(self._disturb(one, engine))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        while self._running:
            await asyncio.wait(self._running)

    async def _free_engine(self, one: Planned, until: float) -> Engine | None:
        clock = asyncio.get_running_loop().time
        while clock() < until:
            if one.kind in OF_NO_ENGINE:
                if one.kind not in self._disturbed:
                    return self.world.engines[0]
            elif len(self._disturbed - set(OF_NO_ENGINE)) < self.together:
                free = [self.world.engines[number] for number in one.engines]
                return next(engine for engine in free if engine.replica not in self._disturbed)
            await asyncio.sleep(0.05)
        return None

    async def _disturb(self, one: Planned, engine: Engine) -> None:
        clock = asyncio.get_running_loop().time
        name = one.kind if one.kind in OF_NO_ENGINE else engine.replica
        self._disturbed.add(name)
        seen = Disturbance(one.kind, "" if one.kind in OF_NO_ENGINE else engine.replica, clock())
        self.seen.append(seen)
        before = await self.world.continued()
        try:
            await KINDS[one.kind](self.world, engine, one.lasts_s)
        except Exception as error:
            seen.wrong = f"{type(error).__name__}: {error}"
        await asyncio.sleep(SETTLE_S)
        after = await self.world.continued()
        if before is not None and after is not None:
            seen.continued = max(after - before, 0)
        seen.ended = clock()
        self._disturbed.discard(name)
