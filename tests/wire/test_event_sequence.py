"""Numbers of messages: what is next, seen, missing, or from another process."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.event_sequence import (
    END_OF_REPLAY,
    EventSequence,
    Step,
    digest,
    read_published,
    read_replayed,
    replay_request,
)

ONE, TWO = digest(b"one"), digest(b"two")


def after(*numbers: int, memory: int = 8) -> EventSequence:
    sequence = EventSequence(memory)
    for number in numbers:
        sequence.accept(number, ONE)
    return sequence


def test_any_message_begins_a_sequence() -> None:
    sequence = EventSequence()
    assert sequence.last is None
    assert sequence.step(7, ONE) is Step.NEXT
    sequence.accept(7, ONE)
    assert (sequence.last, sequence.next) == (7, 8)


def test_the_next_the_missing_and_the_seen() -> None:
    sequence = after(3, 4, 5)
    assert sequence.step(6, TWO) is Step.NEXT
    assert sequence.step(8, TWO) is Step.GAP
    assert sequence.step(4, ONE) is Step.DUPLICATE
    assert sequence.step(5, TWO) is Step.BACK
    assert sequence.step(2, ONE) is Step.BACK, "it was never seen"


def test_what_is_too_old_to_tell_is_another_process() -> None:
    sequence = after(*range(20), memory=8)
    assert sequence.step(12, ONE) is Step.DUPLICATE
    assert sequence.step(11, ONE) is Step.BACK


def test_only_the_last_payload_proves_that_a_replay_continues() -> None:
    sequence = after(3, 4)
    assert sequence.proves(4, ONE)
    assert not sequence.proves(4, TWO)
    assert not sequence.proves(3, ONE)
    assert not EventSequence().proves(0, ONE)
    sequence.forget()
    assert not sequence.proves(4, ONE)


def test_nothing_published_so_far_is_a_place_in_the_sequence() -> None:
    sequence = EventSequence()
    sequence.expect(0)
    assert sequence.last is None
    assert sequence.step(0, ONE) is Step.NEXT
    assert sequence.step(1, ONE) is Step.GAP


def test_a_message_beyond_a_gap_begins_anew() -> None:
    sequence = after(3, 4)
    sequence.accept(9, TWO)
    assert sequence.last == 9
    assert sequence.step(4, ONE) is Step.BACK


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from([ONE, TWO])), max_size=60))
def test_it_agrees_with_one_that_remembers_all(messages: list[tuple[int, int]]) -> None:
    sequence = EventSequence(memory=4)
    run: dict[int, int] = {}
    for number, mark in messages:
        step = sequence.step(number, mark)
        if not run or number == max(run) + 1:
            assert step is Step.NEXT
        elif number > max(run):
            assert step is Step.GAP
            run.clear()
        else:
            seen = number > max(run) - 4 and run.get(number) == mark
            assert step is (Step.DUPLICATE if seen else Step.BACK)
            continue
        run[number] = mark
        sequence.accept(number, mark)
        assert sequence.last == number


def test_frames_of_all_layouts() -> None:
    seven = (7).to_bytes(8, "big")
    assert read_published([b"topic", seven, b"p"]) == (7, b"p")
    assert read_published([seven, b"p"]) == (7, b"p")
    assert read_replayed([b"", b"topic", seven, b"p"]) == (7, b"p")
    assert read_replayed([b"", seven, b"p"]) == (7, b"p")
    end = b"\xff" * 8
    assert read_replayed([b"", b"", end, b""]) == (END_OF_REPLAY, b"")
    assert read_replayed([b"", end, b""]) == (END_OF_REPLAY, b"")
    assert replay_request(7) == [b"", seven]


@given(st.lists(st.binary(max_size=9), max_size=6))
def test_other_frames_are_nothing(frames: list[bytes]) -> None:
    for read in (read_published, read_replayed):
        message = read(frames)
        assert message is None or len(frames[-2]) == 8
    if len(frames) not in (2, 3):
        assert read_published(frames) is None
    if len(frames) not in (3, 4):
        assert read_replayed(frames) is None
    assert read_published([b"", b"\xff" * 8, b""]) is None
