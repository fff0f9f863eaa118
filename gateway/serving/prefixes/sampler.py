"""What the page on prefixes is made of: each family's latest request, and samples of prompts; bounded; pure.

Of a sampled request its beginning is held while it runs, and its sketch (hashes) after that. Nothing of it is shown but
kinds, places and counts.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from engines.reports import Usage
from gateway.routing.decision import RouteRequest
from gateway.serving.prefixes.near_miss import Breaker, NearMiss, near_miss
from gateway.serving.prefixes.sketch import HEAD_BYTES, Place, Sketch, sketch
from gateway.wire.canonical import FIELD, VALUE, CanonicalPrompt

PER_S: Final = 2.0
BURST: Final = 16.0
SKETCHES: Final = 128
FAMILIES: Final = 500
FINDINGS: Final = 200
_IDS: Final = FIELD + b"prompt" + VALUE + b"ids"


class Specimen(msgspec.Struct):
    """A sampled request on its way: the beginning of its prompt, for how many requests it stands, what was routed."""

    head: bytes
    namespace: bytes
    stands_for: int
    asked: RouteRequest | None = None


class Finding(msgspec.Struct, frozen=True):
    """What breaks a prefix that many prompts would share. `position_tokens` is where they part, at the earliest.

    `requests` and `wasted_tokens` are estimates for all requests, from `samples` of them: prompt tokens that were said
    before, and had to be prefilled. `families` are the latest prefix families of those prompts.
    """

    theme: str
    breaker: Breaker
    place: str
    turn: int
    position_tokens: int
    samples: int
    requests: int
    wasted_tokens: int
    families: tuple[str, ...]
    last_at: float
    sentence: str


@dataclass(slots=True)
class _Tally:
    breaker: Breaker
    place: Place
    position_tokens: int
    samples: int = 0
    requests: int = 0
    wasted_tokens: float = 0.0
    last_at: float = 0.0


class Sampler:
    """`saw` is told of each request; `take` samples a prompt where one is due, `note` takes it in at its end."""

    def __init__(self) -> None:
        self.seen = 0
        self.sampled = 0
        self.latest: OrderedDict[int, RouteRequest] = OrderedDict()
        """The latest request of each family, without its token ids."""
        self._credit, self._credited_at, self._unsampled = BURST, 0.0, 0
        self._sketches: deque[Sketch] = deque()
        self._owners: dict[int, Sketch] = {}
        self._tallies: OrderedDict[tuple[Breaker, Place, int], _Tally] = OrderedDict()
        self._families: dict[tuple[Breaker, Place, int], deque[str]] = {}

    def take(self, prompt: CanonicalPrompt | None, now: float) -> Specimen | None:
        """A specimen of the prompt where one is due; None for most, and for those of token ids."""
        self.seen += 1
        self._unsampled += 1
        self._credit = min(self._credit + (now - self._credited_at) * PER_S, BURST)
        self._credited_at = now
        if self._credit < 1 or prompt is None or _IDS in prompt.namespace:
            return None
        self._credit -= 1
        stands_for, self._unsampled = self._unsampled, 0
        return Specimen(prompt.text[:HEAD_BYTES], prompt.namespace, stands_for)

    def saw(self, asked: RouteRequest) -> None:
        """A request is to be routed, sampled or not: its family's latest."""
        family = asked.chain.family
        if family is None:
            return
        if asked.token_chains:
            bare = tuple(msgspec.structs.replace(chain, tokens=b"") for chain in asked.token_chains)
            asked = msgspec.structs.replace(asked, token_chains=bare)
        self.latest.pop(family, None)
        self.latest[family] = asked
        if len(self.latest) > FAMILIES:
            self.latest.popitem(last=False)

    def note(self, specimen: Specimen, usage: Usage, at: float) -> None:
        """The request has ended with that usage, `at` seconds on the router's clock."""
        asked = specimen.asked
        if asked is None or asked.chain.family is None or not usage.prompt_tokens:
            return
        self.sampled += 1
        mine = sketch(specimen.head, specimen.namespace)
        other = self._nearest(mine)
        miss = None if other is None else near_miss(mine, other)
        if miss is not None:
            bytes_per_token = max(asked.chain.length / usage.prompt_tokens, 0.5)
            uncached = usage.prompt_tokens - (usage.cached_tokens or 0)
            wasted = min(miss.shared_bytes / bytes_per_token, uncached)
            if wasted > 0:
                self._found(miss, int(miss.at / bytes_per_token), wasted, specimen.stands_for, asked.chain.family, at)
        self._keep(mine)

    def findings(self) -> tuple[Finding, ...]:
        """Those that waste most first."""
        rows = [_finding(key[2], tally, self._families[key]) for key, tally in self._tallies.items()]
        return ranked(rows)

    def _nearest(self, mine: Sketch) -> Sketch | None:
        """The sketch that says most of the same, of those that said each thing last."""
        votes: Counter[int] = Counter()
        owners: dict[int, Sketch] = {}
        for piece, raw in enumerate(mine.raw):
            owner = self._owners.get(raw)
            if owner is not None:
                votes[id(owner)] += mine.size(piece)
                owners[id(owner)] = owner
        return owners[votes.most_common(1)[0][0]] if votes else None

    def _keep(self, mine: Sketch) -> None:
        self._sketches.append(mine)
        self._owners.update(dict.fromkeys(mine.raw, mine))
        if len(self._sketches) > SKETCHES:
            oldest = self._sketches.popleft()
            for raw in oldest.raw:
                if self._owners.get(raw) is oldest:
                    del self._owners[raw]

    def _found(
        self, miss: NearMiss, position_tokens: int, wasted_tokens: float, stands_for: int, family: int, at: float
    ) -> None:
        key = (miss.breaker, miss.place, miss.theme)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = _Tally(miss.breaker, miss.place, position_tokens)
            self._families[key] = deque(maxlen=3)
            if len(self._tallies) > FINDINGS:
                least = min(self._tallies, key=lambda one: self._tallies[one].wasted_tokens if one != key else 1e99)
                del self._tallies[least], self._families[least]
        tally.position_tokens = min(tally.position_tokens, position_tokens)
        tally.samples += 1
        tally.requests += stands_for
        tally.wasted_tokens += wasted_tokens * stands_for
        tally.last_at = at
        name, families = f"{family:016x}", self._families[key]
        if name not in families:
            families.append(name)


