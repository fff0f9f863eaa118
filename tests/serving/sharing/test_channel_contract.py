"""What every channel promises, whatever it is made of: one test for both kinds."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from gateway.serving.sharing import hub, redis_channel
from gateway.serving.sharing.channel import MOST_READ, START, WAIT_S, Channel, Entry, Kept, News

Connect = Callable[[], Awaitable[Channel]]


async def read_all(channel: Channel, after: str = START, *, want: int) -> list[Entry]:
    """Read on until so many have come."""
    entries: list[Entry] = []
    while len(entries) < want:
        news = await channel.read(entries[-1].position if entries else after)
        assert news.entries, f"{len(entries)} of {want} came"
        assert len(news.entries) <= MOST_READ
        assert news.position == news.entries[-1].position
        entries += news.entries
    return entries


def said(entries: list[Entry]) -> list[tuple[str, bytes]]:
    return [(entry.sender, entry.payload) for entry in entries]


async def test_what_is_said_reaches_everyone_in_one_order(connect: Connect) -> None:
    one, other, third = await connect(), await connect(), await connect()
    for number in range(100):
        await (one, other)[number % 2].append(f"sender-{number % 2}", b"%d \x00\xff" % number)
    told = await read_all(third, want=100)
    assert len({entry.position for entry in told}) == 100
    for sender, channel in enumerate((other, one)):  # which may or may not hear itself
        theirs = [payload for name, payload in said(told) if name == f"sender-{sender}"]
        assert theirs == [b"%d \x00\xff" % number for number in range(sender, 100, 2)]
        heard, position = [], START
        while (news := await channel.read(position)).entries:
            heard, position = heard + news.entries, news.position
        assert [payload for name, payload in said(heard) if name == f"sender-{sender}"] == theirs
        assert [entry for entry in said(told) if entry in said(heard)] == said(heard)


async def test_reading_goes_on_from_a_position_and_waits_for_news(connect: Connect) -> None:
    one, other = await connect(), await connect()
    await one.append("a", b"1")
    await one.append("a", b"2")
    first, second = await read_all(other, want=2)
    assert said(await read_all(other, first.position, want=1)) == [("a", b"2")]
    began = time.monotonic()
    assert await other.read(second.position) == News(second.position, [])
    assert WAIT_S * 0.5 < time.monotonic() - began < WAIT_S * 3
    reading = asyncio.create_task(other.read(second.position))
    await asyncio.sleep(0.1)
    await one.append("a", b"3")
    news = await asyncio.wait_for(reading, 0.5)
    assert said(news.entries) == [("a", b"3")]


async def test_ages_are_those_of_the_log(connect: Connect) -> None:
    one, other = await connect(), await connect()
    await one.append("a", b"old")
    await asyncio.sleep(0.3)
    await one.append("a", b"new")
    old, new = await read_all(other, want=2)
    assert 0.25 <= old.age_s < 1
    assert 0 <= new.age_s < 0.25
    assert old.age_s - new.age_s == pytest.approx(0.3, abs=0.1)


async def test_a_latecomer_reads_what_is_kept_and_no_more(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MOST_ENTRIES", 200)
    monkeypatch.setattr(redis_channel, "MOST_ENTRIES", 200)
    one = await connect()
    for number in range(1000):
        await one.append("a", b"%d" % number)
    late = await connect()
    entries = (await late.read(START)).entries
    while entries[-1].payload != b"999":
        entries += (await late.read(entries[-1].position)).entries
    numbers = [int(entry.payload) for entry in entries]
    assert numbers == list(range(1000 - len(numbers), 1000))
    assert 200 <= len(numbers) < 600  # Redis trims roughly


async def test_the_snapshot_is_the_last_one_saved(connect: Connect) -> None:
    one, other = await connect(), await connect()
    assert await other.load() is None
    payload = bytes(range(256)) * 8000
    await one.append("a", b"1")
    position = (await read_all(other, want=1))[0].position
    await one.save(Kept(START, b"first"))
    await one.save(Kept(position, payload))
    async with asyncio.timeout(5):
        while (kept := await other.load()) != Kept(position, payload):
            assert kept is None or kept.payload == b"first"
    await other.append("b", b"2")
    assert said(await read_all(one, kept.position, want=1)) == [("b", b"2")]


async def test_one_at_a_time_has_the_turn(connect: Connect) -> None:
    channels = [await connect() for _ in range(3)]
    turns = [await channel.turn(0.3) for channel in channels]
    assert turns == [True, False, False]
    await asyncio.sleep(0.4)
    assert await channels[2].turn(0.3)
    assert not await channels[0].turn(0.3)


async def test_large_things_are_said_whole_while_others_are_asked(connect: Connect) -> None:
    one, other = await connect(), await connect()
    big = b"\x93" * 1_000_000
    reading = asyncio.create_task(read_all(other, want=4))
    for _ in range(4):
        await asyncio.gather(one.append("a", big), other.turn(0.01), other.load())
    assert [entry.payload == big for entry in await reading] == [True] * 4


async def test_closing_one_end_disturbs_no_other(connect: Connect) -> None:
    one, other, third = await connect(), await connect(), await connect()
    reading = asyncio.create_task(other.read(START))
    await asyncio.sleep(0.05)
    await one.close()
    await reading
    await other.append("b", b"still here")
    assert said(await read_all(third, want=1)) == [("b", b"still here")]


async def test_the_position_moves_on_past_what_was_said_here(connect: Connect) -> None:
    one, other = await connect(), await connect()
    for _ in range(3):
        await one.append("a", b"mine")
    position = START
    async with asyncio.timeout(5):
        while position != (await read_all(other, want=3))[-1].position:
            position = (await one.read(position)).position
    await other.append("b", b"new")
    assert said(await read_all(one, position, want=1)) == [("b", b"new")]
