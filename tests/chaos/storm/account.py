"""The ledger of a storm: what was sent, what became of it, what was going on then, and whether it adds up; pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from storm.schedule import Disturbance
from storm.visitor import Outcome, Visit

ENDS: tuple[str, ...] = get_args(Outcome)
GROWTH = 1.25
GROWTH_MIB = 12.0
"""How much the gateway may grow after warming up: its index fills, and a few buffers."""


@dataclass(slots=True)
class KindRow:
    """One kind of disturbance: how often, and the requests that were in flight then, by what became of them.

    A request is in flight for each disturbance that it lived through, but fails by those of the replicas that it was
    at first and last, where there were any. `continued` is the gateway's count meanwhile.
    """

    kind: str
    times: int = 0
    in_flight: int = 0
    retried: int = 0
    cut: int = 0
    failed: int = 0
    continued: int | None = None
    wrong: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Account:
    """All of it. `memory_mib` at the start, after warming up, and at the end, of the gateway that served then."""

    sent: int
    visits: Sequence[Visit]
    disturbances: Sequence[Disturbance]
    skipped: dict[str, str]
    memory_mib: tuple[float, float, float]
    gateway_ended: dict[str, int]
    booked: str | None
    same_gateway: bool
    wrong: list[str]

    @property
    def outcomes(self) -> Counter[str]:
        """Requests by what became of them."""
        return Counter(visit.outcome for visit in self.visits)

    def during(self, visit: Visit) -> list[Disturbance]:
        """What was going on while a request lived."""
        return [one for one in self.disturbances if one.began <= visit.ended and visit.began <= one.ended]

    def rows(self) -> list[KindRow]:
        """By kind of disturbance, then `-` for requests in calm weather."""
        rows = {one.kind: KindRow(one.kind) for one in self.disturbances}
        for one in self.disturbances:
            row = rows[one.kind]
            row.times += 1
            row.wrong += [one.wrong] if one.wrong else []
            if one.continued is not None:
                row.continued = (row.continued or 0) + one.continued
        calm = KindRow("-")
        for visit in self.visits:
            during = self.during(visit)
            for row in self._of(rows, during) or [calm]:
                row.in_flight += 1
                row.retried += (visit.attempts or 1) > 1
            there = [one for one in during if one.replica in (visit.replica, visit.last_replica)]
            for row in self._of(rows, there or during) or [calm]:
                row.cut += visit.outcome == "cut"
                row.failed += visit.outcome == "failed"
        return [*sorted(rows.values(), key=lambda row: row.kind), calm]

    @staticmethod
    def _of(rows: dict[str, KindRow], disturbances: Sequence[Disturbance]) -> list[KindRow]:
        return [rows[kind] for kind in sorted({one.kind for one in disturbances})]

    def failures(self, begin: float) -> list[dict[str, Any]]:
        """Each failed or cut request; times in seconds after `begin`."""
        return [
            {
                "request": visit.request_id,
                "outcome": visit.outcome,
                "kind": visit.ask.kind,
                "from_s": round(visit.began - begin, 2),
                "to_s": round(visit.ended - begin, 2),
                "replicas": list(dict.fromkeys(name for name in (visit.replica, visit.last_replica) if name)),
                "attempts": visit.attempts,
                "during": [f"{one.kind} {one.replica}".strip() for one in self.during(visit)],
                "why": visit.why,
            }
            for visit in self.visits
            if visit.outcome in ("failed", "cut")
        ]

    def complaints(self) -> list[str]:
        """What is not as it should be; none: all is well."""
        found = list(self.wrong)
        ends = self.outcomes
        if ends["failed"]:
            found.append(f"{ends['failed']} requests failed that a replica could have served")
        odd = self.sent - sum(ends[name] for name in ENDS)
        if odd:
            found.append(f"the ledger does not say what became of {odd} requests")
        told = sum(self.gateway_ended.values())
        if self.same_gateway and told != self.sent:
            found.append(f"{self.sent} requests were sent, and the gateway counts {told}: {self.gateway_ended}")
        if self.booked is not None:
            found.append(self.booked)
        found += [f"{one.kind} {one.replica}: {one.wrong}" for one in self.disturbances if one.wrong]
        _, warm, end = self.memory_mib
        if self.same_gateway and end > warm * GROWTH + GROWTH_MIB:
            found.append(f"the gateway's memory grew from {warm:.0f} to {end:.0f} MiB")
        return found

    def figures(self, begin: float) -> dict[str, Any]:
        """Everything, for `--json`."""
        return {
            "sent": self.sent,
            **{name: self.outcomes[name] for name in ENDS},
            "kinds": [asdict(row) for row in self.rows()],
            "skipped": self.skipped,
            "gateway_ended": self.gateway_ended,
            "memory_mib": [round(mib, 1) for mib in self.memory_mib],
            "booked": self.booked,
            "failures": self.failures(begin),
            "wrong": self.complaints(),
        }
