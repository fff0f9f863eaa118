"""A request's prefix chains: of its text always, of its tokens where a pool counts in tokens; does I/O."""

import msgspec

from gateway.routing.chain import ChainForm, PrefixChain, chain, token_chain
from gateway.serving.tokenise.tokenisers import TokenisedPrompt, Tokenisers
from gateway.wire.request import InferenceRequest


class Chains(msgspec.Struct, frozen=True):
    """What routing looks a prompt up by."""

    text: PrefixChain = PrefixChain()
    tokens: tuple[PrefixChain, ...] = ()


def text_chain(request: InferenceRequest, block_bytes: int) -> PrefixChain:
    """The chain of the prompt's text."""
    prompt, salted = request.prompt, request.salt is not None
    return PrefixChain() if prompt is None else chain(prompt.namespace, prompt.text, block_bytes, salted=salted)


async def token_chains(
    request: InferenceRequest, body: bytes, forms: set[ChainForm], tokenisers: Tokenisers, adapters: set[str]
) -> tuple[PrefixChain, ...]:
    """A chain in each of the forms for which the prompt's tokens can be told exactly."""
    chains = []
    told: dict[str, TokenisedPrompt | None] = {}
    adapter = request.adapter or (request.model if request.model in adapters else None)
    for form in forms:
        if form.encoding not in told:
            told[form.encoding] = await tokenisers.tokens_of(form.encoding, request.endpoint, body)
        prompt = told[form.encoding]
        if prompt is not None:
            chains.append(token_chain(form, prompt.tokens, adapter=adapter, salt=request.salt, shape=prompt.shape))
    return tuple(chains)
