"""The queue's limits: who is refused, when, with what word on when to come again; and nobody is lost."""

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engines.reports import ModelCard
from gateway.routing.chain import PrefixChain, chain
from gateway.routing.curves import ENOUGH
from gateway.routing.decision import Decision, Held, Priority, Rejection, RejectionReason, RouteRequest
from gateway.routing.facts import AttemptFailed, Cause, Finished, FirstToken, Outcome, ReplicaDown, ReplicaUp, Withdrawn
from gateway.routing.queue_limits import QueueLimits
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router

POOL = PoolSpec("p", "m", (ReplicaSpec("r1", "http://r1"), ReplicaSpec("r2", "http://r2")))
INTERACTIVE, BATCH = Priority
LIMITS = QueueLimits(100, 1_000_000, 10.0, 100.0)


class Queue:
    """A router whose replicas take 100 ms for anything, and hold from 150 ms on."""

    def __init__(self, limits: QueueLimits = LIMITS, pool: PoolSpec = POOL) -> None:
        self.now = 100.0
        self.router = Router([pool], rng=Random(1), block_bytes=256, hold_ms=150.0, queue=limits)
        for replica in pool.replicas:
            self.router.observe(ReplicaUp(replica.name, self.now, (ModelCard("m"),)))
        for one in self.router._fleet.replicas:
            for _ in range(ENOUGH):
                one.learn(10, 100.0)
        self.asked = 0

    def ask(self, tenant: str = "a", priority: Priority = INTERACTIVE, **more: object) -> Decision | Rejection | Held:
        self.asked += 1
        text = chain(b"m", f"{self.asked} ".encode() * 300, 256)
        more.setdefault("accepted_at", self.now)
        request = RouteRequest(f"{self.asked}", "m", text, True, tenant=tenant, priority=priority, **more)  # type: ignore[arg-type]
        return self.router.route(request, self.now)

    def hold(self, *args: object, **more: object) -> Held:
        answer = self.ask(*args, **more)  # type: ignore[arg-type]
        assert isinstance(answer, Held), answer
        return answer

    def fill(self) -> list[Decision]:
        """Until the replicas are busy."""
        sent = []
        while isinstance(answer := self.ask("filler"), Decision):
            sent.append(answer)
        assert isinstance(answer, Held)
        self.router.observe(Withdrawn(answer.ticket, self.now))
        return sent

    def free(self, decision: Decision) -> None:
        self.router.observe(FirstToken(decision.ticket, self.now))
        self.router.observe(Finished(decision.ticket, self.now, Outcome.COMPLETED))


def priorities(queue: Queue) -> dict[str, int]:
    return {one.priority: one.depth for one in queue.router.snapshot(queue.now).queue.priorities}


def shed(queue: Queue) -> dict[str, dict[str, int]]:
    return {one.priority: one.shed for one in queue.router.snapshot(queue.now).queue.priorities}


# ── deadlines ────────────────────────────────────────────────────────────────────────────────────


def test_whose_time_is_over_is_told_once() -> None:
    queue = closed()
    held = queue.hold()
    queue.now += 9.4
    assert queue.router.release(queue.now) == []
    queue.now += 0.6
    [(ticket, answer)] = queue.router.release(queue.now)
    assert ticket == held.ticket
    assert isinstance(answer, Rejection)
    assert answer.reason is RejectionReason.QUEUE_DEADLINE
    assert answer.retry_after_s is not None
    assert answer.retry_after_s >= 1
    assert queue.router.holds == 0
    assert queue.router.release(queue.now) == []
    assert shed(queue) == {"interactive": {"queue_deadline": 1}, "batch": {}}


def closed(limits: QueueLimits = LIMITS) -> Queue:
    """No replica takes anything until it is said to."""
    queue = Queue(limits)
    for replica in queue.router._fleet.replicas:
        replica.capacity.closed_until = 1e9
    return queue


