"""The gateway in front of two real vLLM servers: what the engines themselves count is what is asserted."""

import asyncio
import random
from dataclasses import dataclass

import anthropic
import httpx
import openai
import pytest

from engines.registry import dialect
from gateway.serving.server import RunningGateway

pytestmark = [pytest.mark.real_vllm, pytest.mark.filterwarnings("default")]

MODEL = "tiny"
WORDS = ("cache", "prefix", "token", "router", "engine", "replica", "prefill", "decode", "queue", "block")


def text(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choices(WORDS, k=words))


@dataclass(frozen=True)
class Counters:
    prompt: int
    cached: int


async def counters(url: str) -> Counters:
    """vLLM's own counters, in tokens."""
    speaks = dialect("vllm")
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        pages = {path: (await client.get(url + path)).content for path in speaks.load_paths}
    report = speaks.read_load(pages)
    assert report.prompt_tokens_total is not None
    assert report.cached_tokens_total is not None
    return Counters(report.prompt_tokens_total, report.cached_tokens_total)


async def chat(client: httpx.AsyncClient, messages: list[dict[str, str]], **more: object) -> httpx.Response:
    body = {"model": MODEL, "messages": messages, "max_tokens": 8, "temperature": 0, **more}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer


async def test_multi_turn_sessions_stay_where_their_prefix_is(gateway: RunningGateway, vllms: list) -> None:
    """Each later turn must hit, at the replica of the first turn, all full blocks of the turn before."""
    by_name = {replica.name: replica.url for replica in gateway.gateway.snapshot().replicas}
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=120) as client:
        replicas_used = set()
        for session in range(8):
            messages = [
                {"role": "system", "content": text(1000, 300)},
                {"role": "user", "content": text(session, 500)},
            ]
            home, turn_before = None, 0
            for turn in range(4):
                before = {name: await counters(url) for name, url in by_name.items()}
                answer = await chat(client, messages)
                chosen = answer.headers["x-prefixgate-replica"]
                usage = answer.json()["usage"]
                after = {name: await counters(url) for name, url in by_name.items()}
                counted = after[chosen].prompt - before[chosen].prompt
                cached = after[chosen].cached - before[chosen].cached
                assert counted == usage["prompt_tokens"]
                assert cached == usage["prompt_tokens_details"]["cached_tokens"]
                others = [name for name in by_name if name != chosen]
                assert all(after[name] == before[name] for name in others), "one engine did all of the work"
                if turn > 0:
                    assert chosen == home
                    assert cached >= (turn_before - 1) // 128 * 128
                home, turn_before = chosen, usage["prompt_tokens"]
                messages.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})
                messages.append({"role": "user", "content": text(session * 100 + turn, 60)})
            replicas_used.add(home)
    assert replicas_used <= set(by_name)
    series = gateway.gateway.snapshot().series
    print({one.replica: f"{one.hit_rate:.1%} of {one.prompt_tokens} prompt tokens" for one in series if one.replica})


async def test_concurrent_sessions_use_both_replicas_and_still_hit(gateway: RunningGateway) -> None:
    homes: list[bool] = []
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=300) as client:

        async def session(number: int) -> tuple[str, int, int]:
            messages = [{"role": "user", "content": text(7000 + number, 700)}]
            first = await chat(client, messages)
            answer = first.json()["choices"][0]["message"]["content"]
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "and then?"}]
            second = await chat(client, messages)
            homes.append(second.headers["x-prefixgate-replica"] == first.headers["x-prefixgate-replica"])
            usage = second.json()["usage"]
            return (
                second.headers["x-prefixgate-replica"],
                usage["prompt_tokens_details"]["cached_tokens"],
                usage["prompt_tokens"],
            )

        rows = await asyncio.gather(*(session(number) for number in range(12)))
    assert {row[0] for row in rows} == {"real-0", "real-1"}
    assert sum(homes) >= 8  # a long queue at home may rightly send a turn elsewhere
    assert sum(row[1] for row in rows) >= 0.6 * sum(row[2] for row in rows)


async def test_openai_sdk(gateway: RunningGateway) -> None:
    async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
        models = await client.models.list()
        assert [model.id for model in models.data] == [MODEL]
        messages = [{"role": "user", "content": "hello there"}]
        whole = await client.chat.completions.create(model=MODEL, messages=messages, max_tokens=6, temperature=0)
        stream = await client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=6, temperature=0, stream=True
        )
        chunks = [chunk async for chunk in stream]
        assert all(chunk.choices for chunk in chunks), "the usage frame that we asked for is ours alone"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
        completion = await client.completions.create(model=MODEL, prompt="once upon", max_tokens=5)
        assert completion.usage.completion_tokens == 5
        tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
        await client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=6, tools=[tool], tool_choice="auto"
        )
        with pytest.raises(openai.NotFoundError, match=r"do not serve|does not exist|does not support"):
            await client.embeddings.create(model=MODEL, input="x")
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.chat.completions.create(model="gpt-0", messages=messages)
        with pytest.raises(openai.BadRequestError, match="maximum context length"):
            await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": text(1, 40000)}], max_tokens=1
            )


async def test_anthropic_sdk(gateway: RunningGateway) -> None:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="none", max_retries=0, timeout=120) as client:
        messages = [{"role": "user", "content": "hello there"}]
        whole = await client.messages.create(model=MODEL, messages=messages, max_tokens=6)
        assert whole.usage.output_tokens == 6
        async with client.messages.stream(model=MODEL, messages=messages, max_tokens=6) as stream:
            pieces = [piece async for piece in stream.text_stream]
            final = await stream.get_final_message()
        assert "".join(pieces) == final.content[0].text


async def test_a_client_who_leaves_ends_its_request_at_the_engine(gateway: RunningGateway, vllms: list) -> None:
    speaks = dialect("vllm")
    body = {"model": MODEL, "messages": [{"role": "user", "content": "go on"}], "max_tokens": 8000, "stream": True}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        async with client.stream(
            "POST", gateway.url + "/v1/chat/completions", json={**body, "ignore_eos": True}
        ) as answer:
            await anext(answer.aiter_bytes())
        for _ in range(100):
            pages = [{"/metrics": (await client.get(server.url + "/metrics")).content} for server in vllms]
            if all(speaks.read_load(page).running_requests == 0 for page in pages):
                break
            await asyncio.sleep(0.1)
        else:
            pytest.fail("the engine still works for a client who left")
    assert all(replica.inflight == 0 for replica in gateway.gateway.snapshot().replicas)
