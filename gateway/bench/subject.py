"""What a target turns out to be: asks its pages, and finds out how to prompt it; does I/O."""

import asyncio
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import httpx
import msgspec

from engines.bodies import read_model_cards
from engines.dialect import Dialect
from engines.registry import description_paths, recognise
from engines.reports import EngineDescription, LoadReport
from engines.simulated.settings import SIMULATED_HEADER
from gateway.bench.ask import Answer, AskError, Post, ask, post_of
from gateway.bench.prompts import IdPrompts, Prompt, Prompts, WordCount, WordPrompts, calibrated, sample_text
from gateway.bench.report import Row
from gateway.bench.target import Target

_MODELS: Final = "/v1/models"
_PAGE_S: Final = 60.0
"""vLLM's /server_info looks at the whole machine before it answers."""
_TRIED_TOKENS: Final = 32
_FEW_WORDS, _MANY_WORDS = 40, 400
_NOT_TAKEN: Final = frozenset((400, 404, 405, 422, 501))
"""How an engine says that it has no text completions, or that they take no token ids."""
_SOME_BLOCK_TOKENS: Final = 256
_ROUGHLY: Final = WordCount(overhead=10.0, per_word=1.2)


class _Tokens(msgspec.Struct):
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class Subject:
    """A target that answers. `dialect` None: a gateway, or an engine that no dialect knows; then it tells no load.

    `simulated` is what a simulated engine says of itself, "" for any other. `behind` is the pool that answered, where
    a gateway did.
    """

    target: Target
    model: str
    headers: Mapping[str, str]
    context_tokens: int | None
    dialect: Dialect | None
    description: EngineDescription
    prompts: Prompts
    simulated: str = ""
    behind: str = ""

    @property
    def engine(self) -> str:
        """For a table: the dialect, or the pool behind a gateway, or what the target's name says."""
        return (self.dialect.name if self.dialect else self.behind) or self.target.told_engine or "?"

    @property
    def gpus(self) -> int:
        """As told, else 1."""
        return self.target.gpus or 1

    @property
    def row(self) -> Row:
        """As a report shows it."""
        return Row(
            name=self.target.name,
            config=self.target.config,
            engine=self.engine,
            gpus=self.gpus,
            simulated=self.simulated,
            model=self.model,
            version=self.description.version,
            chunk_tokens=self.description.prefill.chunk_tokens,
        )

    @property
    def block_tokens(self) -> int:
        """As the engine says, else a size that most blocks divide."""
        return self.description.block_tokens or _SOME_BLOCK_TOKENS

    async def ask(self, client: httpx.AsyncClient, prompt: Prompt, max_tokens: int = 1) -> Answer:
        """Send a prompt. Raises AskError."""
        return await ask(client, self.prepared(prompt, max_tokens))

    def prepared(self, prompt: Prompt, max_tokens: int) -> Post:
        """The request that asks for so many tokens of output."""
        return post_of(self.target.url, self.headers, prompt, self.model, max_tokens)

    async def load(self, client: httpx.AsyncClient) -> LoadReport:
        """What the engine says of its load now; nothing where it does not say."""
        if self.dialect is None:
            return LoadReport()
        return self.dialect.read_load(await _pages(client, self.target.url, self.headers, self.dialect.load_paths))


async def find(client: httpx.AsyncClient, target: Target, rng: random.Random) -> Subject:
    """Look at a target, and send it one or a few short requests. Raises AskError."""
    headers = dict(target.headers) | _authorization(target)
    answer = await _get(client, target.url, _MODELS, headers)
    if answer is None:
        raise AskError(f"{target.name}: nothing answers at {target.url}")
    if answer.status_code != 200:
        raise AskError(f"{target.name}: {target.url}{_MODELS} answered {answer.status_code}")
    cards = read_model_cards(answer.content)
    wished = [card for card in cards if target.model is None or card.id == target.model]
    if not wished:
        served = ", ".join(card.id for card in cards) or "none that it tells"
        raise AskError(f"{target.name}: it does not serve `{target.model}`; its models: {served}")
    pages = await _pages(client, target.url, headers, description_paths())
    dialect = recognise(pages)
    subject = Subject(
        target=target,
        model=wished[0].id,
        headers=headers,
        context_tokens=wished[0].context_tokens,
        dialect=dialect,
        description=EngineDescription() if dialect is None else dialect.describe(pages),
        prompts=WordPrompts(rng, _ROUGHLY),
        simulated=answer.headers.get(SIMULATED_HEADER, ""),
    )
    prompts, first = await _prompts(client, subject, rng)
    return replace(
        subject,
        prompts=prompts,
        simulated=subject.simulated or first.headers.get(SIMULATED_HEADER, ""),
        behind=first.headers.get("x-prefixgate-pool", ""),
    )


async def find_all(client: httpx.AsyncClient, targets: list[Target], rng: random.Random) -> list[Subject]:
    """Every target that is to be run, one after the other. Raises AskError."""
    return [await find(client, target, rng) for target in targets if target.url]


async def _prompts(client: httpx.AsyncClient, subject: Subject, rng: random.Random) -> tuple[Prompts, Answer]:
    """Token ids where the target takes them, else words; and the first answer."""
    ids = await _valid_ids(client, subject, sample_text(rng))
    try:
        by_ids = IdPrompts(ids, rng)
        return by_ids, await subject.ask(client, by_ids.fresh(_TRIED_TOKENS))
    except ValueError:
        pass  # no ids to make prompts of
    except AskError as error:
        if error.status not in _NOT_TAKEN:
            raise
    rough = WordPrompts(rng, _ROUGHLY)
    counts = []
    for number in (_FEW_WORDS, _MANY_WORDS):
        answer = await subject.ask(client, Prompt(0, text=rough.words(number)))
        if answer.usage is None:
            raise AskError(f"{subject.target.name}: its answers carry no usage, so prompts cannot be counted")
        counts.append((number, answer.usage.prompt_tokens))
    try:
        return WordPrompts(rng, calibrated(*counts)), answer
    except ValueError as error:
        raise AskError(f"{subject.target.name}: {error}") from error


async def _valid_ids(client: httpx.AsyncClient, subject: Subject, text: str) -> list[int]:
    """The tokens of a text by the target's own tokeniser; [] where it has none to ask."""
    body = {"model": subject.model, "prompt": text, "add_special_tokens": False}
    try:
        answer = await client.post(
            subject.target.url + "/tokenize", json=body, headers=subject.headers, timeout=_PAGE_S
        )
        return msgspec.json.decode(answer.content, type=_Tokens).tokens if answer.status_code == 200 else []
    except (httpx.HTTPError, msgspec.MsgspecError, ValueError):
        return []


async def _pages(
    client: httpx.AsyncClient, url: str, headers: Mapping[str, str], paths: tuple[str, ...]
) -> dict[str, bytes]:
    answers = await asyncio.gather(*(_get(client, url, path, headers) for path in paths))
    return {
        path: answer.content
        for path, answer in zip(paths, answers, strict=True)
        if answer is not None and answer.status_code == 200
    }


async def _get(client: httpx.AsyncClient, url: str, path: str, headers: Mapping[str, str]) -> httpx.Response | None:
    try:
        return await client.get(url + path, headers=headers, timeout=_PAGE_S)
    except httpx.HTTPError:
        return None


def _authorization(target: Target) -> dict[str, str]:
    """Raises AskError where the variable is not set."""
    if target.api_key_env is None:
        return {}
    key = os.environ.get(target.api_key_env)
    if not key:
        raise AskError(f"{target.name}: the environment variable {target.api_key_env} is not set")
    return {"authorization": f"Bearer {key}"}