def test_each_priority_has_its_own_deadline_and_a_client_may_ask_for_less() -> None:
    queue = closed()
    expected = {
        queue.hold(deadline_s=2.0).ticket: 2.0,
        queue.hold().ticket: 10.0,
        queue.hold(deadline_s=1000.0).ticket: 10.0,
        queue.hold(priority=BATCH).ticket: 100.0,
    }
    told: dict[int, float] = {}
    start = queue.now
    while queue.router.holds:
        queue.now += 0.05
        told |= {ticket: queue.now - start for ticket, _ in queue.router.release(queue.now)}
    for ticket, deadline_s in expected.items():
        assert deadline_s * 0.5 <= told[ticket] <= deadline_s


def test_who_would_wait_too_long_is_refused_at_once_and_told_when_to_come() -> None:
    queue = closed()
    answers = [queue.ask() for _ in range(1000)]
    refused = [one for one in answers if isinstance(one, Rejection)]
    waiting = len(answers) - len(refused)
    assert 20 < waiting <= 100
    assert {one.reason for one in refused} <= {RejectionReason.QUEUE_DEADLINE, RejectionReason.QUEUE_FULL}
    times = [one.retry_after_s or 0 for one in refused]
    assert times == sorted(times), "each one has a later time than the one before"
    assert 1 <= times[0] < times[-1] <= 60


def test_the_same_is_said_before_anything_is_known_of_a_request() -> None:
    queue = closed()
    assert queue.router.refusal("m", "a", INTERACTIVE, None, queue.now) is None
    while isinstance(queue.ask(), Held):
        pass
    early = queue.router.refusal("m", "a", INTERACTIVE, None, queue.now)
    assert isinstance(early, Rejection)
    assert queue.router.refusal("m", "b", INTERACTIVE, None, queue.now) is None, "another tenant has its share"
    assert queue.router.refusal("other", "a", INTERACTIVE, None, queue.now) is None, "of another model nobody waits"
    assert queue.router.refusal(None, "a", INTERACTIVE, None, queue.now) is None


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────


def test_a_full_queue_refuses_batch_first_then_who_has_most() -> None:
    queue = closed(QueueLimits(max_requests=6))
    batch = [queue.hold("b", BATCH).ticket for _ in range(3)]
    many = [queue.hold("many").ticket for _ in range(3)]
    few = queue.hold("few").ticket
    assert [ticket for ticket, _ in queue.router.release(queue.now)] == [batch[-1]], "the last in its line"
    for _ in range(2):
        queue.hold("few")
    assert sorted(ticket for ticket, _ in queue.router.release(queue.now)) == batch[:-1]
    assert isinstance(queue.ask("b", BATCH), Rejection), "batch itself"
    queue.hold("third")
    [(ticket, answer)] = queue.router.release(queue.now)
    assert ticket in (many[-1], few + 2)
    assert isinstance(answer, Rejection)
    assert answer.reason is RejectionReason.QUEUE_FULL
    assert queue.router.holds == 6


def test_tokens_are_bounded_too() -> None:
    queue = closed(QueueLimits(max_tokens=1000))
    while isinstance(queue.ask(), Held):
        queue.now += 0.001
        assert sum(one.waiting_tokens for one in queue.router.snapshot(queue.now).queue.priorities) <= 1000
    assert queue.router.holds >= 2


def test_a_refused_one_whose_client_has_left_meanwhile() -> None:
    queue = closed(QueueLimits(max_requests=1))
    first = queue.hold("a", BATCH)
    queue.hold("a")
    assert queue.router.holds == 2, "the first one has yet to be told"
    queue.router.observe(Withdrawn(first.ticket, queue.now))
    assert queue.router.holds == 1
    assert queue.router.release(queue.now) == []


# ── turns ────────────────────────────────────────────────────────────────────────────────────────


def order(queue: Queue, sent: list[Decision], tickets: dict[int, str]) -> str:
    """Who goes next, as one request after the other ends."""
    went = ""
    while tickets:
        if sent:
            queue.free(sent.pop(0))
        for ticket, answer in queue.router.release(queue.now):
            assert isinstance(answer, Decision)
            went += tickets.pop(ticket)
            sent.append(answer)
    return went