def ranked(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Those of the same kind, place and theme together; what wastes most first."""
    together: dict[tuple[str, str, str, int], Finding] = {}
    for one in findings:
        key = (one.theme, one.breaker, one.place, one.turn)
        before = together.get(key)
        together[key] = one if before is None else _sum(before, one)
    return tuple(sorted(together.values(), key=lambda one: -one.wasted_tokens))


def _sum(one: Finding, other: Finding) -> Finding:
    return msgspec.structs.replace(
        one,
        position_tokens=min(one.position_tokens, other.position_tokens),
        samples=one.samples + other.samples,
        requests=one.requests + other.requests,
        wasted_tokens=one.wasted_tokens + other.wasted_tokens,
        families=tuple(dict.fromkeys((*one.families, *other.families)))[:3],
        last_at=max(one.last_at, other.last_at),
    )


def _finding(theme: int, tally: _Tally, families: Sequence[str]) -> Finding:
    return Finding(
        f"{theme:016x}"[:8],
        tally.breaker,
        tally.place.name,
        tally.place.turn,
        tally.position_tokens,
        tally.samples,
        tally.requests,
        int(tally.wasted_tokens),
        tuple(families),
        tally.last_at,
        _ADVICE[tally.breaker],
    )


_ADVICE: Final = {
    Breaker.TIMESTAMP: "A time or date differs: say it at the end of the prompt, or to the day only.",
    Breaker.IDENTIFIER: "An identifier differs: leave it out, or put it after all that is shared.",
    Breaker.NUMBER: "A number differs: put it after all that is shared.",
    Breaker.VALUES: "Times, identifiers or numbers differ: put them after all that is shared.",
    Breaker.TOOL_ORDER: "The same tools come in another order: send them always in one order, by name.",
    Breaker.ORDER: "The same parts come in another order: send them always in one order.",
    Breaker.LINE: "A line differs, as one of each user would: put it after all that is shared.",
}
