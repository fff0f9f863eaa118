"""What the gateway learns of its replicas by looking at them."""

import asyncio
import json
import socket
from collections.abc import Callable

import httpx
import pytest
from event_publisher import Publisher, publishing
from fake_engine import fake_engine, models, response, silence
from gateways import chat, client, gateway_of, gateway_over, post, until

from gateway.config import build
from gateway.routing.facts import CacheReset, Fact, ReplicaRestarted
from gateway.routing.snapshot import ReplicaView
from gateway.serving.polling import looked_once
from gateway.serving.server import RunningGateway

OFTEN = {"interval_s": 0.02}


def replica(run: RunningGateway, name: str = "p-0") -> ReplicaView:
    return next(view for view in run.gateway.snapshot().replicas if view.name == name)


async def is_ready(run: RunningGateway) -> bool:
    async with client(run) as http:
        return (await http.get("/ready")).status_code == 200


def metrics(started_at: float = 1000.0, running: int = 0, prompt_tokens: int = 50) -> bytes:
    page = f"""\
process_start_time_seconds {started_at}
vllm:num_requests_running{{engine="0"}} {running}
vllm:num_requests_waiting{{engine="0"}} 3
vllm:kv_cache_usage_perc{{engine="0"}} 0.25
vllm:prompt_tokens_total{{engine="0"}} {prompt_tokens}
vllm:prompt_tokens_cached_total{{engine="0"}} 7
"""
    return response(page.encode(), content_type="text/plain")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_an_engine_that_starts_after_the_gateway() -> None:
    port = free_port()
    async with gateway_over(f"http://127.0.0.1:{port}", polling=OFTEN) as run:
        assert (await post(run, chat())).status_code == 503
        assert not await is_ready(run)
        assert replica(run).state == "down"
        async with fake_engine(port=port):
            await until(lambda: replica(run).state == "up")
            assert await is_ready(run)
            assert (await post(run, chat())).status_code == 200
        await until(lambda: replica(run).state == "down")
        assert not await is_ready(run)
        async with fake_engine(port=port):
            await until(lambda: replica(run).state == "up")
            assert (await post(run, chat())).status_code == 200


async def test_a_replica_that_refused_one_connection_is_back_at_the_next_look() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, polling=OFTEN) as run:
        await until(lambda: len(engine.polls) > 6)
        backend = run.gateway.backends["p-0"]
        run.gateway.unreachable(backend, "no connection: too many open files")
        assert replica(run).state == "down"
        await until(lambda: replica(run).state == "up")
        assert (await post(run, chat())).status_code == 200


async def test_ailing_engines_are_left_alone_and_it_is_said_why() -> None:
    ailments = {
        "answered 503": response(b"", 503),
        "api_key_env": response(b"", 401),
        "not answered in time": silence(),
    }
    for reason, page in ailments.items():
        async with fake_engine() as engine:
            engine.pages["/health"] = page
            polling = {"interval_s": 0.02, "timeout_s": 0.1}
            async with gateway_over(engine.url, polling=polling) as run:
                assert replica(run).state == "down"
                assert reason in replica(run).reason
                engine.pages["/health"] = response(b"")
                await until(lambda run=run: replica(run).state == "up")
                engine.pages["/health"] = page
                await until(lambda run=run: replica(run).state == "down")


async def test_the_load_is_read_at_every_look() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, polling=OFTEN) as run:
        assert replica(run).report.running_requests is None
        engine.pages["/metrics"] = metrics(running=5)
        await until(lambda: replica(run).report.running_requests == 5)
        report = replica(run).report
        assert (report.waiting_requests, report.kv_usage, report.prompt_tokens_total) == (3, 0.25, 50)