def test_two_tenants_take_turns() -> None:
    queue = Queue()
    sent = queue.fill()
    tickets = {queue.hold(tenant).ticket: tenant for tenant in "aaaaaabbb"}
    went = order(queue, sent, tickets)
    assert sorted(went[:6]) == list("aaabbb")
    assert went[6:] == "aaa"


def test_a_heavier_tenant_has_more_turns() -> None:
    queue = Queue(QueueLimits(weights={"b": 2.0}))
    sent = queue.fill()
    tickets = {queue.hold(tenant).ticket: tenant for tenant in "aaaaaabbbbbb"}
    assert order(queue, sent, tickets)[:9].count("b") in (5, 6, 7)


def test_batch_gets_its_share_behind_interactive() -> None:
    queue = Queue(QueueLimits(batch_share=0.2))
    sent = queue.fill()
    tickets = {queue.hold("a", BATCH).ticket: "b" for _ in range(20)}
    tickets |= {queue.hold("a").ticket: "i" for _ in range(20)}
    went = order(queue, sent, tickets)
    assert went[:20].count("b") in (3, 4, 5)
    assert went[0] == "i"


def test_a_newcomer_does_not_pass_others_who_wait() -> None:
    queue = Queue()
    sent = queue.fill()
    held = [queue.hold("a").ticket for _ in range(8)]
    for one in sent[:1]:
        queue.free(one)
    late = queue.hold("b")  # a replica is free again, but others' turn may come first
    went = [ticket for ticket, _ in queue.router.release(queue.now)]
    assert held[0] in went or late.ticket in went


def test_other_limits_hold_for_who_comes_from_then_on() -> None:
    queue = closed()
    queue.hold()
    queue.router.limit_queue(QueueLimits(max_requests=1, interactive_deadline_s=1.0))
    assert isinstance(queue.ask(), Rejection)
    queue.now += 5
    assert queue.router.release(queue.now) == []


# ── overloaded engines ───────────────────────────────────────────────────────────────────────────


def test_who_was_refused_by_an_engine_waits_and_keeps_its_time() -> None:
    queue = Queue(pool=PoolSpec("p", "m", POOL.replicas[:1]))
    sent = queue.ask()
    assert isinstance(sent, Decision)
    request = RouteRequest("again", "m", PrefixChain(), True, queue.now)
    queue.now += 4
    queue.router.observe(AttemptFailed(sent.ticket, queue.now, Cause.OVERLOADED))
    held = queue.router.hold(request, queue.now)
    assert isinstance(held, Held)
    assert queue.router.release(queue.now) == [], "its engine is closed for now"
    queue.now += 0.6
    [(ticket, answer)] = queue.router.release(queue.now)
    assert ticket == held.ticket
    assert isinstance(answer, Decision)
    queue.router.observe(AttemptFailed(answer.ticket, queue.now, Cause.OVERLOADED))
    queue.router.hold(request, queue.now)
    queue.now += 0.5
    assert queue.router.release(queue.now) == [], "for longer"
    queue.now = 110.0
    [(_, answer)] = queue.router.release(queue.now)
    assert isinstance(answer, Rejection), "its deadline counts from when it was accepted"


# ── nobody is lost ───────────────────────────────────────────────────────────────────────────────


