"""A conversation's next turn: what its tokens can be built on, and whether that has been proven; pure.

The tokens of a turn are those of the turn before it up to the end of its last message's content, and what follows
from there. Where that holds, only what follows has to be asked for. A template may break it, by dropping earlier
reasoning, say: so every *pattern* of turns is proven against whole answers before it is used, again and again.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from gateway.routing.chain import TOKEN_BYTES
from gateway.tokens.conversation import Messages
from gateway.tokens.prompt import ChatPrompt

PROOFS: Final = 2
"""Whole answers that must agree before a pattern is used."""
CHECK_EVERY: Final = 50
"""Uses of a pattern between two comparisons with a whole answer."""
MOST_NEW_MESSAGES: Final = 8
MOST_PATTERNS: Final = 512

PROBES: Final = ("Alpha", "7")
"""Contents that end in different tokens, to tell a message's content from what a template puts after it."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a template's treatment of a turn may depend on, as far as templates are known to look.

    That is: the shape of the request; what kinds of messages lie before the last user message of the known part,
    and after it; whether that is the first one; the known part's last message; and each new message.
    """

    shape: str
    before: frozenset[str]
    since: frozenset[str]
    first: bool
    last: str
    new: tuple[str, ...]


def pattern_of(prompt: ChatPrompt, known: int) -> Pattern | None:
    """The pattern of a prompt whose first `known` messages were a prompt too; None for one that is not followed."""
    messages = prompt.messages
    last, new = messages[known - 1], messages[known:]
    if last["role"] not in ("user", "tool") or not isinstance(last.get("content"), (str, list)):
        return None
    if not prompt.add_generation_prompt or prompt.continue_final_message or len(new) > MOST_NEW_MESSAGES:
        return None
    users = [place for place, message in enumerate(messages[:known]) if message["role"] == "user"]
    turn = users[-1] if users else 0
    return Pattern(
        shape=prompt.shape,
        before=frozenset(map(_kind, messages[:turn])),
        since=frozenset(map(_kind, messages[turn : known - 1])),
        first=len(users) < 2,
        last=_kind(last),
        new=tuple(map(_kind, new)),
    )


def _kind(message: dict[str, Any]) -> str:
    """A message's role and the traits that templates look at."""
    content = message.get("content")
    traits = [str(message["role"])]
    if isinstance(content, list):
        traits.append("parts")
    elif not content:
        traits.append("empty")
    elif content.startswith("<") or "</think>" in content:  # a tool's response or reasoning inside the content
        traits.append("tagged")
    if message.get("tool_calls"):
        traits.append("calls")
    if message.get("reasoning") or message.get("reasoning_content"):
        traits.append("reasoning")
    if message.get("name"):
        traits.append("name")
    return "+".join(traits)


def stage(prompt: ChatPrompt, role: str, content: str) -> Messages:
    """A short conversation that ends with a message of this role ("user" or "tool") and content."""
    if role == "user":
        return [{"role": "user", "content": content}]
    name = prompt.tools[0]["function"]["name"] if prompt.tools else "f"
    call = {"id": "call00001", "type": "function", "function": {"name": name, "arguments": "{}"}}
    return [
        {"role": "user", "content": PROBES[0]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "content": content},
    ]


def after_content(one: bytes, other: bytes) -> bytes:
    """What two packed prompts that differ in their last content have after it: their longest common end."""
    length = 0
    while (
        length < min(len(one), len(other))
        and one[-length - TOKEN_BYTES : len(one) - length] == (other[-length - TOKEN_BYTES : len(other) - length])
    ):
        length += TOKEN_BYTES
    return one[len(one) - length :]


def extended(known: bytes, staged: bytes, staged_with_new: bytes, ending: bytes) -> bytes | None:
    """The tokens of a turn, from those of the turn before; None where the pieces do not fit.

    `ending` follows the last content in `known` and in `staged`; at least its first token must go on following it
    when there are new messages, so that the content's own tokens have the same neighbour and stay the same.
    """
    stem = staged[: len(staged) - len(ending)]
    following = staged_with_new[len(stem) :]
    fits = staged_with_new.startswith(stem) and known.endswith(ending) and len(ending) >= TOKEN_BYTES
    if not fits or following[:TOKEN_BYTES] != ending[:TOKEN_BYTES]:
        return None
    return known[: len(known) - len(ending)] + following


@dataclass(slots=True)
class _Record:
    agreed: int = 0
    uses: int = 0
    failed: bool = False


class Proofs:
    """Which patterns have been proven. Bounded; what is forgotten is proven anew."""

    def __init__(self) -> None:
        self._records: OrderedDict[Pattern, _Record] = OrderedDict()
        self._failed_shapes: set[str] = set()

    def refuted(self, pattern: Pattern) -> bool:
        """Whether it is not worth trying: it failed, or its shape turned out to hide what matters."""
        record = self._records.get(pattern)
        return pattern.shape in self._failed_shapes or (record is not None and record.failed)

    def usable(self, pattern: Pattern) -> bool:
        """Whether to use a turn of this pattern unchecked, this time; counts the use."""
        record = self._record(pattern)
        if record.failed or record.agreed < PROOFS:
            return False
        record.uses += 1
        return record.uses % CHECK_EVERY != 0

    def note(self, pattern: Pattern, *, agreed: bool) -> bool:
        """A comparison with a whole answer. True if it refutes what had been proven before."""
        record = self._record(pattern)
        if agreed:
            record.agreed += 1
            return False
        surprising = record.agreed >= PROOFS
        record.failed = True
        if surprising:
            self._failed_shapes.add(pattern.shape)  # shapes are few: this stays small
        return surprising

    def _record(self, pattern: Pattern) -> _Record:
        record = self._records.setdefault(pattern, _Record())
        self._records.move_to_end(pattern)
        if len(self._records) > MOST_PATTERNS:
            self._records.popitem(last=False)
        return record