async def test_a_restarted_engine_has_an_empty_cache_and_may_serve_other_models() -> None:
    prompt = chat("a long prompt " * 100)
    for restarted in (metrics(started_at=2000.0), metrics(prompt_tokens=0).replace(b"process_start", b"another_start")):
        before = metrics() if b"process_start" in restarted else metrics().replace(b"process_start", b"another_start")
        async with fake_engine() as engine:
            engine.pages["/metrics"] = before
            async with gateway_over(engine.url, model=None, polling=OFTEN) as run:
                await post(run, prompt)
                assert int((await post(run, prompt)).headers["x-prefixgate-predicted-cached-tokens"]) > 0
                engine.pages["/metrics"] = restarted
                engine.pages["/v1/models"] = response(models("m", "new"))
                await until(lambda run=run: replica(run).models == ("m", "new"))
                assert (await post(run, prompt)).headers["x-prefixgate-predicted-cached-tokens"] == "0"


async def test_a_page_that_is_not_there_is_not_asked_for_again() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, polling=OFTEN) as run:
        await until(lambda: sum(poll.target == "/health" for poll in engine.polls) > 10)
        assert sum(poll.target == "/version" for poll in engine.polls) == 1
        engine.pages["/health"] = response(b"", 503)
        await until(lambda: replica(run).state == "down")
        engine.pages["/health"] = response(b"")
        engine.pages["/version"] = response(b'{"version":"0.99"}')
        await until(lambda: replica(run).version == "0.99")


async def test_a_broken_page_is_as_good_as_none() -> None:
    async def cut(_request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nx")
        writer.close()

    async with fake_engine() as engine:
        engine.pages["/metrics"] = cut
        engine.pages["/v1/models"] = response(b'{"data":[{"id":null},7]}')
        async with gateway_over(engine.url) as run:
            assert replica(run).state == "up"
            assert replica(run).models == ()
            assert (await post(run, chat())).status_code == 200


async def test_sglang_is_looked_at_without_making_it_generate() -> None:
    async with fake_engine() as engine:
        engine.pages["/v1/loads"] = response(b'{"loads":[{"num_running_reqs":2,"num_waiting_reqs":1}]}')
        engine.pages["/server_info"] = response(b'{"version":"0.5.23","chunked_prefill_size":4096}')
        pool = {"name": "p", "engine": "sglang", "replicas": [engine.url], "model": "m"}
        async with gateway_of([pool | {"prefill": {"chunk_tokens": 8192}}]) as run:
            view = replica(run)
            assert (view.state, view.version, view.report.running_requests) == ("up", "0.5.23", 2)
            assert view.prefill_actual.chunk_tokens == 4096
            [warning] = [text for text in run.gateway.warnings(run.gateway.snapshot())["p-0"] if "chunk" in text]
            assert "8192" in warning
    assert "/health" not in {poll.target for poll in engine.polls}
    assert engine.requests == []


async def test_the_gateway_stops_while_an_engine_does_not_answer_it() -> None:
    async with fake_engine() as engine:
        engine.left.clear()
        async with gateway_over(engine.url, polling={"interval_s": 0.01, "timeout_s": 60}) as run:
            engine.pages["/health"] = silence()
            looked = len(engine.polls)
            await until(lambda: len(engine.polls) > looked and engine.polls[-1].target == "/health")
            url = run.url
        await engine.left.wait()
        async with httpx.AsyncClient(trust_env=False) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(url + "/health")


async def test_an_engine_that_says_nothing_of_its_start_is_a_new_one_after_it_was_down() -> None:
    port = free_port()
    async with fake_engine(port=port) as engine, gateway_over(engine.url, polling=OFTEN) as run:
        assert (await post(run, chat("a long text " * 200))).status_code == 200
        assert replica(run).index_blocks > 0
        healthy = engine.pages["/health"]
        engine.pages["/health"] = response(b"", 503)
        await until(lambda: replica(run).state == "down")
        engine.pages["/health"] = healthy
        await until(lambda: replica(run).state == "up")
        await until(lambda: replica(run).index_blocks == 0)


def counters(resets: int | None, prompt_tokens: int = 50) -> bytes:
    page = f'vllm:prompt_tokens_total{{engine="0"}} {prompt_tokens}\n'
    if resets:
        labels = 'handler="/reset_prefix_cache",method="POST",status="2xx"'
        page += f"http_requests_total{{{labels}}} {resets}\n"
    return response(page.encode(), content_type="text/plain")


def recording(run: RunningGateway) -> list[Fact]:
    """The facts from now on, as the poller tells them."""
    facts: list[Fact] = []
    told: Callable[[Fact], None] = run.gateway.observe

    def observe(fact: Fact) -> None:
        facts.append(fact)
        told(fact)

    run.gateway.observe = observe  # type: ignore[method-assign]
    return facts


def resets_in(facts: list[Fact]) -> list[CacheReset]:
    return [fact for fact in facts if isinstance(fact, CacheReset)]


async def test_a_cache_that_was_told_to_drop_itself_between_two_looks() -> None:
    async with fake_engine() as engine:
        engine.pages["/metrics"] = counters(None)
        async with gateway_over(engine.url, polling=OFTEN) as run:
            facts = recording(run)
            began = run.gateway.clock()
            engine.pages["/metrics"] = counters(1)
            await until(lambda: bool(resets_in(facts)))
            engine.pages["/metrics"] = response(b"", 503)  # looks that say nothing hide no reset
            looked = len(engine.polls)
            await until(lambda: len(engine.polls) > looked + 6)
            engine.pages["/metrics"] = counters(3)
            await until(lambda: len(resets_in(facts)) == 2)
            looked = len(engine.polls)
            await until(lambda: len(engine.polls) > looked + 6)
            first, second = resets_in(facts)
            assert (first.replica, second.replica) == ("p-0", "p-0")
            assert began < first.at < second.at


async def test_the_counter_of_another_process_is_no_reset() -> None:
    async with fake_engine() as engine:
        engine.pages["/metrics"] = counters(2, prompt_tokens=50)
        async with gateway_over(engine.url, polling=OFTEN) as run:
            facts = recording(run)
            engine.pages["/metrics"] = counters(5, prompt_tokens=10)
            await until(lambda: any(isinstance(fact, ReplicaRestarted) for fact in facts))
            looked = len(engine.polls)
            await until(lambda: len(engine.polls) > looked + 6)
            assert resets_in(facts) == []


def sources(publisher: Publisher) -> bytes:
    said = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{publisher.port}",
        "replay_endpoint": f"tcp://*:{publisher.replay_port}",
        "topic": "",
    }
    return response(json.dumps({"0": said}).encode())


