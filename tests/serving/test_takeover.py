"""A gateway that is told to stop says so first; a second one on the same ports takes over without a refused request."""

import asyncio
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fake_engine import DONE, fake_engine, frame, held_stream
from gateways import LIMIT_S, admin, chat, chat_bytes, client, gateway_over, post, until_refused
from processes import prefixgate
from raw_client import raw_client

from gateway.config import ConfigError, build
from gateway.serving import listening

MODEL = "deepseek-v4-flash"
CLIENTS = 6


async def test_a_gateway_that_stops_says_so_before_it_takes_no_more() -> None:
    gate = asyncio.Event()
    answers = held_stream(gate, frame("one"), after=(DONE,))
    async with (
        fake_engine(answers) as engine,
        gateway_over(engine.url, server={"drain_notice_s": 1.5}) as run,
        raw_client(run.url) as stream,
        client(run) as http,
        admin(run) as operator,
    ):
        await stream.post(chat_bytes(stream=True))
        _, headers = await stream.head()
        assert await stream.chunk() == frame("one")
        assert (await http.get("/ready")).json()["stopping"] is False
        run.stop()
        run.stop()
        ready = await http.get("/ready")
        assert (ready.status_code, ready.json()["ready"], ready.json()["stopping"]) == (503, False, True)
        assert ready.headers["connection"] == "close"
        assert (await http.get("/health")).status_code == 200
        assert (await operator.get("/api/snapshot")).status_code == 200
        late = asyncio.create_task(post(run, chat(stream=True)))  # is taken all the same
        await until_refused(run.url)
        gate.set()
        assert await stream.body(headers) == DONE
        assert (await late).text.endswith("data: [DONE]\n\n")


def test_ports_are_shared_only_where_that_is_asked_for() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pools = [{"name": "p", "engine": "vllm", "replicas": ["http://127.0.0.1:9"]}]
    shared = build({"pools": pools, "server": {"port": port, "admin_port": port, "reuse_port": True}}).server
    alone = build({"pools": pools, "server": {"port": port, "admin_port": port}}).server
    [one] = listening.open_ports(shared)
    [two] = listening.open_ports(shared)
    for listener in (one, two):
        listener.listen()
    with pytest.raises(OSError, match="in use"):
        listening.open_ports(alone)
    one.close()
    two.close()


async def test_who_is_turned_away_comes_to_the_other_listener() -> None:
    """The kernel is asked: of those that share a port, one that turns away is given no connection more."""
    pools = [{"name": "p", "engine": "vllm", "replicas": ["http://127.0.0.1:9"]}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = build({"pools": pools, "server": {"port": port, "admin_port": port, "reuse_port": True}}).server
    came: Counter[str] = Counter()

    def count(name: str) -> asyncio.Protocol:
        came[name] += 1
        return asyncio.Protocol()

    loop = asyncio.get_running_loop()
    [old], [new] = listening.open_ports(shared), listening.open_ports(shared)
    servers = [
        await loop.create_server(lambda: count("old"), sock=old),
        await loop.create_server(lambda: count("new"), sock=new),
    ]

    async def connect() -> None:
        transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        transport.close()

    if not listening.turn_away([old]):
        pytest.skip("this system has no socket filters")
    before = came["old"]
    connecting = [asyncio.create_task(connect()) for _ in range(20)]
    await asyncio.sleep(listening.HANDSHAKE_S)
    servers[0].close()
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*connecting)
        while came["new"] < 20:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
    assert came["old"] == before
    servers[1].close()


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with prefixgate("engine", "simulate", "--port", "0", "--speed", "20", "--model", MODEL) as (_, urls):
        yield urls[0]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_a_second_gateway_takes_over_under_load(engine: str, tmp_path: Path, workers: int) -> None:
    """Of what is sent meanwhile, over new connections and kept ones, nothing fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = tmp_path / "gateway.toml"
    path.write_text(
        f"[server]\nport = {port}\nadmin_port = {port}\nreuse_port = true\ndrain_notice_s = 1.5\nworkers = {workers}\n"
        f'[[pools]]\nname = "p"\nengine = "vllm"\nmodel = "{MODEL}"\nreplicas = ["{engine}"]\n'
    )
    stopping = asyncio.Event()
    ended: Counter[str] = Counter()

    async def ask(http: httpx.AsyncClient, number: int) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"hello {number} " * 50}], "max_tokens": 20}
        answer = await http.post("/v1/chat/completions", json={**body, "stream": True})
        assert answer.status_code == 200, answer.text
        assert answer.text.endswith("data: [DONE]\n\n"), answer.text
        assert '"error"' not in answer.text

    async def load(number: int) -> None:
        """Every other client keeps its connection."""
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as kept:
            while not stopping.is_set():
                try:
                    if number % 2:
                        await ask(kept, number)
                    else:
                        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as fresh:
                            await ask(fresh, number)
                except httpx.TransportError as error:
                    ended[type(error).__name__] += 1
                else:
                    ended["complete"] += 1

    with prefixgate("serve", "--config", str(path)) as (first, _):
        tasks = [asyncio.create_task(load(number)) for number in range(CLIENTS)]
        successor = prefixgate("serve", "--config", str(path))
        second, _ = await asyncio.to_thread(successor.__enter__)
        try:
            first.send_signal(signal.SIGTERM)
            async with asyncio.timeout(2 * LIMIT_S):
                await asyncio.to_thread(first.wait)
            after = sum(ended.values())
            while sum(ended.values()) < after + 3 * CLIENTS:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.05)
            stopping.set()
            await asyncio.gather(*tasks)
        finally:
            second.terminate()
            await asyncio.to_thread(second.communicate)
    assert first.returncode == 0
    assert dict(ended) == {"complete": sum(ended.values())}


def test_settings_of_stopping_are_checked() -> None:
    pools = [{"name": "p", "engine": "vllm", "replicas": ["http://127.0.0.1:9"]}]
    tables: list[dict[str, object]] = [
        {"drain_s": 0},
        {"drain_notice_s": -1},
        {"drain_s": 1e9},
        {"reuse_port": True, "port": 0},
    ]
    for table in tables:
        with pytest.raises(ConfigError, match=r"\[server\]"):
            build({"pools": pools, "server": table})