class QueueMachine(RuleBasedStateMachine):
    """Anything in any order: each ticket that was held gets one answer, unless it is withdrawn."""

    @initialize(
        requests=st.sampled_from([1, 3, 8, 1000]),
        tokens=st.sampled_from([100, 1000, 10**9]),
        deadline_s=st.sampled_from([0.2, 2.0, 100.0]),
        weights=st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.5, 1.0, 3.0])),
    )
    def start(self, requests: int, tokens: int, deadline_s: float, weights: dict[str, float]) -> None:
        self.limits = QueueLimits(requests, tokens, deadline_s, 3 * deadline_s, 0.1, weights)
        self.queue = Queue(self.limits)
        self.router = self.queue.router
        self.waiting: dict[int, float] = {}
        self.open: dict[int, Decision] = {}
        self.refused = 0

    @rule(
        tenant=st.sampled_from("abc"),
        priority=st.sampled_from(Priority),
        deadline_s=st.sampled_from([None, None, 0.1, 50.0]),
        age=st.sampled_from([0.0, 0.0, 1.0]),
        count=st.integers(1, 5),
    )
    def ask(self, tenant: str, priority: Priority, deadline_s: float | None, age: float, count: int) -> None:
        for _ in range(count):
            accepted_at = self.queue.now - age
            answer = self.queue.ask(tenant, priority, deadline_s=deadline_s, accepted_at=accepted_at)
            self.take(answer, accepted_at + self.limits.deadline_s(priority, deadline_s))

    def take(self, answer: Decision | Rejection | Held, until: float) -> None:
        if isinstance(answer, Held):
            assert answer.ticket not in self.waiting
            self.waiting[answer.ticket] = until
        elif isinstance(answer, Decision):
            self.open[answer.ticket] = answer
        else:
            self.refused += answer.reason in (RejectionReason.QUEUE_FULL, RejectionReason.QUEUE_DEADLINE)
            assert answer.retry_after_s is not None
            assert 1 <= answer.retry_after_s <= 60

    @rule()
    def release(self) -> None:
        for ticket, answer in self.router.release(self.queue.now):
            del self.waiting[ticket]
            assert not isinstance(answer, Held)
            self.take(answer, 0.0)
        for until in self.waiting.values():
            assert self.queue.now <= until, "nobody waits for longer than it may"

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 5.0]))
    def wait(self, seconds: float) -> None:
        self.queue.now += seconds

    @precondition(lambda self: self.open)
    @rule(data=st.data(), how=st.sampled_from(["finish", "fail", "overloaded"]))
    def end(self, data: st.DataObject, how: str) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.open)))
        decision = self.open.pop(ticket)
        if how == "finish":
            self.queue.free(decision)
            return
        self.router.observe(
            AttemptFailed(ticket, self.queue.now, Cause.OVERLOADED if how == "overloaded" else Cause.ENGINE)
        )
        if how == "overloaded":
            request = RouteRequest("again", "m", PrefixChain(), True, self.queue.now)
            self.take(self.router.hold(request, self.queue.now), self.queue.now + self.limits.interactive_deadline_s)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[ticket]
        self.refused += any(one == ticket for one, _ in self.router._queue._evicted)  # and never heard of it
        self.router.observe(Withdrawn(ticket, self.queue.now))

    @rule(replica=st.sampled_from(["r1", "r2"]), is_up=st.booleans())
    def turn(self, replica: str, is_up: bool) -> None:
        fact = ReplicaUp(replica, self.queue.now, (ModelCard("m"),)) if is_up else None
        self.router.observe(fact or ReplicaDown(replica, self.queue.now, "gone"))

    @invariant()
    def the_books_are_right(self) -> None:
        view = self.router.snapshot(self.queue.now).queue
        queue = self.router._queue
        assert self.router.holds == len(self.waiting)
        assert len(queue.held) == sum(one.depth for one in view.priorities) <= self.limits.max_requests
        assert queue._prompt_tokens == sum(one.waiting_tokens for one in view.priorities) <= self.limits.max_tokens
        assert {one.ticket for one in queue.held} <= self.waiting.keys()
        assert all(queue.held.lines.values()), "no line is empty"
        told = sum(count for one in view.priorities for count in one.shed.values())
        assert told == self.refused + len(queue._evicted)
        for flow in queue._flows.values():
            assert all(part.tokens > 0 for part in flow._parts.values())

    def teardown(self) -> None:
        for ticket in self.waiting:
            self.router.observe(Withdrawn(ticket, self.queue.now))
        assert self.router.holds == 0
        assert self.router.look_at(self.queue.now) is None
        assert self.router._queue.held.lines == {}
        assert self.router._queue._prompt_tokens == 0


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
