"""Whatever is lost, mixed up or made up between a publisher and the router, nothing stale is believed."""

import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from event_publisher import Believer, PlainDialect, message
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from thoroughness import examples

from gateway.routing.facts import CacheEvents, CacheFenced, CacheLost, CacheSynced, Fact
from gateway.serving.events.intake import EventIntake, ReplayEnd

BLOCKS = 6


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def intake_for(observe: Callable[[Fact], None], clock: Clock | None = None) -> EventIntake:
    return EventIntake("p-0", 0, PlainDialect().read_events, observe, clock or Clock())


class Process:
    """A publisher's process: its messages, and what it holds after each of them."""

    def __init__(self, first: int, name: int) -> None:
        self.first = first
        self.name = name
        self.payloads: list[bytes] = []
        self.holds: list[set[int]] = [set()]

    @property
    def next(self) -> int:
        return self.first + len(self.payloads)

    def publish(self, words: tuple[str, ...]) -> int:
        held = set(self.holds[-1])
        for word in words:
            if word == "0":
                held.clear()
            elif word[0] == "+":
                held.add(int(word[1:]))
            elif word[0] == "-":
                held.discard(int(word[1:]))
        self.holds.append(held)
        # Messages carry a time, so that no two are the same: here a block that nobody asks for.
        self.payloads.append(message(*words, f"+{1000 * self.name + len(self.payloads)}"))
        return self.next - 1

    def held_after(self, number: int | None) -> set[int]:
        return set() if number is None else self.holds[number - self.first + 1]

    def frames(self, number: int) -> list[bytes]:
        return [b"", number.to_bytes(8, "big"), self.payloads[number - self.first]]


words = st.lists(
    st.one_of(
        st.integers(0, BLOCKS - 1).map(lambda block: f"+{block}"),
        st.integers(0, BLOCKS - 1).map(lambda block: f"-{block}"),
        st.just("0"),
        st.just("?"),
    ),
    min_size=1,
    max_size=3,
).map(tuple)


