"""One feed against a publisher on real sockets: nothing stale is believed, whatever gets lost."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import zmq
from event_publisher import Believer, PlainDialect, Publisher, message, publishing
from gateways import until

from engines.cache_events import EventBatch, EventSource
from gateway.serving.events.feed import EventFeed

LAYOUTS = ("new", "old", None)


@asynccontextmanager
async def feeding(
    source: EventSource, *, interval_s: float = 0.2, patience_s: float = 0.5, dialect: object | None = None
) -> AsyncIterator[tuple[EventFeed, Believer]]:
    believer = Believer()
    context = zmq.Context()
    feed = EventFeed(
        context,
        "p-0",
        source,
        dialect or PlainDialect(),  # type: ignore[arg-type]
        believer.observe,
        time.monotonic,
        interval_s=interval_s,
        patience_s=patience_s,
    )
    try:
        async with asyncio.timeout(30):
            yield feed, believer
    finally:
        await feed.close()
        context.term()


def live(feed: EventFeed) -> bool:
    return feed.status().state == "live"


async def heard(publisher: Publisher, believer: Believer, feed: EventFeed) -> None:
    """Live, and with a subscription that has taken effect: it does some time after the connection is made."""
    await until(lambda: live(feed))
    number = 1000
    while believer.blocks is None or 1000 not in believer.blocks:
        publisher.publish(message(f"+{number}"))
        await asyncio.sleep(0.01)
        await until(lambda: live(feed))


@pytest.mark.parametrize("layout", ["new", "old"])
async def test_history_is_known_from_the_start(layout: str) -> None:
    history = [message("+1", "+2"), message("-1"), message("+3")]
    async with publishing(layout, history) as publisher, feeding(publisher.source) as (feed, believer):
        await until(lambda: live(feed))
        assert believer.blocks == {2, 3}
        assert believer.names() == ["Events", "Synced"]
        status = feed.status()
        assert (status.last_seq, status.batches, status.events, status.replays_done) == (2, 3, 4, 1)
        assert status.replays
        assert status.last_event_at is None
        publisher.publish(message("-2"))
        await until(lambda: believer.blocks == {3})
        assert feed.status().last_event_at is not None
        assert believer.names() == ["Events", "Synced", "Events"]


async def test_without_a_replay_knowledge_begins_with_the_connection() -> None:
    async with publishing(None, [message("+1")]) as publisher, feeding(publisher.source) as (feed, believer):
        await until(lambda: live(feed))
        assert believer.blocks == set()
        assert not feed.status().replays
        await heard(publisher, believer, feed)
        publisher.publish(message("+5"))
        await until(lambda: believer.blocks == {1000, 5})
        assert set(believer.names()) == {"Synced", "Events"}


async def test_messages_that_come_during_the_replay_are_taken_once() -> None:
    history = [message(f"+{number}") for number in range(3000)]
    async with publishing(history=history) as publisher, feeding(publisher.source) as (feed, believer):
        for number in range(3000, 6000):
            publisher.publish(message(f"+{number}"))
            if number % 100 == 0:
                await asyncio.sleep(0.001)
        await until(lambda: live(feed) and feed.status().last_seq == 5999)
        assert believer.blocks == set(range(6000))
        assert feed.status().batches == 6000
        assert feed.status().losses == 0


@pytest.mark.parametrize("layout", ["new", "old"])
async def test_a_gap_is_filled_by_a_replay(layout: str) -> None:
    async with publishing(layout) as publisher, feeding(publisher.source) as (feed, believer):
        await heard(publisher, believer, feed)
        begin = len(believer.facts)
        publisher.publish(message("+1"), lose=True)
        publisher.publish(message("-1000"), lose=True)
        publisher.publish(message("+2"))
        await until(lambda: believer.blocks == {1, 2})
        assert believer.names(begin) == ["Fenced", "Events", "Synced"]
        assert (feed.status().gaps, feed.status().losses) == (1, 0)


async def test_a_gap_that_cannot_be_filled_is_a_loss() -> None:
    async with publishing(None) as publisher, feeding(publisher.source) as (feed, believer):
        await heard(publisher, believer, feed)
        begin = len(believer.facts)
        publisher.publish(message("-1000"), lose=True)
        publisher.publish(message("+2"))
        await until(lambda: believer.blocks == {2})
        assert believer.names(begin) == ["Fenced", "Lost", "Events", "Synced"]
        assert (feed.status().gaps, feed.status().losses) == (1, 1)


async def test_a_gap_beyond_what_the_engine_keeps_is_a_loss_of_what_is_older() -> None:
    async with publishing(kept=3) as publisher, feeding(publisher.source) as (feed, believer):
        await heard(publisher, believer, feed)
        begin = len(believer.facts)
        for number in range(1, 6):
            publisher.publish(message(f"+{number}"), lose=True)
        publisher.publish(message("+6"))
        await until(lambda: believer.blocks == {4, 5, 6})
        assert believer.names(begin) == ["Fenced", "Lost", "Events", "Synced"]


async def test_a_replay_that_leaves_messages_out_is_asked_again() -> None:
    async with publishing(history=[message(f"+{n}") for n in range(9)]) as publisher:
        publisher.left_out = {4}
        async with feeding(publisher.source) as (feed, believer):
            await until(lambda: live(feed))
            assert publisher.asked[:2] == [0, 3]
            assert believer.blocks == {5, 6, 7, 8}, "what message 4 dropped is not known"
            assert believer.names() == ["Events", "Lost", "Events", "Synced"]


async def test_an_engine_that_gives_no_replay_is_not_asked_without_need() -> None:
    async with publishing() as publisher:
        publisher.mute = True
        async with feeding(publisher.source, interval_s=0.05, patience_s=0.2) as (feed, believer):
            await heard(publisher, believer, feed)
            assert feed.status().replays is False
            asked = len(publisher.asked)
            feed.stir()
            await asyncio.sleep(0.3)
            assert len(publisher.asked) == asked
            publisher.publish(message("+1"), lose=True)
            publisher.publish(message("+2"))
            await until(lambda: believer.blocks == {2})
            publisher.mute = False
            publisher.publish(message("+3"), lose=True)
            publisher.publish(message("+4"))
            await until(lambda: believer.blocks == {2, 3, 4})
            assert feed.status().replays is True


async def test_a_number_that_goes_back_is_a_new_process() -> None:
    for layout in LAYOUTS:
        async with publishing(layout) as publisher, feeding(publisher.source) as (feed, believer):
            await heard(publisher, believer, feed)
            publisher.publish(message("+1"))
            await until(lambda believer=believer: believer.blocks == {1, 1000})
            begin = len(believer.facts)
            publisher.begin_anew()
            publisher.publish(message("+7"))
            await until(lambda believer=believer: believer.blocks == {7})
            assert believer.names(begin) == ["Lost", "Events", "Synced"]


async def test_duplicates_change_nothing_and_late_ones_have_been_replayed() -> None:
    async with publishing() as publisher, feeding(publisher.source) as (feed, believer):
        await heard(publisher, believer, feed)
        first = publisher.next
        publisher.publish(message("+1"), lose=True)
        publisher.publish(message("+2"))
        publisher.send(first, message("+1"))
        publisher.send(first + 1, message("+2"))
        publisher.publish(message("-2"))
        await until(lambda: believer.blocks == {1, 1000})
        publisher.send(first + 1, message("+2"))
        publisher.publish(message("+3"))
        await until(lambda: believer.blocks == {1, 3, 1000})
        assert (feed.status().gaps, feed.status().losses) == (1, 0)


@pytest.mark.parametrize("payload", [message("-1", "?", "+5"), b"\xc1", b"", b"\x93garbage"])
async def test_a_message_that_cannot_be_read_may_have_said_anything(payload: bytes) -> None:
    async with publishing() as publisher, feeding(publisher.source) as (feed, believer):
        await heard(publisher, believer, feed)
        begin = len(believer.facts)
        publisher.publish(payload)
        publisher.publish(message("+6"))
        await until(lambda: believer.blocks is not None and 6 in believer.blocks)
        assert believer.blocks in ({5, 6}, {6})
        assert believer.names(begin)[:2] == ["Fenced", "Lost"]
        assert (feed.status().damaged, feed.status().losses, feed.status().gaps) == (1, 1, 0)


async def test_frames_that_are_no_message_are_dropped() -> None:
    async with publishing() as publisher, feeding(publisher.source) as (feed, believer):
        await heard(publisher, believer, feed)
        begin = len(believer.facts)
        for frames in ([b"x"], [b"", b"short", b"x"], [b""] * 5, [b"", b"\xff" * 8, b""], [b"", bytes(9), b"x"]):
            publisher.send_frames(*frames)
        number = publisher.next.to_bytes(8, "big")
        publisher.next += 1
        publisher.send_frames(number, message("+1"))
        await until(lambda: believer.blocks == {1, 1000})
        assert believer.names(begin) == ["Events"]
        assert feed.status().damaged == 5


async def test_a_topic_is_subscribed_to() -> None:
    async with publishing(topic=b"kv@a") as publisher, feeding(publisher.source) as (feed, believer):
        await heard(publisher, believer, feed)
        publisher.send_frames(b"other", publisher.next.to_bytes(8, "big"), message("+666"))
        publisher.publish(message("+1"))
        await until(lambda: believer.blocks == {1, 1000})


async def test_a_broken_connection_fences_and_a_replay_proves_what_stays() -> None:
    async with publishing() as publisher, feeding(publisher.source, interval_s=5) as (feed, believer):
        await heard(publisher, believer, feed)
        begin = len(believer.facts)
        publisher.cut()
        await until(lambda: feed.status().state == "fenced")
        assert believer.blocks is None
        publisher.publish(message("+1", "-1000"), lose=True)
        publisher.mend()
        await until(lambda: believer.blocks == {1})
        assert believer.names(begin) == ["Fenced", "Events", "Synced"]


async def test_a_connection_that_breaks_and_comes_back_during_a_replay() -> None:
    async with publishing() as publisher, feeding(publisher.source, interval_s=5, patience_s=10) as (feed, believer):
        await heard(publisher, believer, feed)
        publisher.mute = True
        publisher.publish(message("+1"), lose=True)
        publisher.publish(message("+2"))
        await until(lambda: publisher.asked[-1] > 0 or feed.status().state == "fenced")
        publisher.cut()
        publisher.mend()
        publisher.mute = False
        await until(lambda: believer.blocks == {1, 2, 1000})
        assert feed.status().losses == 0


async def test_a_restart_that_is_heard_of_during_a_replay() -> None:
    async with publishing() as publisher, feeding(publisher.source, patience_s=10) as (feed, believer):
        await heard(publisher, believer, feed)
        publisher.mute = True
        publisher.publish(message("+1"), lose=True)
        publisher.publish(message("+2"))
        await until(lambda: feed.status().state == "fenced")
        begin = len(believer.facts)
        feed.restarted()
        publisher.begin_anew()
        publisher.mute = False
        publisher.publish(message("+3"))
        await until(lambda: believer.blocks == {3})
        assert believer.names(begin)[0] == "Lost"


async def test_a_broken_connection_without_a_replay_is_a_loss() -> None:
    async with publishing(None) as publisher, feeding(publisher.source, interval_s=5) as (feed, believer):
        await heard(publisher, believer, feed)
        begin = len(believer.facts)
        publisher.cut()
        await until(lambda: feed.status().state == "fenced")
        publisher.mend()
        await until(lambda: believer.blocks == set())
        assert believer.names(begin) == ["Fenced", "Lost", "Synced"]


async def test_a_connection_that_stays_away_is_a_loss_after_an_interval() -> None:
    async with publishing() as publisher, feeding(publisher.source) as (feed, believer):
        await heard(publisher, believer, feed)
        begin = len(believer.facts)
        publisher.cut()
        await until(lambda: feed.status().state == "fenced")
        fenced_at = time.monotonic()
        await until(lambda: feed.status().state == "lost")
        assert time.monotonic() - fenced_at < 1
        assert believer.names(begin) == ["Fenced", "Lost"]
        publisher.mend()
        await until(lambda: believer.blocks == {1000})
        assert believer.names(begin) == ["Fenced", "Lost", "Events", "Synced"]


@pytest.mark.parametrize("first", [0, 500], ids=["lower", "higher"])
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_restarted_process_is_not_taken_for_the_old_one(layout: str | None, first: int) -> None:
    async with publishing(layout) as publisher, feeding(publisher.source, interval_s=5) as (feed, believer):
        await heard(publisher, believer, feed)
        begin = len(believer.facts)
        await publisher.stop()
        publisher.start(first, history=[message("+1"), message("+2")])
        expected = {1, 2} if layout else set()
        await until(lambda: believer.blocks == expected)
        assert believer.names(begin) == ["Fenced", "Lost", *(["Events"] if layout else []), "Synced"]
        publisher.publish(message("+3"))
        if layout:
            await until(lambda: believer.blocks == {1, 2, 3})


async def test_a_process_that_goes_on_where_the_old_one_ended_is_caught_by_the_proof() -> None:
    async with publishing() as publisher, feeding(publisher.source, interval_s=5) as (feed, believer):
        await heard(publisher, believer, feed)
        last = feed.status().last_seq
        assert last is not None
        await publisher.stop()
        publisher.start(0, history=[message(f"+{n}") for n in range(last + 5)])
        await until(lambda: believer.blocks == set(range(last + 5)))
        assert feed.status().losses == 1


async def test_the_poller_says_that_the_process_is_new() -> None:
    for layout in ("new", None):
        async with publishing(layout) as publisher, feeding(publisher.source) as (feed, believer):
            await heard(publisher, believer, feed)
            begin = len(believer.facts)
            feed.restarted()
            assert believer.blocks is None, "at once"
            await until(lambda feed=feed: live(feed))
            assert believer.blocks == ({1000} if layout else set())
            assert believer.names(begin) == ["Lost", *(["Events"] if layout else []), "Synced"]


async def test_a_restarted_engine_is_connected_to_at_once() -> None:
    async with publishing(history=[message("+1")]) as publisher, feeding(publisher.source) as (feed, believer):
        await until(lambda: live(feed))
        await publisher.stop()
        await asyncio.sleep(1.7)  # it was tried after 0.1, 0.3, 0.7 and 1.5 s, and will be after 3.1
        publisher.start(history=[message("+2")])
        began = time.monotonic()
        feed.restarted()
        await until(lambda: believer.blocks == {2})
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("stirred", [False, True])
async def test_a_lost_tail_is_found_within_an_interval(*, stirred: bool) -> None:
    async with publishing() as publisher, feeding(publisher.source) as (feed, believer):
        await heard(publisher, believer, feed)
        if stirred:  # the check that each message earns is over
            await until(lambda: len(publisher.asked) > 1)
            asked = len(publisher.asked)
            await asyncio.sleep(0.5)
            assert len(publisher.asked) == asked, "nothing is asked of an engine that does nothing"
        begin = len(believer.facts)
        publisher.publish(message("-1000"), lose=True)
        if stirred:
            feed.stir()
        await until(lambda: believer.blocks == set())
        assert believer.names(begin) == ["Events"]


async def test_a_check_of_the_tail_finds_another_process() -> None:
    async with publishing() as publisher, feeding(publisher.source) as (feed, believer):
        await heard(publisher, believer, feed)
        publisher.begin_anew()
        publisher.publish(message("+7"), lose=True)
        feed.stir()
        await until(lambda: believer.blocks == {7})
        assert feed.status().losses == 1


async def test_a_check_that_gets_no_answer_proves_nothing() -> None:
    async with publishing() as publisher, feeding(publisher.source, patience_s=0.1) as (feed, believer):
        await heard(publisher, believer, feed)
        begin = len(believer.facts)
        publisher.mute = True
        feed.stir()
        await until(lambda: believer.blocks == set())
        assert believer.names(begin) == ["Fenced", "Lost", "Synced"]


async def test_a_burst_does_not_keep_the_loop_from_others() -> None:
    async with publishing() as publisher, feeding(publisher.source) as (feed, believer):
        await heard(publisher, believer, feed)
        believer.facts = deque(maxlen=1)  # type: ignore[assignment]  # else it is the garbage collector that blocks
        longest = 0.0
        payload = message(*(f"+{n}" for n in range(20)))
        for _ in range(10_000):
            publisher.publish(payload)
        while feed.status().batches < 10_000:
            began = time.thread_time()  # our own work: a busy machine is no fault of the feed
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)
        assert feed.status().losses == 0
        assert longest < 0.02


async def test_a_message_too_long_to_be_read_ends_the_connection_but_not_the_feed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.serving.events.sockets.LARGEST_MESSAGE_BYTES", 100_000)
    monkeypatch.setattr("gateway.serving.events.feed.REOPEN_S", 0.4)
    async with publishing() as publisher, feeding(publisher.source) as (feed, believer):
        await heard(publisher, believer, feed)
        publisher.publish(bytes(200_000))
        await until(lambda: feed.status().state == "lost")
        publisher.forget_last()
        await until(lambda: live(feed))
        publisher.publish(message("+1"))
        await until(lambda: believer.blocks is not None and 1 in believer.blocks)


async def test_what_is_no_publisher_leaves_the_feed_connecting() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    endpoint = f"tcp://127.0.0.1:{port}"
    async with feeding(EventSource(0, endpoint, endpoint), patience_s=0.1) as (feed, believer):
        await asyncio.sleep(0.5)
        assert feed.status().state == "connecting"
        assert believer.facts == []
    server.close()


async def test_the_publisher_may_start_later() -> None:
    async with publishing() as publisher:
        await publisher.stop()
        async with feeding(publisher.source) as (feed, believer):
            await asyncio.sleep(0.2)
            assert feed.status().state == "connecting"
            publisher.start(history=[message("+1")])
            await until(lambda: believer.blocks == {1})


async def test_a_bug_of_ours_is_logged_and_the_feed_starts_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(PlainDialect):
        def read_events(self, payload: bytes) -> EventBatch | None:
            if payload == message("+13"):
                raise RuntimeError("a bug")
            return super().read_events(payload)

    monkeypatch.setattr("gateway.serving.events.feed.FIRST_WAIT_S", 0.05)
    async with publishing() as publisher, feeding(publisher.source, dialect=Broken()) as (feed, believer):
        await heard(publisher, believer, feed)
        with caplog.at_level(logging.ERROR, "prefixgate"):
            publisher.publish(message("+13"))
            await until(lambda: feed.status().state == "lost")
        assert "p-0" in caplog.text
        assert "a bug" in caplog.text
        publisher.begin_anew()
        publisher.publish(message("+1"))
        await until(lambda: believer.blocks == {1})


async def test_a_closed_feed_leaves_nothing_believed() -> None:
    async with publishing() as publisher, feeding(publisher.source) as (feed, believer):
        await heard(publisher, believer, feed)
        await feed.close()
        assert believer.blocks is None
        assert believer.names()[-1] == "Lost"
        await feed.close()


async def test_names_of_hosts_are_looked_up() -> None:
    async with publishing(history=[message("+1")]) as publisher:
        source = publisher.source
        named = replace(source, endpoint=source.endpoint.replace("127.0.0.1", "localhost"))
        async with feeding(named) as (_, believer):
            await until(lambda: believer.blocks == {1})


async def test_ipv6() -> None:
    async with (
        publishing(history=[message("+1")], host="[::1]") as publisher,
        feeding(publisher.source) as (_, believer),
    ):
        await until(lambda: believer.blocks == {1})
