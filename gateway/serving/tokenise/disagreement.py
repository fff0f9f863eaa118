"""Whether a replica's own /tokenize gives the token ids that a tokenizer of ours gives; does I/O."""

import struct
from typing import Any, Final

import msgspec

from gateway.serving.engine_client import EngineClient
from gateway.serving.tokenise.calls import Site, ask
from gateway.tokens.errors import InexactError
from gateway.tokens.prompt import IdsPrompt, read
from gateway.tokens.tokeniser import Tokeniser
from gateway.wire.request import Endpoint

_SAMPLE: Final = (
    {"role": "system", "content": "You are brief.  Answer in the user's language."},
    {"role": "user", "content": "Grüße! What is 12345 × 3.14?\n\n\tdef f(x): return 'x'  # 世界 🙂"},
    {"role": "assistant", "content": "It's about 38,763.3."},
    {"role": "user", "content": " Thanks, e\u0301galement \u00a0"},
)


async def disagreement(
    tokeniser: Tokeniser, engines: EngineClient, site: Site, model: str | None, limit_s: float
) -> str | None:
    """One sentence on where the two part; None if they agree, or if the replica does not tokenise chats."""
    for sample in (_SAMPLE, _SAMPLE[1:]):  # some templates refuse a system message
        fields: dict[str, Any] = {"messages": sample}
        if model is not None:
            fields["model"] = model
        body = msgspec.json.encode(fields)
        answer = await ask(engines, site, body, limit_s)
        ours = _ids(tokeniser, body)
        if answer.status == 200 and ours is not None:
            return _difference(ours, struct.unpack(f"<{len(answer.tokens) // 4}I", answer.tokens))
        if answer.status == 200:
            return "its chat template takes a sample conversation that ours refuses: give it the same model's files"
    return None


def _ids(tokeniser: Tokeniser, body: bytes) -> tuple[int, ...] | None:
    try:
        prompt = read(Endpoint.CHAT, body)
        packed = prompt.tokens if isinstance(prompt, IdsPrompt) else tokeniser.tokens(prompt)
    except InexactError:
        return None
    return struct.unpack(f"<{len(packed) // 4}I", packed)


def _difference(ours: tuple[int, ...], theirs: tuple[int, ...]) -> str | None:
    if ours == theirs:
        return None
    pairs = zip(ours, theirs, strict=False)
    place = next((at for at, (our, their) in enumerate(pairs) if our != their), min(len(ours), len(theirs)))
    found = [str(ids[place]) if place < len(ids) else "the end" for ids in (ours, theirs)]
    return (
        f"a sample conversation becomes {len(ours)} tokens here and {len(theirs)} there, which part at token {place}"
        f" ({found[0]} here, {found[1]} there): give the tokenizer and chat template that the engine uses"
    )