class Scene(RuleBasedStateMachine):
    """A connection that loses and mixes up messages, a replay that keeps the last few, processes that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.believer = Believer()
        self.intake = intake_for(self.believer.observe, self.clock)
        self.kept = 100
        self.replays = True
        self.processes = 1
        self.process = Process(0, 1)
        self.is_connected = False
        self.late: list[int] = []
        self.faults: list[str] = []
        """What goes wrong with the next replays."""

    @initialize(kept=st.integers(1, 8), replays=st.booleans())
    def begin(self, kept: int, *, replays: bool) -> None:
        self.kept = kept
        self.replays = replays

    @rule(said=words)
    def publish(self, said: tuple[str, ...]) -> None:
        self.deliver(self.process.publish(said))
        while self.late:
            self.deliver(self.late.pop())

    @rule(said=words)
    def lose(self, said: tuple[str, ...]) -> None:
        self.process.publish(said)

    @rule(said=words)
    def be_late(self, said: tuple[str, ...]) -> None:
        self.late.append(self.process.publish(said))

    @rule(back=st.integers(0, 20))
    def repeat(self, back: int) -> None:
        self.deliver(self.process.next - 1 - back)

    @rule()
    @precondition(lambda self: not self.is_connected)
    def connect(self) -> None:
        self.is_connected = True
        self.intake.connected()
        self.repair()

    @rule()
    @precondition(lambda self: self.is_connected)
    def disconnect(self) -> None:
        self.is_connected = False
        self.intake.disconnected()

    @rule(first=st.integers(0, 12))
    def restart(self, first: int) -> None:
        if self.is_connected:
            self.disconnect()
        self.late.clear()
        self.processes += 1
        self.process = Process(first, self.processes)

    @rule()
    @precondition(lambda self: not self.is_connected)
    def stay_away(self) -> None:
        self.intake.lost("the connection is gone")

    @rule()
    def hear_of_a_restart(self) -> None:
        self.intake.lost("the engine restarted")
        if self.is_connected:
            self.intake.connected()
            self.repair()

    @rule()
    @precondition(lambda self: self.is_connected and self.replays)
    def check_the_tail(self) -> None:
        honest = not self.faults
        self.intake.check()
        self.repair()
        last = self.intake.status("", replays=True).last_seq
        if honest and last is not None:
            assert last == self.process.next - 1

    @rule(fault=st.sampled_from(["silent", "holes", "cut", "endless"]))
    def break_a_replay(self, fault: str) -> None:
        self.faults.append(fault)

    @rule(seconds=st.integers(1, 20))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @invariant()
    def what_is_believed_was_true_at_the_last_message(self) -> None:
        blocks = self.believer.blocks
        assert (blocks is not None) == (self.intake.state == "live")
        if blocks is not None:
            assert self.is_connected, "nobody listens"
            held = self.process.held_after(self.intake.status("", replays=self.replays).last_seq)
            assert {block for block in blocks if int(block) < BLOCKS} <= held

    def deliver(self, number: int) -> None:
        if self.is_connected and self.process.first <= number < self.process.next:
            self.intake.take(self.process.frames(number))
            self.repair()

    def repair(self) -> None:
        asked = 0
        while self.intake.repair is not None:
            asked += 1
            assert asked < 300, "it never ends"
            if not self.replays:
                self.intake.give_up("no replay")
                return
            fault = self.faults.pop() if self.faults else ""
            self.intake.replay_ended(self.replay(self.intake.ask_from(), fault))

    def replay(self, first: int, fault: str) -> ReplayEnd:
        if fault == "silent":
            return ReplayEnd.SILENT
        process = self.process
        answers = range(max(first, process.first, process.next - self.kept), process.next)
        for place, number in enumerate(answers):
            if fault == "holes" and place % 3 == 2:
                continue
            if fault == "cut" and place == 2:
                return ReplayEnd.SILENT
            if not self.intake.take_replayed(number, process.payloads[number - process.first]):
                return ReplayEnd.STOPPED
        return ReplayEnd.SILENT if fault == "endless" else ReplayEnd.WHOLE


TestScene = Scene.TestCase
TestScene.settings = settings(max_examples=examples(60, 300), stateful_step_count=40)
TestScene = pytest.mark.law(TestScene)


@given(st.lists(st.tuples(st.booleans(), words), min_size=1, max_size=30))
def test_nothing_is_forgotten_that_a_whole_replay_brings(steps: list[tuple[bool, tuple[str, ...]]]) -> None:
    scene = Scene()
    scene.connect()
    for arrives, said in steps:
        number = scene.process.publish(tuple(word for word in said if word != "?"))
        if arrives:
            scene.deliver(number)
    scene.intake.check()
    scene.repair()
    believed = scene.believer.blocks
    assert believed is not None
    assert {block for block in believed if int(block) < BLOCKS} == scene.process.holds[-1]
    assert not any(isinstance(fact, CacheLost) for fact in scene.believer.facts)


numbers = st.one_of(
    st.integers(0, 12),
    st.integers(0, 12),
    st.sampled_from([2**64 - 1, 2**64 - 2, 2**63, 16_383, 16_384, 16_385]),
)
payloads = st.one_of(words.map(lambda said: message(*said)), st.binary(max_size=12))
hostile_frames = st.one_of(
    st.tuples(st.just(b""), numbers.map(lambda number: number.to_bytes(8, "big")), payloads),
    st.tuples(numbers.map(lambda number: number.to_bytes(8, "big")), payloads),
    st.lists(st.binary(max_size=9), max_size=6),
)
hostile_replays = st.lists(
    st.tuples(st.lists(st.tuples(numbers, payloads), max_size=6), st.sampled_from(list(ReplayEnd))), max_size=6
)


@settings(max_examples=300)
@given(
    st.lists(st.one_of(hostile_frames, st.sampled_from(["gone", "away", "back", "check", "restarted"])), max_size=40),
    hostile_replays,
)
def test_nothing_that_an_engine_sends_breaks_the_rules(
    events: list[object], replays: list[tuple[list[tuple[int, bytes]], ReplayEnd]]
) -> None:
    facts: list[Fact] = []
    intake = intake_for(facts.append)
    answers = iter(replays * 20)
    intake.connected()
    answer_all(intake, answers)
    for event in events:
        if event == "gone":
            intake.disconnected()
        elif event == "away":
            intake.lost("away")
        elif event == "back":
            intake.connected()
        elif event == "check":
            intake.check()
        elif event == "restarted":
            intake.lost("restarted")
            intake.connected()
        elif intake.state == "live":
            assert isinstance(event, list | tuple)
            before = len(facts)
            intake.take([bytes(frame) for frame in event])
            if intake.repair is not None:
                assert isinstance(facts[before], CacheFenced | CacheLost)
        answer_all(intake, answers)
    follow_the_rules(facts)


def answer_all(intake: EventIntake, answers: Iterator[tuple[list[tuple[int, bytes]], ReplayEnd]]) -> None:
    for _ in range(200):
        if intake.repair is None:
            return
        messages, end = next(answers, ([], ReplayEnd.SILENT))
        for number, payload in messages:
            if not intake.take_replayed(number, payload):
                end = ReplayEnd.STOPPED
                break
        intake.replay_ended(end)
    raise AssertionError("it never ends")


def follow_the_rules(facts: list[Fact]) -> None:
    """A fence is lifted by one fact, and only where there is one; nothing is synced twice."""
    state = "unknown"
    for fact in facts:
        match fact:
            case CacheFenced():
                assert state == "live"
                state = "fenced"
            case CacheSynced():
                assert state != "live"
                state = "live"
            case CacheLost():
                state = "unknown"
            case CacheEvents(events=events):
                assert events


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from([b"\x91\xa2+1", b"\x91\xa2-1"])), max_size=60))
def test_without_a_replay_each_gap_is_a_loss_before_it_is_in_step_again(sent: list[tuple[int, bytes]]) -> None:
    facts: list[Fact] = []
    intake = intake_for(facts.append)
    intake.connected()
    intake.give_up("no replay")
    last: int | None = None
    for number, payload in sent:
        begin = len(facts)
        intake.take([b"", number.to_bytes(8, "big"), payload])
        if intake.repair is not None:
            intake.give_up("no replay")
        if last is not None and number > last + 1:
            new = [type(fact) for fact in facts[begin:]]
            assert new.index(CacheLost) < new.index(CacheSynced)
        last = intake.status("", replays=False).last_seq
        assert last is not None


def test_no_number_of_messages_makes_it_grow() -> None:
    intake = intake_for(lambda fact: None)
    intake.connected()
    intake.replay_ended(ReplayEnd.WHOLE)
    payloads = [message(f"+{n}", f"-{n}") for n in range(50)]

    def send(numbers: range) -> None:
        for number in numbers:
            intake.take([b"", number.to_bytes(8, "big"), payloads[number % 50]])
            if number % 7 == 0:
                intake.take([b"", (number + 3).to_bytes(8, "big"), b"x"])
                if intake.repair is not None:
                    intake.give_up("")

    send(range(2000))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        send(range(2000, 12_000))
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()


def test_a_history_that_makes_no_sense_is_not_read_again_and_again() -> None:
    clock = Clock()
    facts: list[Fact] = []
    intake = intake_for(facts.append, clock)
    intake.connected()
    intake.replay_ended(ReplayEnd.WHOLE)
    asked = 0
    for number in range(200):
        clock.now += 0.01
        intake.take([b"", (number % 2).to_bytes(8, "big"), message(f"+{number}")])
        while intake.repair is not None:
            asked += 1
            intake.replay_ended(ReplayEnd.WHOLE)
    assert asked <= 4
    assert intake.state == "live"
