"""The configuration read again: what applies at once, what needs a restart, and what is refused whole."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_engine import DONE, FakeEngine, fake_engine, frame, held_stream, stream
from gateways import LIMIT_S, admin, chat, chat_bytes, gateway_over, nothing_is_booked, openai_error, post, until
from model_folders import model_folder
from raw_client import raw_client

from gateway.config import ConfigSource
from gateway.serving.server import RunningGateway, running

SERVER = "[server]\nport = 0\nadmin_port = 0\n"


def pool(name: str, *engines: FakeEngine | str, model: str = "m", more: str = "") -> str:
    urls = json.dumps([one if isinstance(one, str) else one.url for one in engines])
    return f'[[pools]]\nname = "{name}"\nengine = "vllm"\nmodel = "{model}"\nreplicas = {urls}\n{more}'


class File:
    """The file of a gateway that runs."""

    def __init__(self, path: Path, run: RunningGateway) -> None:
        self.path = path
        self.run = run

    async def ask(self) -> httpx.Response:
        async with admin(self.run) as http:
            return await http.post("/api/config/reload")

    async def says(self, text: str) -> dict[str, Any]:
        self.path.write_text(text)
        answer = await self.ask()
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return {name: value for name, value in told.items() if value}

    def names(self) -> list[str]:
        return [view.name for view in self.run.gateway.snapshot().replicas]


@asynccontextmanager
async def gateway_from(path: Path, text: str, **overrides: Any) -> AsyncIterator[File]:
    path.write_text(text)
    source = ConfigSource(str(path), **overrides)
    async with asyncio.timeout(LIMIT_S), running(source.load(), seed=1, source=source) as run:
        yield File(path, run)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.toml"


async def test_settings_apply_at_once_and_what_cannot_is_named(path: Path) -> None:
    async with fake_engine() as engine, gateway_from(path, SERVER + pool("p", engine)) as file:
        told = await file.says(
            "[server]\nport = 9\nadmin_port = 0\ndrain_s = 5\n"
            '[routing]\npolicy = "prefix"\nhold_ms = 0\nmax_attempts = 1\nblock_bytes = 256\n'
            "[timeouts]\nconnect_s = 1.0\nclient_idle_s = 5.0\n[polling]\ninterval_s = 0.5\n"
            '[state]\nredis_url = "redis://nowhere"\n'
            + pool("p", engine, more="[pools.prefill]\nchunk_tokens = 512\n").replace('"vllm"', '"sglang"')
        )
        assert set(told["changed"]) == {
            *("server.drain_s", "routing.policy", "routing.hold_ms", "routing.max_attempts"),
            *("timeouts.connect_s", "timeouts.client_idle_s", "polling.interval_s", "pools.p.prefill"),
        }
        assert set(told["needs_restart"]) == {
            *("server.port", "routing.block_bytes", "state.redis_url", "pools.p.engine"),
        }
        gateway = file.run.gateway
        assert gateway.router.policy == "prefix"
        assert gateway.engines.limits.connect_s == 1.0
        assert gateway.config.routing.max_attempts == 1
        assert (gateway.config.routing.block_bytes, gateway.config.server.port) == (512, 0)
        assert gateway.snapshot().replicas[0].prefill_desired.chunk_tokens == 512
        assert {port.limits.client_idle_s for port in file.run._ports} == {5.0}
        assert (await post(file.run, chat())).status_code == 200
        again = (await file.ask()).json()
        assert again["changed"] == []
        assert set(again["needs_restart"]) == set(told["needs_restart"])


async def test_replicas_come_and_go_and_keep_their_names(path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two, three = [await stack.enter_async_context(fake_engine()) for _ in range(3)]
        file = await stack.enter_async_context(gateway_from(path, SERVER + pool("p", one, two)))
        told = await file.says(SERVER + pool("p", three, two))
        assert told == {
            "changed": ["pools.p.replicas"],
            "replicas_added": ["p-0"],
            "replicas_removed": ["p-0"],
        }
        assert file.names() == ["p-0", "p-1"]
        assert [view.url for view in file.run.gateway.snapshot().replicas] == [three.url, two.url]
        async with admin(file.run) as http:
            assert (await http.post("/api/replicas", json={"pool": "p", "url": one.url})).status_code == 201
            await http.post("/api/replicas/p-1/drain")
            await http.delete("/api/replicas/p-0")
        told = await file.says(SERVER + pool("p", two, three))
        assert told["replicas_added"] == ["p-0"]  # the file's word counts again
        assert sorted(file.names()) == ["p-0", "p-1", "p-2"]  # and what the API added stays
        assert file.run.gateway.router.is_draining("p-1")


async def test_pools_come_and_go(path: Path) -> None:
    gate = asyncio.Event()
    answers = held_stream(gate, frame("one"), after=(DONE,))
    async with (
        fake_engine(answers) as old,
        fake_engine() as new,
        gateway_from(path, SERVER + pool("p", old)) as file,
        raw_client(file.run.url) as raw,
    ):
        await raw.post(chat_bytes(stream=True))
        _, headers = await raw.head()
        told = await file.says(SERVER + pool("q", new, model="n"))
        assert told == {
            "pools_added": ["q"],
            "pools_removed": ["p"],
            "replicas_added": ["q-0"],
            "replicas_removed": ["p-0"],
        }
        assert file.run.gateway.snapshot().replicas[0].state == "draining"
        assert set(file.run.gateway.router.models()) == {"n"}
        gateway = file.run.gateway
        await until(lambda: gateway.router.usable_models().get("n", False))
        assert (await post(file.run, chat(model="n"))).headers["x-prefixgate-pool"] == "q"
        assert gateway.warnings(gateway.snapshot())  # of a replica whose pool is in no configuration any more
        gate.set()
        assert await raw.body(headers) == frame("one") + DONE
        await until(lambda: file.names() == ["q-0"])
        assert [view.name for view in gateway.snapshot().pools] == ["q"]


async def test_a_url_can_move_to_another_pool(path: Path) -> None:
    async with fake_engine() as engine, gateway_from(path, SERVER + pool("p", engine)) as file:
        await file.says(SERVER + pool("q", engine))
        assert file.names() == ["q-0"]
        await until(lambda: file.run.gateway.snapshot().replicas[0].state == "up")
        assert (await post(file.run, chat())).headers["x-prefixgate-replica"] == "q-0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[pools]\n", "not valid TOML"),
        (pool("p", "http://a") + "surplus = 1\n", "unknown key `surplus`"),
        (pool("p", "http://a", more='tokens = "tokenizer:/nowhere"\n'), "pool `p`: tokens:"),
        ('[routing]\npolicy = "best"\n' + pool("p", "http://a"), "policy `best` is not known"),
    ],
)
async def test_a_file_that_cannot_be_used_is_refused_whole(path: Path, text: str, words: str) -> None:
    async with fake_engine() as engine, gateway_from(path, SERVER + pool("p", engine)) as file:
        before = file.run.gateway.config
        path.write_text(text)
        answer = await file.ask()
        assert answer.status_code == 400
        message = openai_error(answer)["message"]
        assert message.startswith("the configuration stays as it is: ")
        assert words in message
        assert file.run.gateway.config is before
        assert file.names() == ["p-0"]
        path.unlink()
        assert "cannot be read" in openai_error(await file.ask())["message"]
        assert (await post(file.run, chat())).status_code == 200


async def test_a_new_pool_brings_its_tokenizer(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model_folder(folder)
    async with fake_engine() as one, fake_engine() as two, gateway_from(path, SERVER + pool("p", one)) as file:
        text = SERVER + pool("p", one) + pool("q", two, model="n", more=f'tokens = "tokenizer:{folder}"\n')
        assert (await file.says(text))["pools_added"] == ["q"]
        assert f"tokenizer:{folder}" in file.run.gateway.tokenisers._local


async def test_what_the_command_line_said_stays_said(path: Path) -> None:
    text = SERVER + '[routing]\npolicy = "random"\n'
    async with fake_engine() as engine, gateway_from(path, text + pool("p", engine), policy="prefix") as file:
        assert await file.says(text + pool("p", engine)) == {}
        assert file.run.gateway.router.policy == "prefix"


async def test_without_a_file_there_is_nothing_to_read() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, admin(run) as http:
        answer = await http.post("/api/config/reload")
        assert answer.status_code == 409
        assert openai_error(answer)["message"] == (
            "there is no file to read again: the gateway was started without --config"
        )


@pytest.mark.slow
async def test_nothing_fails_while_replicas_come_and_go(path: Path) -> None:
    """A dozen reloads and API calls under load: every stream is whole, and nothing is left behind."""
    done = asyncio.Event()
    ended: list[tuple[int, str]] = []

    async def load(file: File, number: int) -> None:
        while not done.is_set():
            answer = await post(file.run, chat(f"client {number}", stream=True))
            ended.append((answer.status_code, answer.text))

    async with AsyncExitStack() as stack:
        frames = [frame(f"{number}") for number in range(20)]
        three = [await stack.enter_async_context(fake_engine(stream(*frames, DONE))) for _ in range(3)]
        file = await stack.enter_async_context(gateway_from(path, SERVER + pool("p", *three)))
        tasks = [asyncio.create_task(load(file, number)) for number in range(4)]
        for turn in range(12):
            gone = three[turn % 3]
            kept = [one for one in three if one is not gone]
            await file.says(SERVER + pool("p", *kept))
            await until(lambda: sum(view.state == "up" for view in file.run.gateway.snapshot().replicas) >= 2)
            async with admin(file.run) as http:
                added = await http.post("/api/replicas", json={"pool": "p", "url": gone.url})
                name = added.json()["name"]
                await until(lambda: all(view.state == "up" for view in file.run.gateway.snapshot().replicas))
                answer = await http.delete(f"/api/replicas/{name}", params={"now": turn % 2 == 0})
                assert answer.status_code in (200, 202)
            before = len(ended)
            await until(lambda before=before: len(ended) >= before + 4)
        done.set()
        await asyncio.gather(*tasks)
        whole = b"".join([*frames, DONE]).decode()
        assert {status for status, _ in ended} == {200}
        assert all(text == whole for _, text in ended)
        await until(lambda: nothing_is_booked(file.run) and len(file.run.gateway.backends) == 2)
        router = file.run.gateway.router
        assert router._fleet.retired == []
        assert len(router._beliefs.index._guessed) <= 6
