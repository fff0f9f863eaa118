"""Pools whose replicas are discovered: who comes is added, who vanishes drains and goes; nothing empties a fleet."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_engine import DONE, FakeEngine, fake_engine, frame, held_stream
from gateways import admin, chat, chat_bytes, gateway_of, post, until
from raw_client import raw_client

from gateway.cli import run as command
from gateway.config import ConfigError, build
from gateway.serving.discovery.finder import EMPTY_AFTER
from gateway.serving.server import RunningGateway

EVERY_S = 0.1


class Targets:
    """The watched file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts = 0

    def are(self, *engines: FakeEngine | str) -> None:
        urls = [one if isinstance(one, str) else one.url for one in engines]
        self.texts += 1
        self.path.write_text(json.dumps([{"targets": urls, "labels": {"text": str(self.texts)}}]))

    def pool(self, **more: Any) -> dict[str, Any]:
        discovery = {"file": str(self.path), "every_s": EVERY_S}
        return {"name": "p", "engine": "vllm", "model": "m", "discovery": discovery, **more}


@pytest.fixture
def targets(tmp_path: Path) -> Targets:
    return Targets(tmp_path / "targets.json")


@asynccontextmanager
async def engines(count: int) -> AsyncIterator[list[FakeEngine]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(fake_engine()) for _ in range(count)]


def states(run: RunningGateway) -> dict[str, str]:
    """By URL."""
    return {view.url: str(view.state) for view in run.gateway.snapshot().replicas}


def all_up(run: RunningGateway, *those: FakeEngine) -> bool:
    return states(run) == dict.fromkeys((one.url for one in those), "up")


async def test_replicas_come_and_go_with_the_file(targets: Targets) -> None:
    async with engines(3) as (one, two, three):
        targets.are(one, two)
        async with gateway_of([targets.pool()]) as run:
            await until(lambda: all_up(run, one, two))
            assert (await post(run, chat())).status_code == 200
            targets.are(two, three)
            await until(lambda: all_up(run, two, three))
            assert run.gateway.notices() == []


async def test_a_pool_may_list_some_and_discover_others(targets: Targets) -> None:
    async with engines(2) as (listed, found):
        targets.are(listed, found)
        async with gateway_of([targets.pool(replicas=[listed.url])]) as run:
            await until(lambda: all_up(run, listed, found))
            targets.are()
            await until(lambda: all_up(run, listed))


async def test_one_that_vanishes_ends_its_streams_first(targets: Targets) -> None:
    gate = asyncio.Event()
    answers = held_stream(gate, frame("one"), after=(DONE,))
    async with fake_engine(answers) as old, fake_engine() as new:
        targets.are(old)
        async with gateway_of([targets.pool()]) as run, raw_client(run.url) as raw:
            await until(lambda: all_up(run, old))
            await raw.post(chat_bytes(stream=True))
            _, headers = await raw.head()
            targets.are(new)
            await until(lambda: states(run) == {old.url: "draining", new.url: "up"})
            gate.set()
            assert await raw.body(headers) == frame("one") + DONE
            await until(lambda: all_up(run, new))


async def test_a_source_that_fails_takes_nothing_away(targets: Targets) -> None:
    async with engines(2) as (one, two):
        targets.are(one)
        async with gateway_of([targets.pool()]) as run:
            await until(lambda: all_up(run, one))
            targets.path.write_text("[{")
            await until(lambda: any("is not a list of targets" in notice for notice in run.gateway.notices()))
            assert all_up(run, one)
            assert (await post(run, chat())).status_code == 200
            targets.path.unlink()
            await until(lambda: any("cannot be read" in notice for notice in run.gateway.notices()))
            assert all_up(run, one)
            targets.are(one, two)
            await until(lambda: all_up(run, one, two) and run.gateway.notices() == [])


async def test_an_empty_answer_counts_only_when_it_repeats(targets: Targets) -> None:
    async with engines(2) as (one, two):
        targets.are(one, two)
        async with gateway_of([targets.pool()]) as run:
            await until(lambda: all_up(run, one, two))
            targets.are()
            said: set[str] = set()

            def gone() -> bool:
                said.update(run.gateway.notices())
                return not states(run)

            await until(gone)
            assert len([one for one in said if "the 2 known ones stay until it has said so 5 times" in one]) >= 2
            assert EMPTY_AFTER == 5
            await until(lambda: run.gateway.notices() == ["pool p: discovery names no replicas"])
            refused = await post(run, chat())
            assert refused.status_code == 503
            targets.are(two)
            await until(lambda: all_up(run, two))


async def test_what_cannot_be_added_is_said(targets: Targets) -> None:
    async with engines(1) as (one,):
        targets.are(one, "ftp://nowhere")
        async with gateway_of([targets.pool()]) as run:
            await until(lambda: all_up(run, one))
            await until(lambda: any("'ftp://nowhere' is not an http(s)" in said for said in run.gateway.notices()))
            async with admin(run) as http:
                assert (await http.get("/api/snapshot")).json()["gateway"]["notices"] == run.gateway.notices()


def test_settings_are_checked(targets: Targets) -> None:
    def refused(**discovery: object) -> str:
        pool = {"name": "p", "engine": "vllm", "discovery": discovery}
        with pytest.raises(ConfigError) as caught:
            build({"pools": [pool]})
        return str(caught.value)

    assert "exactly one of dns, file and kubernetes" in refused()
    assert "exactly one of dns, file and kubernetes" in refused(dns="a:1", file="b")
    assert "must be HOST:PORT" in refused(dns="engine")
    assert "discovery.every_s" in refused(dns="a:1", every_s=0)
    assert "discovery.scheme" in refused(dns="a:1", scheme="ftp")
    assert "`servic`" in refused(kubernetes={"servic": "a"})
    assert "service must not be empty" in refused(kubernetes={"service": ""})
    with pytest.raises(ConfigError, match=r"at least one URL, unless there is a \[pools.discovery\]"):
        build({"pools": [{"name": "p", "engine": "vllm"}]})


async def test_commands_that_look_once_discover_once(targets: Targets, capsys: pytest.CaptureFixture[str]) -> None:
    config = targets.path.parent / "gateway.toml"
    pool = f'[[pools]]\nname = "p"\nengine = "vllm"\n[pools.discovery]\nfile = "{targets.path}"\n'
    config.write_text(pool)
    async with engines(1) as (one,):
        targets.are(one)
        assert await asyncio.to_thread(command, ["check", "--config", str(config)]) == 0
        assert one.url in capsys.readouterr().out
    targets.path.unlink()
    assert await asyncio.to_thread(command, ["check", "--config", str(config)]) == 2
    assert "pool `p`: discovery: " in capsys.readouterr().err
