"""Token ids of requests: by a tokenizer of our own, and by the engines' /tokenize, asked for no more than is new."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, Request, fake_engine, reset, response, silence, whole
from model_folders import CHATML, FORGETFUL, TOOLS, model_folder

from gateway.config import ConfigError, build
from gateway.serving.engine_client import EngineClient
from gateway.serving.tokenise import remote
from gateway.serving.tokenise.calls import Site
from gateway.serving.tokenise.tokenisers import TokenisedPrompt, Tokenisers
from gateway.serving.tokenise.turns import CHECK_EVERY, PROOFS
from gateway.tokens.errors import InexactError, Reason
from gateway.tokens.prompt import IdsPrompt, read
from gateway.tokens.tokeniser import Tokeniser
from gateway.wire.request import Endpoint

CHAT, COMPLETIONS = Endpoint.CHAT, Endpoint.COMPLETIONS
ENGINE = "engine:p"


def chat(*messages: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": messages, **fields}).encode()


def user(content: Any = "hello") -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any = "yes", **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def call(arguments: str = "{}") -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}


def result(content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "c", "content": content}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def tokenisers(
    tokens: str, *sites: str, engine: str = "vllm", clock: Clock | None = None, **options: Any
) -> AsyncIterator[Tokenisers]:
    config = build({"pools": [{"name": "p", "engine": engine, "replicas": ["http://127.0.0.1:9"], "tokens": tokens}]})
    engines = EngineClient()
    made = Tokenisers(
        config,
        engines,
        lambda _pool: [Site(url, [(b"x-key", b"k")]) for url in sites],
        clock=clock or Clock(),
        **options,
    )
    try:
        async with asyncio.timeout(30):
            yield made
    finally:
        made.close()
        await engines.close()


loaded = cache(Tokeniser)


def truth(folder: Path, endpoint: Endpoint, body: bytes) -> bytes:
    prompt = read(endpoint, body)
    return prompt.tokens if isinstance(prompt, IdsPrompt) else loaded(folder).tokens(prompt)


# A tokenizer of our own.


async def test_chats_and_texts(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, TOOLS)
    async with tokenisers(f"tokenizer:{folder}") as made:
        encoding = f"tokenizer:{folder}"
        body = chat(user("hello wörld"), tools=[{"type": "function", "function": {"name": "f"}}])
        given = await made.tokens_of(encoding, CHAT, body)
        assert given == TokenisedPrompt(truth(folder, CHAT, body), "chat+tools")
        text = b'{"prompt": "hello"}'
        assert await made.tokens_of(encoding, COMPLETIONS, text) == TokenisedPrompt(
            truth(folder, COMPLETIONS, text), "text"
        )
        assert await made.tokens_of(encoding, COMPLETIONS, b'{"prompt": [1, 2]}') == TokenisedPrompt(
            b"\1\0\0\0\2\0\0\0", "ids"
        )
        assert (made.counts.prompts, made.counts.fallbacks) == (3, {})
        assert made.counts.seconds > 0
        assert made.memo_bytes > 0


async def test_what_has_no_exact_tokens(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "{{ raise_exception('no') }}")
    async with tokenisers(f"tokenizer:{folder}") as made:
        image = user([{"type": "image_url", "image_url": {"url": "data:"}}])
        for endpoint, body in (
            (CHAT, chat(image)),
            (CHAT, chat(user())),
            (CHAT, chat(user(), reasoning={"effort": "low"})),
            (COMPLETIONS, b'{"prompt": ["a", "b"]}'),
            (Endpoint.MESSAGES, chat(user())),
            (CHAT, b"["),
            (CHAT, chat(user("\ud800"))),
        ):
            assert await made.tokens_of(f"tokenizer:{folder}", endpoint, body) is None
        assert made.counts.fallbacks == {
            Reason.CONTENT: 1,
            Reason.TEMPLATE: 1,
            Reason.FIELD: 1,
            Reason.BATCH: 1,
            Reason.ENDPOINT: 1,
            Reason.MALFORMED: 2,
        }
        assert made.counts.prompts == 0


async def test_pools_without_tokens_and_encodings_of_no_pool() -> None:
    async with tokenisers("none") as made:
        assert await made.tokens_of("", CHAT, chat(user())) is None
        assert await made.tokens_of("tokenizer:/x", CHAT, chat(user())) is None
        assert await made.disagreement("", "http://127.0.0.1:9", [], "m") is None
        assert made.counts.fallbacks == {}


async def test_a_tokenizer_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"pool `p`: tokens: {tmp_path} has no chat template: .*\"engine\""):
        async with tokenisers(f"tokenizer:{model_folder(tmp_path, None)}"):
            pass


async def test_pools_of_one_tokenizer_share_it(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    pools = [
        {"name": name, "engine": "vllm", "replicas": [f"http://127.0.0.1:{port}"], "tokens": f"tokenizer:{folder}"}
        for port, name in enumerate("ab", 9)
    ]
    made = Tokenisers(build({"pools": pools}), EngineClient(), lambda _pool: [])
    await made.tokens_of(f"tokenizer:{folder}", CHAT, chat(user()))
    assert made.counts.prompts == 1


async def test_large_texts_leave_the_loop_free_and_are_encoded_once(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    document = " ".join(f"word{number} wörld{number * 7}" for number in range(30_000))
    async with tokenisers(f"tokenizer:{folder}", limit_s=20) as made:
        bodies = [chat(user(document), assistant(), user(f"question {number}")) for number in range(4)]
        asked = [asyncio.ensure_future(made.tokens_of(f"tokenizer:{folder}", CHAT, body)) for body in bodies]
        ticks = 0
        while not all(task.done() for task in asked):
            await asyncio.sleep(0.002)
            ticks += 1
        assert ticks > 5
        for body, task in zip(bodies, asked, strict=True):
            given = await task
            assert given is not None
            assert given.tokens == truth(folder, CHAT, body)
        known = made.counts.known_bytes
        await made.tokens_of(f"tokenizer:{folder}", CHAT, chat(user(document), assistant(), user("last")))
        assert made.counts.known_bytes - known > len(document)


async def test_too_slow_is_none_and_helps_the_next(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    body = chat(user("hello wörld 12345 " * 20_000))
    async with tokenisers(f"tokenizer:{folder}", limit_s=0.001) as made:
        assert await made.tokens_of(f"tokenizer:{folder}", CHAT, body) is None
        assert made.counts.fallbacks == {Reason.SLOW: 1}
        await asyncio.sleep(0.5)
        for _ in range(100):
            if await made.tokens_of(f"tokenizer:{folder}", CHAT, body) is not None:
                break
            await asyncio.sleep(0.1)
        assert made.counts.prompts == 1


# The engines' own.


@dataclass
class Engine:
    """An engine that tokenises as its template has it. `asked` are the bodies that came."""

    folder: Path
    asked: list[dict[str, Any]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        self.tokeniser = Tokeniser(self.folder)

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        assert (request.method, request.target) == ("POST", "/tokenize")
        assert request.headers["x-key"] == "k"
        self.asked.append(json.loads(request.body))
        self.sizes.append(len(request.body))
        await asyncio.sleep(self.delay_s)
        try:
            prompt = read(CHAT if "messages" in self.asked[-1] else COMPLETIONS, request.body)
            packed = b"" if isinstance(prompt, IdsPrompt) else self.tokeniser.tokens(prompt)
        except InexactError:
            writer.write(response(b'{"error": {"message": "refused"}}', 400))
            return
        ids = [int.from_bytes(packed[at : at + 4], "little") for at in range(0, len(packed), 4)]
        writer.write(response(json.dumps({"count": len(ids), "max_model_len": 9, "tokens": ids}).encode()))


@asynccontextmanager
async def engine_of(folder: Path, template: str = TOOLS) -> AsyncIterator[tuple[Engine, FakeEngine]]:
    answering = Engine(model_folder(folder, template))
    async with fake_engine(answering) as served:
        yield answering, served


async def test_an_engine_is_asked_once(tmp_path: Path) -> None:
    async with engine_of(tmp_path) as (engine, served), tokenisers("engine", served.url) as made:
        engine.delay_s = 0.05
        body = chat(user(), assistant(), user("again"))
        given = await asyncio.gather(*(made.tokens_of(ENGINE, CHAT, body) for _ in range(10)))
        assert set(given) == {TokenisedPrompt(truth(tmp_path, CHAT, body), "chat")}
        assert await made.tokens_of(ENGINE, CHAT, body) == given[0]
        assert len(engine.asked) == 1
        assert await made.tokens_of(ENGINE, COMPLETIONS, b'{"prompt": [7]}') == TokenisedPrompt(b"\7\0\0\0", "ids")
        assert len(engine.asked) == 1
        text = await made.tokens_of(ENGINE, COMPLETIONS, b'{"model": "m", "prompt": "hello"}')
        assert text == TokenisedPrompt(truth(tmp_path, COMPLETIONS, b'{"prompt": "hello"}'), "text")
        assert engine.asked[-1] == {"model": "m", "prompt": "hello", "add_special_tokens": True}
        assert (made.counts.engine_calls, made.counts.prompts, made.counts.reused_prompts) == (2, 13, 1)


async def test_one_client_who_leaves_takes_nobody_along(tmp_path: Path) -> None:
    async with engine_of(tmp_path) as (engine, served), tokenisers("engine", served.url) as made:
        engine.delay_s = 0.1
        asked = [asyncio.ensure_future(made.tokens_of(ENGINE, CHAT, chat(user()))) for _ in range(2)]
        await served.arrived.wait()
        asked[0].cancel()
        assert await asked[1] is not None


async def test_what_an_engine_is_sent(tmp_path: Path) -> None:
    messages = [user(), assistant(reasoning_content="r"), user()]
    tools = [{"type": "function", "function": {"name": "f"}}]
    fields = {
        "tools": tools,
        "tool_choice": "auto",
        "reasoning_effort": "low",
        "chat_template_kwargs": {"thinking": True},
        "documents": [{"text": "d"}],
        "response_format": {"type": "text"},
        "temperature": 1,
        "stream": True,
    }
    async with fake_engine(whole(b'{"tokens": [1]}')) as served:
        async with tokenisers("engine", served.url) as made:
            assert await made.tokens_of(ENGINE, CHAT, chat(*messages, **fields)) is not None
            assert await made.tokens_of(ENGINE, CHAT, chat(user(), task="x")) is None
        async with tokenisers("engine", served.url, engine="sglang") as made:
            assert await made.tokens_of(ENGINE, CHAT, chat(*messages, **fields)) is not None
            moved = chat(user(), chat_template_kwargs={"reasoning_effort": "low"})
            assert await made.tokens_of(ENGINE, CHAT, moved) is None
            assert await made.tokens_of(ENGINE, COMPLETIONS, b'{"prompt": "x"}') is not None
            bare = b'{"prompt": "x", "add_special_tokens": false}'
            assert await made.tokens_of(ENGINE, COMPLETIONS, bare) is None
    vllm, sglang, text = (json.loads(request.body) for request in served.requests)
    assert served.requests[0].headers["x-key"] == "k"
    kwargs = {"thinking": True, "reasoning_effort": "low", "enable_thinking": True, "documents": [{"text": "d"}]}
    assert vllm == {
        "model": "m",
        "messages": [user(), assistant(reasoning_content="r", reasoning="r"), user()],
        "tools": tools,
        "chat_template_kwargs": kwargs,
        "add_generation_prompt": True,
        "continue_final_message": False,
        "add_special_tokens": False,
    }
    dropped = ("temperature", "stream")
    kept = {name: value for name, value in fields.items() if name not in dropped}
    assert sglang == {"model": "m", "messages": messages, **kept}
    assert text == {"prompt": "x"}


async def test_another_replica_is_asked_once(tmp_path: Path) -> None:
    clock = Clock()
    async with engine_of(tmp_path) as (engine, served), fake_engine(reset()) as dead, fake_engine(silence()) as mute:
        async with tokenisers("engine", dead.url, served.url) as made:
            assert await made.tokens_of(ENGINE, CHAT, chat(user())) is not None
        async with tokenisers("engine", mute.url, served.url, limit_s=0.2) as made:
            assert await made.tokens_of(ENGINE, CHAT, chat(user())) is not None
        async with tokenisers("engine", dead.url, mute.url, served.url, limit_s=0.1, clock=clock) as made:
            began = time.monotonic()
            assert await made.tokens_of(ENGINE, CHAT, chat(user())) is None
            assert time.monotonic() - began < 5
            assert made.counts.fallbacks.total() == 1
            assert made.counts.fallbacks.keys() <= {Reason.ENGINE, Reason.SLOW}
            asked = len(dead.requests)
            assert await made.tokens_of(ENGINE, CHAT, chat(user())) is None
            assert len(dead.requests) == asked  # left alone for a while
            clock.now += remote.DOWN_S + 1
            assert await made.tokens_of(ENGINE, CHAT, chat(user())) is None
            assert len(dead.requests) > asked
        assert len(engine.asked) == 2


async def test_no_replica_to_ask(tmp_path: Path) -> None:
    async with tokenisers("engine") as made:
        assert await made.tokens_of(ENGINE, CHAT, chat(user())) is None
        assert made.counts.fallbacks == {Reason.ENGINE: 1}


async def test_an_engine_that_tokenises_texts_only(tmp_path: Path) -> None:
    clock = Clock()

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        texts = b'"prompt"' in request.body
        writer.write(
            response(b'{"tokens": [1]}' if texts else b'{"message": "prompt: field required"}', 200 if texts else 400)
        )

    async with fake_engine(answer) as old, tokenisers("engine", old.url, old.url, clock=clock) as made:
        for _ in range(3):
            assert await made.tokens_of(ENGINE, CHAT, chat(user())) is None
            assert await made.tokens_of(ENGINE, COMPLETIONS, b'{"prompt": "x"}') is not None
        assert len(old.requests) == 2
        clock.now += remote.ABSENT_S + 1
        assert await made.tokens_of(ENGINE, CHAT, chat(user())) is None
        assert len(old.requests) == 3


async def test_a_refused_chat_is_that_chat_alone_where_others_were_answered(tmp_path: Path) -> None:
    choosy = "{% if messages[0].content == 'no' %}{{ raise_exception('no') }}{% endif %}x"
    async with engine_of(tmp_path, choosy) as (_, served), tokenisers("engine", served.url) as made:
        assert await made.tokens_of(ENGINE, CHAT, chat(user("yes"))) is not None
        assert await made.tokens_of(ENGINE, CHAT, chat(user("no"))) is None
        assert await made.tokens_of(ENGINE, CHAT, chat(user("maybe"))) is not None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"detail": "Not Found"}', 404),
        (b'{"error": "Unauthorized"}', 401),
        (b'{"tokens": ["a"]}', 200),
        (b'{"tokens": [-1]}', 200),
        (b'{"tokens": [[1]]}', 200),
        (b'{"ids": [1]}', 200),
        (b"tokens", 200),
    ],
)
async def test_answers_that_are_no_token_ids(body: bytes, status: int) -> None:
    async with fake_engine(whole(body, status)) as odd, tokenisers("engine", odd.url, odd.url) as made:
        for text in ("a", "b"):
            assert await made.tokens_of(ENGINE, CHAT, chat(user(text))) is None
        assert len(odd.requests) == 1
        assert made.counts.fallbacks == {Reason.ENGINE: 2}


# Turn by turn.


def turns(seed: int, count: int, *, agent: bool = False) -> list[bytes]:
    """The requests of one conversation, each a turn longer than the last."""
    rng = random.Random(seed)
    messages = [{"role": "system", "content": f"system {seed} " + "be brief " * 700}]
    bodies = []
    for turn in range(count):
        if agent and turn % 3:
            calls = {"tool_calls": [call(json.dumps({"n": rng.randrange(99)}))], "reasoning": f"think {turn}"}
            messages += [assistant("", **calls), result(f"result {rng.random()}\n")]
        else:
            if messages[-1]["role"] != "system":
                messages.append(assistant(f"answer {rng.random()}", **({"reasoning": "so"} if agent else {})))
            messages.append(user(rng.choice(["question", "why\n", "wörld "]) + str(rng.random())))
        bodies.append(
            chat(*messages, **({"tools": [{"type": "function", "function": {"name": "f"}}]} if agent else {}))
        )
    return bodies


async def ask_all(made: Tokenisers, folder: Path, bodies: Sequence[bytes]) -> None:
    for body in bodies:
        given = await made.tokens_of(ENGINE, CHAT, body)
        assert given is not None
        assert given.tokens == truth(folder, CHAT, body)


@pytest.mark.parametrize("agent", [False, True])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
async def test_the_next_turn_asks_for_what_is_new(tmp_path: Path, agent: bool, engine: str) -> None:
    async with engine_of(tmp_path) as (answering, served), tokenisers("engine", served.url, engine=engine) as made:
        for seed in range(PROOFS + 1):
            await ask_all(made, tmp_path, turns(seed, 9, agent=agent))
        assert made.counts.checks >= PROOFS
        assert made.counts.failed_checks == 0
        first = len(answering.sizes)
        await ask_all(made, tmp_path, turns(99, 9, agent=agent))
        later = answering.sizes[first:]
        assert later[0] > 5000
        assert sorted(later)[-2] < 1500  # one whole answer, then only what was new
        assert made.counts.reused_prompts >= 8


async def test_a_template_that_rewrites_history_is_not_trusted(tmp_path: Path) -> None:
    async with engine_of(tmp_path, FORGETFUL) as (_, served), tokenisers("engine", served.url) as made:
        for seed in range(6):
            await ask_all(made, tmp_path, turns(seed, 9, agent=True))
        assert made.counts.failed_checks > 0  # a user's message after calls drops their reasoning
        assert made.counts.reused_prompts > 0  # while a result after a call drops nothing
        failed = made.counts.failed_checks
        for seed in range(6, 9):
            await ask_all(made, tmp_path, turns(seed, 9, agent=True))
        assert made.counts.failed_checks == failed


async def test_numbered_rounds_are_not_mistaken_for_a_plain_template(tmp_path: Path) -> None:
    rounds = (
        "{% for message in messages %}{% if message.role == 'user' %}[{{ loop.index }}]{% endif %}"
        "<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
    )
    async with engine_of(tmp_path, rounds) as (_, served), tokenisers("engine", served.url) as made:
        for seed in range(5):
            await ask_all(made, tmp_path, turns(seed, 6))


async def test_templates_that_cannot_be_staged(tmp_path: Path) -> None:
    needs_system = "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    content_last = "{% for message in messages %}{{ message.role }}: {{ message.content }}{% endfor %}"
    for name, template in (("a", needs_system), ("b", content_last)):
        async with engine_of(tmp_path / name, template) as (_, served), tokenisers("engine", served.url) as made:
            for seed in range(4):
                await ask_all(made, tmp_path / name, turns(seed, 4))
            assert made.counts.checks == made.counts.reused_prompts == 0


async def test_a_proven_pattern_is_checked_again_and_again(tmp_path: Path) -> None:
    async with engine_of(tmp_path) as (_, served), tokenisers("engine", served.url) as made:
        bodies = turns(1, PROOFS + 3 + 2 * CHECK_EVERY)
        for body in bodies:
            assert await made.tokens_of(ENGINE, CHAT, body) is not None
        first_turn, proofs, again = 1, PROOFS, 2  # the first turn's pattern is one of its own
        assert made.counts.checks == first_turn + proofs + again
        assert made.counts.failed_checks == 0


async def test_an_engine_that_renders_in_another_way_from_now_on(tmp_path: Path) -> None:
    async with engine_of(tmp_path / "a") as (engine, served), tokenisers("engine", served.url) as made:
        await ask_all(made, tmp_path / "a", turns(1, PROOFS + 4))
        changed = model_folder(tmp_path / "b", CHATML.replace("<|im_end|>", "<s><|im_end|>"))
        engine.tokeniser = Tokeniser(changed)
        reused = made.counts.reused_prompts
        await ask_all(made, changed, turns(2, 9))  # what is kept of the old rendering does not fit the new one
        assert made.counts.reused_prompts == reused
        made.forget(ENGINE)
        made.forget("tokenizer:/of/no/pool")
        await ask_all(made, changed, [*turns(1, PROOFS + 4), *turns(2, 9)])
        assert made.counts.reused_prompts > reused


async def test_a_proven_pattern_that_fails_after_all(tmp_path: Path) -> None:
    """A template that looks at what no pattern shows: the check finds it, and then nothing of that shape is built."""
    swayed = "{% set odd = messages[0].content[:8] == 'system 7' %}" + CHATML.replace(
        "{{ message['role'] }}", "{{ message['role'] }}{{ ' of old' if odd and loop.index0 < messages | length - 3 }}"
    )
    async with engine_of(tmp_path, swayed) as (_, served), tokenisers("engine", served.url) as made:
        for seed in range(3):
            await ask_all(made, tmp_path, turns(seed, 6))
        wrong = []
        for body in turns(7, 2 * CHECK_EVERY):
            given = await made.tokens_of(ENGINE, CHAT, body)
            assert given is not None
            wrong.append(given.tokens != truth(tmp_path, CHAT, body))
        assert any(wrong)
        assert made.counts.failed_checks == 1
        assert not any(wrong[CHECK_EVERY + 2 :])


async def test_short_and_branching_conversations_are_asked_for_whole(tmp_path: Path) -> None:
    async with engine_of(tmp_path) as (engine, served), tokenisers("engine", served.url) as made:
        start = [user("a"), assistant("b")]
        await ask_all(made, tmp_path, [chat(*start[:1]), chat(*start, user("c")), chat(*start, user("d"))])
        assert [len(body["messages"]) for body in engine.asked] == [1, 3, 3]


async def test_any_conversation_any_template(tmp_path: Path) -> None:
    rng = random.Random(11)
    kinds = [
        lambda: user(
            rng.choice(["hello", "why\n", " ", "<tool_response>x</tool_response>", [{"type": "text", "text": "t"}]])
        ),
        lambda: assistant(rng.choice(["", "yes", "<think>a</think>b"]), **rng.choice([{}, {"reasoning": "r"}])),
        lambda: assistant("", tool_calls=[call()], **rng.choice([{}, {"reasoning_content": "r"}])),
        lambda: result(rng.choice(["", "ok", "ok\n"])),
    ]
    for name, template in (("tools", TOOLS), ("forgetful", FORGETFUL), ("chatml", CHATML)):
        folder = tmp_path / name
        async with engine_of(folder, template) as (_, served), tokenisers("engine", served.url) as made:
            for _ in range(40):
                messages = [user("start " * 900)]
                for _ in range(8):
                    await ask_all(made, folder, [chat(*messages)])
                    messages = [*messages, *(rng.choice(kinds)() for _ in range(rng.randint(1, 3)))]
            assert made.counts.reused_prompts > 20


# What `prefixgate check` asks.


async def test_disagreements(tmp_path: Path) -> None:
    ours = model_folder(tmp_path / "ours")
    encoding = f"tokenizer:{ours}"
    async with engine_of(tmp_path / "same", CHATML) as (engine, served), tokenisers(encoding) as made:
        assert await made.disagreement(encoding, served.url, [(b"x-key", b"k")], "m") is None
        assert engine.asked[0]["model"] == "m"
        assert [message["role"] for message in engine.asked[0]["messages"]] == ["system", "user", "assistant", "user"]
    other = CHATML.replace("assistant\n", "assistant\n<think>")
    async with engine_of(tmp_path / "other", other) as (_, served), tokenisers(encoding) as made:
        said = await made.disagreement(encoding, served.url, [(b"x-key", b"k")], None)
        assert said is not None
        assert said.startswith("a sample conversation becomes ")
        assert "give the tokenizer and chat template that the engine uses" in said
    async with fake_engine(whole(b"{}", 404)) as old, tokenisers(encoding) as made:
        assert await made.disagreement(encoding, old.url, [], "m") is None
    async with tokenisers(encoding) as made:
        assert await made.disagreement(encoding, old.url, [], "m") is None  # nobody there any more


async def test_a_template_that_refuses_what_the_engine_takes(tmp_path: Path) -> None:
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    ours = model_folder(tmp_path / "ours", no_system)
    encoding = f"tokenizer:{ours}"
    for name, template, agreed in (("same", no_system, True), ("other", CHATML, False)):
        async with engine_of(tmp_path / name, template) as (_, served), tokenisers(encoding) as made:
            said = await made.disagreement(encoding, served.url, [(b"x-key", b"k")], "m")
            assert (said is None) is agreed