BATCH = b"\x93\xcb\x41\xd9\x00\x00\x00\x00\x00\x00\x91\x81\xa4type\xb0AllBlocksCleared\x00"


async def test_replicas_that_publish_their_cache_are_listened_to() -> None:
    async with publishing(history=[BATCH]) as publisher, fake_engine() as engine:
        engine.pages["/kv_event_sources"] = sources(publisher)
        engine.pages["/metrics"] = metrics()
        pool = {"name": "p", "engine": "vllm", "replicas": [engine.url], "model": "m", "tokens": "engine"}
        async with gateway_of([pool], polling=OFTEN) as run:

            def is_live() -> bool:
                return [status.state for status in run.gateway.feeds.statuses()] == ["live"]

            await until(is_live)
            [status] = run.gateway.feeds.statuses()
            assert (status.replica, status.last_seq, status.events, status.damaged) == ("p-0", 0, 1, 0)
            engine.pages["/metrics"] = metrics(started_at=2000.0)
            await until(lambda: run.gateway.feeds.statuses()[0].losses == 1)
            await until(is_live)
            assert run.gateway.feeds.statuses()[0].batches == 2
            asked = len(publisher.asked)
            publisher.publish(BATCH, lose=True)
            engine.pages["/metrics"] = metrics(started_at=2000.0, prompt_tokens=500)
            await until(lambda: run.gateway.feeds.statuses()[0].batches == 3)
            assert len(publisher.asked) > asked


async def test_a_look_alone_listens_to_nobody() -> None:
    async with publishing() as publisher, fake_engine() as engine:
        engine.pages["/kv_event_sources"] = sources(publisher)
        config = build({"pools": [{"name": "p", "engine": "vllm", "replicas": [engine.url], "tokens": "engine"}]})
        async with looked_once(config) as gateway:
            assert gateway.snapshot().replicas[0].state == "up"
            assert gateway.feeds.statuses() == ()
