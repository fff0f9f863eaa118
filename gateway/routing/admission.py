"""Admission: who may wait for a replica, for how long, and what those are told who may not; pure."""

from collections import Counter
from heapq import heapify, heappop, heappush
from typing import Final

from gateway.routing.candidates import Candidate
from gateway.routing.decision import Decision, Priority, Rejection, RejectionReason, RouteRequest
from gateway.routing.flow import Flow
from gateway.routing.histogram import SECONDS, Histogram
from gateway.routing.holding import HeldRequest, HeldRequests, LineKey
from gateway.routing.output_sizes import OutputSizes
from gateway.routing.queue_limits import QueueLimits
from gateway.routing.queue_view import PriorityView, QueueView
from gateway.routing.starts import Starts

HEADROOM: Final = 0.8
"""A request may wait if it is expected to be sent within this share of the time that it has."""
_LEAST_SHARE: Final = 0.5
"""Of its deadline, that a request has for waiting at least, however long its own prefill is."""
_MARGIN: Final = 1.5
"""So many times what is booked before it and its own prefill is left for these: engines also decode meanwhile."""
_STALE: Final = 1024

Answers = list[tuple[int, Rejection]]
"""By ticket."""


class Admission:
    """The queue with its limits. `hold_s`: what may be booked at a replica before those who are sent to it."""

    def __init__(self, limits: QueueLimits, hold_s: float) -> None:
        self.limits = limits
        self.held = HeldRequests()
        self.sizes = OutputSizes()
        self.starts = Starts()
        self.shed: Counter[tuple[RejectionReason, Priority]] = Counter()
        self.waits = {priority: Histogram(SECONDS) for priority in Priority}
        """Of those who were sent."""
        self.hold_s = hold_s
        self._flows: dict[str, Flow] = {}
        self._prompt_tokens = 0
        self._expiries: list[tuple[float, int]] = []
        self._evicted: Answers = []

    def __len__(self) -> int:
        """How many wait for an answer."""
        return len(self.held) + len(self._evicted)

    # ── coming ───────────────────────────────────────────────────────────────────────────────────

    def refusal(self, model: str, line: LineKey, asked_s: float | None, now: float) -> Rejection | None:
        """What a request that comes now is told, for one like the others would wait too long; None: it may be fine."""
        flow = self._flows.get(model)
        if flow is None:
            return None
        wait_s = flow.wait_s(line, flow.mean_tokens, self.limits, now)
        deadline_s = self.limits.deadline_s(line[0], asked_s)
        allowed_s = HEADROOM * self._patience_s(deadline_s, flow.mean_work_s)
        return self._too_long(flow, line, wait_s, allowed_s, now) if wait_s > allowed_s else None

    def newcomer(self, decision: Decision, request: RouteRequest, replicas: int, now: float) -> Rejection | None:
        """A request that should wait, of a model with so many replicas: it does, or it is refused."""
        best = decision.chosen
        tokens = self._tokens(best, request)
        flow = self._flow(decision.model, tokens / best.prefill_ms * 1000 * replicas)
        line = request.priority, request.tenant
        until = self._expires_at(request, max(best.prefill_ms / 1000, flow.mean_work_s))
        wait_s, allowed_s = flow.wait_s(line, tokens, self.limits, now), HEADROOM * (until - now)
        if wait_s > allowed_s:
            return self._too_long(flow, line, wait_s, allowed_s, now)
        return self.hold(decision, request, now, now)

    def hold(self, decision: Decision, request: RouteRequest, since: float, now: float) -> Rejection | None:
        """The request waits, if there is room for it; else whoever is the least loss is refused."""
        best, limits = decision.chosen, self.limits
        tokens = self._tokens(best, request)
        held = HeldRequest(
            decision.ticket,
            request,
            decision.model,
            since,
            best.slot,
            best.prefill_ms,
            now,
            best.prompt_tokens,
            tokens,
            self._expires_at(request, best.prefill_ms / 1000),
            decision.exposure,
        )
        self.held.add(held)
        self._flow(held.model, 0.0).add(held.line, tokens, best.prefill_ms / 1000, limits.weight(request.tenant), now)
        self._prompt_tokens += held.prompt_tokens
        if held.expires_at < float("inf"):
            heappush(self._expiries, (held.expires_at, held.ticket))
        while len(self.held) > limits.max_requests or self._prompt_tokens > limits.max_tokens:
            one = self._least_loss()
            self._leave(one, now)
            rejection = self._refuse(one, RejectionReason.QUEUE_FULL, "the gateway's queue is full", now)
            if one is held:
                return rejection
            self._evicted.append((one.ticket, rejection))
        return None

    def _tokens(self, best: Candidate, request: RouteRequest) -> int:
        return max(best.prompt_tokens - best.cached_tokens, 1) + self.sizes.expect(request.tenant)

    def _flow(self, model: str, guess_per_s: float) -> Flow:
        flow = self._flows.get(model)
        if flow is None:
            flow = self._flows[model] = Flow()
        if guess_per_s:
            flow.rate.guess(guess_per_s)
        return flow

    def _expires_at(self, request: RouteRequest, work_s: float) -> float:
        deadline_s = self.limits.deadline_s(request.priority, request.deadline_s)
        return request.accepted_at + self._patience_s(deadline_s, work_s)

    def _patience_s(self, deadline_s: float, work_s: float) -> float:
        """How long a request may wait for its turn so that its first token comes within the deadline."""
        start_s = max(_MARGIN * (self.hold_s + work_s), self.starts.slow_s)
        return max(deadline_s - start_s, _LEAST_SHARE * deadline_s)

    def _least_loss(self) -> HeldRequest:
        """Batch before interactive, of the tenant that has most waiting for its weight: the last in its line."""
        lines = self.held.lines

        def load(key: LineKey) -> tuple[bool, float]:
            return key[0] is Priority.BATCH, lines[key].tokens / self.limits.weight(key[1])

        return lines[max(lines, key=load)].waiting[-1][1]

    # ── going ────────────────────────────────────────────────────────────────────────────────────

    def refused(self, now: float) -> Answers:
        """Those who wait no longer: others took their place, or their time is over."""
        answers, self._evicted = self._evicted, []
        expiries = self._expiries
        while expiries and expiries[0][0] <= now:
            held = self.held.get(heappop(expiries)[1])
            if held is not None:
                self._leave(held, now)
                message = "the time that this request may wait is over"
                answers.append((held.ticket, self._refuse(held, RejectionReason.QUEUE_DEADLINE, message, now)))
        return answers

    def sent(self, held: HeldRequest, best: Candidate, now: float) -> None:
        """Its turn came: it costs what it costs there now, which may be less than when it came."""
        self._leave(held, now)
        self.waits[held.request.priority].observe(now - held.since)
        self._gave(held.model, held.line, self._tokens(best, held.request), now)

    def passed(self, decision: Decision, request: RouteRequest, now: float) -> None:
        """A request went at once while others wait."""
        tokens = self._tokens(decision.chosen, request)
        self._gave(decision.model, (request.priority, request.tenant), tokens, now)

    def came_back(self, decision: Decision, request: RouteRequest, now: float) -> None:
        """A request that went was refused by its engine: its tenant was given nothing."""
        tokens = self._tokens(decision.chosen, request)
        self._gave(decision.model, (request.priority, request.tenant), -tokens, now)

    def _gave(self, model: str, line: LineKey, tokens: int, now: float) -> None:
        limits = self.limits
        self.held.give(line, tokens, limits.share(line[0]), limits.weight(line[1]))
        flow = self._flows.get(model)
        if flow is not None:
            flow.rate.sent(tokens, now)

    def withdraw(self, ticket: int, now: float) -> None:
        """Whoever it is no longer waits for an answer."""
        held = self.held.get(ticket)
        if held is not None:
            self._leave(held, now)
        elif self._evicted:
            self._evicted = [one for one in self._evicted if one[0] != ticket]

    def _leave(self, held: HeldRequest, now: float) -> None:
        self.held.remove(held)
        self._flows[held.model].remove(held.line, held.tokens, now)
        self._prompt_tokens -= held.prompt_tokens
        if len(self._expiries) > 2 * len(self.held) + _STALE:
            self._expiries = [one for one in self._expiries if self.held.get(one[1]) is not None]
            heapify(self._expiries)

    def view(self, now: float) -> QueueView:
        """What is shown of it."""
        drain = {model: flow.rate.per_s(now) for model, flow in self._flows.items() if not flow.is_empty}
        return QueueView(tuple(self._priority_view(priority) for priority in Priority), drain)

    def _priority_view(self, priority: Priority) -> PriorityView:
        held = [one for key, line in self.held.lines.items() if key[0] is priority for _, one in line.waiting]
        return PriorityView(
            priority,
            len(held),
            sum(one.prompt_tokens for one in held),
            len({one.request.tenant for one in held}),
            {str(reason): count for (reason, of), count in self.shed.items() if of is priority},
            self.waits[priority].copy(),
        )

    # ── refusals ─────────────────────────────────────────────────────────────────────────────────

    def _too_long(self, flow: Flow, line: LineKey, wait_s: float, allowed_s: float, now: float) -> Rejection:
        self.shed[RejectionReason.QUEUE_DEADLINE, line[0]] += 1
        return Rejection(
            RejectionReason.QUEUE_DEADLINE,
            f"overloaded: this {line[0]} request would have to wait for about {wait_s:.1f} s, which is too long",
            flow.invite(line, wait_s - allowed_s, self.limits, now),
        )

    def _refuse(self, held: HeldRequest, reason: RejectionReason, message: str, now: float) -> Rejection:
        """Refuse one that waited."""
        self.shed[reason, held.request.priority] += 1
        flow = self._flows[held.model]
        wait_s = flow.wait_s(held.line, held.tokens, self.limits, now)
        allowed_s = HEADROOM * (held.expires_at - held.request.accepted_at)
        excess_s = max(wait_s - allowed_s, 0.0)
        return Rejection(
            reason, f"overloaded: {message}", flow.invite(held.line, excess_s, self.limits, now), held.exposure
        )
