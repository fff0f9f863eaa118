"""Token ids by the engines' own /tokenize, asked for no more than is new; does I/O."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.serving.engine_client import EngineClient
from gateway.serving.tokenise.calls import Fields, Form, Site, ask, body_of
from gateway.serving.tokenise.counts import TokenCounts
from gateway.serving.tokenise.turns import PROBES, Pattern, Proofs, after_content, extended, pattern_of, stage
from gateway.tokens.conversation import Messages
from gateway.tokens.errors import InexactError, Reason
from gateway.tokens.memo import Memo
from gateway.tokens.prompt import ChatPrompt, TextPrompt

Sites = Callable[[], Sequence[Site]]

WORTH_BYTES: Final = 4096
"""Known messages shorter than this are asked for again: the detour would take as long."""
ABSENT_S: Final = 60.0
"""How long a pool that has no such endpoint, or not for chats, is not asked again."""
DOWN_S: Final = 5.0
"""How long a pool whose replicas did not answer in time is not asked again."""
_LOOK_BACK: Final = 16
_TRIES: Final = 2


class EngineTokens:
    """One pool's tokens. Its memo is by content, so it holds for every replica of the pool."""

    def __init__(
        self,
        name: str,
        form: Form,
        engines: EngineClient,
        sites: Sites,
        *,
        memo: Memo,
        counts: TokenCounts,
        clock: Callable[[], float],
        limit_s: float,
        worth_bytes: int = WORTH_BYTES,
    ) -> None:
        self._name = name.encode()
        self._form = form
        self._engines = engines
        self._sites = sites
        self._memo = memo
        self._counts = counts
        self._clock = clock
        self._limit_s = limit_s
        self._worth_bytes = worth_bytes
        self._proofs = Proofs()
        self._generation = 0
        """Part of every key: what was built on a pattern that failed is not found again."""
        self._not_before = 0.0
        self._no_chat_before = 0.0
        self._chats_answered = False
        self._running: dict[bytes, asyncio.Task[bytes]] = {}

    async def tokens(self, prompt: ChatPrompt | TextPrompt) -> bytes:
        """The prompt's ids as 4-byte little endian. InexactError if no engine tells them."""
        asked = self._asked(prompt)
        key = asked.keys[-1]
        known = self._memo.get(key)
        if known is not None:
            self._counts.reused_prompts += 1
            return known
        task = self._running.get(key)
        if task is None:  # whoever asks the same meanwhile waits for this one answer, and none of them can end it
            task = asyncio.get_running_loop().create_task(self._find(asked))
            self._running[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        done, _ = await asyncio.wait({task}, timeout=_TRIES * self._limit_s)
        if not done:  # it goes on: its answer serves the next request
            raise InexactError(Reason.SLOW)
        return task.result()

    def forget(self) -> None:
        """Ask anew for everything: the replicas may render in another way from now on."""
        self._generation += 1
        self._proofs = Proofs()
        self._not_before = self._no_chat_before = 0.0
        self._chats_answered = False

    def close(self) -> None:
        """Ask nothing more."""
        for task in self._running.values():
            task.cancel()

    def _asked(self, prompt: ChatPrompt | TextPrompt) -> "_Asked":
        if isinstance(prompt, TextPrompt):
            fields = self._form.text(prompt)
            return _Asked(None, fields, [], [self._key(b"text", msgspec.json.encode(fields))], [])
        fields, messages = self._form.chat(prompt), self._form.messages(prompt.messages)
        encoded = [msgspec.json.encode(message) for message in messages]
        keys = [self._key(b"chat", msgspec.json.encode(fields))]
        for message in encoded:
            keys.append(self._key(keys[-1], message))
        return _Asked(prompt, fields, messages, keys, [len(message) for message in encoded])

    def _key(self, before: bytes, content: bytes) -> bytes:
        return self._memo.key(b"%b\0%d\0%b\0%b" % (self._name, self._generation, before, content))

    async def _find(self, asked: "_Asked") -> bytes:
        generation = self._generation
        tokens = await self._by_turn(asked)
        if tokens is None:
            tokens = await self._call(asked.fields, asked.messages if asked.prompt else None)
        if generation == self._generation:
            self._memo.put(asked.keys[-1], tokens)
        return tokens

    async def _by_turn(self, asked: "_Asked") -> bytes | None:
        """Built on the turn before, where its pattern is proven; a pattern's first and every 50th use is checked."""
        base = self._base(asked)
        if base is None or asked.prompt is None:
            return None
        count, known, pattern = base
        if self._proofs.usable(pattern):
            built = await self._built(asked, count, known)
            self._counts.reused_prompts += built is not None
            return built
        built, whole = await asyncio.gather(self._built(asked, count, known), self._call(asked.fields, asked.messages))
        if built is not None:
            self._counts.checks += 1
            self._counts.failed_checks += built != whole
            if self._proofs.note(pattern, agreed=built == whole):
                self._generation += 1
        return whole

    def _base(self, asked: "_Asked") -> tuple[int, bytes, Pattern] | None:
        """The longest known beginning worth building on: its number of messages, its tokens, the pattern."""
        if asked.prompt is None:
            return None
        total = len(asked.messages)
        for count in range(total - 1, max(0, total - 1 - _LOOK_BACK), -1):
            if (known := self._memo.get(asked.keys[count])) is not None:
                new_bytes = sum(asked.sizes[count:])
                pattern = pattern_of(asked.prompt, count)
                if sum(asked.sizes[:count]) < max(self._worth_bytes, new_bytes) or pattern is None:
                    return None
                return None if self._proofs.refuted(pattern) else (count, known, pattern)
        return None

    async def _built(self, asked: "_Asked", count: int, known: bytes) -> bytes | None:
        """The turn's tokens by one call for what is new (and two short ones, once); None if the parts do not fit."""
        prompt = asked.prompt
        role = asked.messages[count - 1]["role"]
        if prompt is None:
            return None
        first, second = (stage(prompt, role, content) for content in PROBES)
        try:
            one, other, more = await asyncio.gather(
                self._staged(asked, first),
                self._staged(asked, second),
                self._call(asked.fields, [*first, *asked.messages[count:]]),
            )
        except InexactError:
            return None  # a template may refuse so short a conversation
        return extended(known, one, more, after_content(one, other))

    async def _staged(self, asked: "_Asked", messages: Messages) -> bytes:
        key = self._key(asked.keys[0] + b"stage", msgspec.json.encode(messages))
        known = self._memo.get(key)
        if known is None:
            known = await self._call(asked.fields, messages)
            self._memo.put(key, known)
        return known

    async def _call(self, fields: Fields, messages: Messages | None) -> bytes:
        """Ask a replica, and if it does not answer, another one. InexactError if neither tells."""
        now = self._clock()
        if now < self._not_before or (messages is not None and now < self._no_chat_before):
            raise InexactError(Reason.ENGINE)
        body = body_of(fields, messages)
        sites = self._sites()[:_TRIES]
        for site in sites:
            answer = await ask(self._engines, site, body, self._limit_s)
            if answer.status == 200:
                self._counts.engine_calls += 1
                self._chats_answered |= messages is not None
                return answer.tokens
            if 400 <= answer.status < 500 or answer.status == 501:
                self._refused(answer.status, chat=messages is not None)
                raise InexactError(Reason.ENGINE)
        if sites:
            self._not_before = self._clock() + DOWN_S
        raise InexactError(Reason.ENGINE)

    def _refused(self, status: int, *, chat: bool) -> None:
        """An endpoint that is absent, or closed to us, is left alone for a while.

        So are chats where none was ever answered: older engines tokenise texts only. Else it is this one request.
        """
        if status in (401, 403, 404, 405, 501):
            self._not_before = self._clock() + ABSENT_S
        elif chat and not self._chats_answered:
            self._no_chat_before = self._clock() + ABSENT_S

    def _ended(self, key: bytes, task: asyncio.Task[bytes]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have


@dataclass(frozen=True, slots=True)
class _Asked:
    """A prompt as the engine is asked for it.

    `keys[i]` stands for the other fields and the first `i` messages, the last one for all; `sizes` are the
    messages' in bytes.
    """

    prompt: ChatPrompt | None
    fields: Fields
    messages: Messages
    keys: list[bytes]
    sizes: list[int]
