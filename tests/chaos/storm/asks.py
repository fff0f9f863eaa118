"""Requests of every kind, drawn from a seed; those that should be answered are the same for every engine; pure."""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

MODEL = "m"
WORDS = [
    "cache",
    "prefix",
    "token",
    "router",
    "engine",
    "replica",
    "queue",
    "block",
    "stream",
    "batch",
    "answer",
    "window",
    "index",
    "measure",
    "layer",
]
LOOK = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
TOKENIZE = "/tokenize"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request; `refused` is the status of one that nobody could serve.

    `may_be_cut`: a stream that no other engine can go on with where the first one left it, so that an error frame
    is a fair end. `leaves_after`: its client leaves after so many bytes of the answer.
    """

    kind: str
    path: str
    body: bytes
    streams: bool = False
    refused: int | None = None
    may_be_cut: bool = False
    leaves_after: int | None = None

    @property
    def plain_body(self) -> bytes:
        """The same question without a stream."""
        body = json.loads(self.body)
        return json.dumps(
            {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
        ).encode()


class Traffic:
    """A corpus of so many different questions over a few shared prefixes, asked again and again."""

    def __init__(self, seed: int, size: int, leaving: float) -> None:
        self._rng = rng = Random(seed)
        self._leaving = leaving
        self._systems = [self._words(400) for _ in range(6)]
        kinds = {
            self._chat: 30, self._reasoning: 8, self._tools: 8, self._completion: 12, self._responses: 6,
            self._messages: 6, self._two_choices: 3, self._long: 5, self._tokenize: 3, self._mistake: 3,
        }  # fmt: skip
        makers = rng.choices(list(kinds), list(kinds.values()), k=max(size - len(kinds), 0))
        self.corpus = [make() for make in (*kinds, *makers)]

    def draw(self) -> Ask:
        """The next request."""
        rng = self._rng
        ask = rng.choice(self.corpus)
        if ask.refused is None and rng.random() < self._leaving:
            after = 0 if rng.random() < 0.3 else rng.randrange(1, 4000)
            return Ask(ask.kind, ask.path, ask.body, ask.streams, None, ask.may_be_cut, after)
        return ask

    def _words(self, count: int) -> str:
        return " ".join(self._rng.choices(WORDS, k=count))

    def _turns(self, words: int = 30) -> list[dict[str, str]]:
        turns = [{"role": "system", "content": self._rng.choice(self._systems)}]
        for _ in range(self._rng.randrange(3)):
            turns += [{"role": "user", "content": self._words(20)}, {"role": "assistant", "content": self._words(30)}]
        return [*turns, {"role": "user", "content": self._words(words)}]

    def _ask(self, kind: str, path: str, body: dict[str, Any], *, may_be_cut: bool = False) -> Ask:
        rng = self._rng
        streams = rng.random() < 0.7
        body = {"model": MODEL, **body}
        if streams:
            body["stream"] = True
            if path in (CHAT, COMPLETIONS) and rng.random() < 0.3:
                body["stream_options"] = {"include_usage": True}
        return Ask(f"{kind}, stream" if streams else kind, path, json.dumps(body).encode(), streams, None, may_be_cut)

    def _thinking(self, thinks: bool) -> dict[str, Any]:
        """Said in each request, as the engines' defaults differ."""
        return {"chat_template_kwargs": {"thinking": thinks}, "max_tokens": self._rng.randrange(20, 120)}

    def _chat(self) -> Ask:
        return self._ask("chat", CHAT, {"messages": self._turns(), **self._thinking(False)})

    def _reasoning(self) -> Ask:
        body = {"messages": self._turns(), **self._thinking(True)}
        return self._ask("reasoning", CHAT, body, may_be_cut=True)  # in the middle of a thought

    def _long(self) -> Ask:
        return self._ask("long prompt", CHAT, {"messages": self._turns(2000), **self._thinking(False)})

    def _two_choices(self) -> Ask:
        body = {"messages": self._turns(), **self._thinking(False), "n": 2}
        return self._ask("two choices", CHAT, body, may_be_cut=True)

    def _tools(self) -> Ask:
        tool = {"type": "function", "function": {"name": "look", "parameters": LOOK}}
        body = {"messages": self._turns(), **self._thinking(False), "tools": [tool], "tool_choice": "required"}
        return self._ask("tools", CHAT, body, may_be_cut=True)

    def _completion(self) -> Ask:
        prompt = self._words(60)
        prompt += "." * (-len(prompt) % 4)  # whole tokens: what follows is tokenised as if it came at once
        return self._ask("completion", COMPLETIONS, {"prompt": prompt, "max_tokens": self._rng.randrange(10, 90)})

    def _responses(self) -> Ask:
        body = {"input": self._words(60), "max_output_tokens": 40, "chat_template_kwargs": {"thinking": False}}
        return self._ask("responses", RESPONSES, {**body, "store": False}, may_be_cut=True)

    def _messages(self) -> Ask:
        body = {"messages": self._turns()[1:], "max_tokens": 40, "thinking": {"type": "disabled"}}
        return self._ask("messages", MESSAGES, body, may_be_cut=True)

    def _tokenize(self) -> Ask:
        return Ask("tokenize", TOKENIZE, json.dumps({"model": MODEL, "prompt": self._words(40)}).encode())

    def _mistake(self) -> Ask:
        no_model = {"model": "gpt-0", "messages": self._turns()}
        body, status = self._rng.choice([(b"{", 400), (json.dumps(no_model).encode(), 404)])
        return Ask("mistake", CHAT, body, refused=status)
