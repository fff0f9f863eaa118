"""Request bodies become typed requests, or a 400 that says what is wrong; pure."""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from gateway.errors import GatewayError, bad_request
from gateway.wire import bodies
from gateway.wire.canonical import CanonicalPrompt
from gateway.wire.sampling import Obstacle


class Endpoint(StrEnum):
    """The inference endpoints, by path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"
    EMBEDDINGS = "/v1/embeddings"
    RERANK = "/v1/rerank"
    TOKENIZE = "/tokenize"
    DETOKENIZE = "/detokenize"

    @property
    def generates(self) -> bool:
        """Whether the engine prefills the prompt into its cache and generates from it."""
        return self in _GENERATING


_CONTINUABLE: Final = frozenset((Endpoint.CHAT, Endpoint.COMPLETIONS))
_GENERATING: Final = frozenset((Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES, Endpoint.MESSAGES))


class InferenceRequest(msgspec.Struct):
    """What routing and forwarding need of a request.

    `model` is None when the client named none. `usage_requested` is False only for a stream of chat or text
    completions that did not ask for usage: we must ask, and strip the frame. `session` is what the client
    calls its conversation or its user. `names_request`: the body carries a request id of its own. `salt` is what
    gives the prompt a cache of its own by its client's wish, `adapter` what the body names beside the model.
    `prompt` becomes None when it has been hashed: it is long, and streams are. `obstacle` is why a stream of it could
    not go on at another engine, None where it could.
    """

    endpoint: Endpoint
    model: str | None
    stream: bool
    prompt: CanonicalPrompt | None
    usage_requested: bool = True
    session: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    names_request: bool = False
    salt: str | None = None
    adapter: str | None = None
    obstacle: Obstacle | None = Obstacle.ENDPOINT


_DECODERS: Final[Mapping[Endpoint, msgspec.json.Decoder[bodies.Body]]] = {
    Endpoint.CHAT: msgspec.json.Decoder(bodies.Chat),
    Endpoint.COMPLETIONS: msgspec.json.Decoder(bodies.Completion),
    Endpoint.RESPONSES: msgspec.json.Decoder(bodies.Responses),
    Endpoint.MESSAGES: msgspec.json.Decoder(bodies.AnthropicMessages),
    Endpoint.EMBEDDINGS: msgspec.json.Decoder(bodies.Embeddings),
    Endpoint.RERANK: msgspec.json.Decoder(bodies.Rerank),
    Endpoint.TOKENIZE: msgspec.json.Decoder(bodies.Tokenize),
    Endpoint.DETOKENIZE: msgspec.json.Decoder(bodies.Body),
}

_MOST_TOKENS: Final = 2**53
_NAMELESS: Final = (None, None, None, None)
_MISSING: Final = re.compile(r"required field `(\w+)`")
_PATH: Final = re.compile(r" - at `\$\.((\w+).*)`$")


def parse(endpoint: Endpoint, body: bytes) -> InferenceRequest:
    """Read a request body. GatewayError (status 400, OpenAI's `param`) for what no engine could serve."""
    try:
        read = _decode(_DECODERS[endpoint], body)
        return InferenceRequest(
            endpoint,
            read.model,
            bool(read.stream),
            read.prompt(),
            not read.stream or _usage_requested(endpoint, read),
            _session(read),
            _text(getattr(read, "previous_response_id", None)),
            token_count(read.output_limit()),
            read.rid is not None or read.request_id is not None,
            read.salt(),
            None if read.lora_path is None else str(read.lora_path),
            read.obstacle() if read.stream and endpoint in _CONTINUABLE else Obstacle.ENDPOINT,
        )
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except RecursionError:
        raise bad_request("The request body is nested too deeply.") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise bad_request(f"The request body is not valid JSON: {error}.") from None


def token_count(value: object) -> int | None:
    """A number of tokens as it came in JSON; None for anything but a whole number of believable size."""
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else None


def _decode(decoder: msgspec.json.Decoder[bodies.Body], body: bytes) -> bodies.Body:
    """Decode, leniently: of duplicate keys only the last counts, however odd the others and all numbers are."""
    if not body.isascii():
        str(body, "utf-8")  # msgspec does not look into what it skips, but raw values become prompt text
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        tame = json.loads(body, parse_int=lambda digits: int(digits[:18]), parse_float=lambda _: 0.5)
        return decoder.decode(json.dumps(tame))


def _invalid(complaint: str) -> GatewayError:
    """msgspec's complaint in OpenAI's words, with the top-level parameter at fault."""
    path = _PATH.search(complaint)
    missing = _MISSING.search(complaint)
    if path:
        where, param = path.groups()
        return bad_request(f"Invalid '{where}': {complaint[: path.start()]}.", param=param)
    if missing:
        return bad_request(f"Missing required parameter: '{missing[1]}'.", param=missing[1])
    return bad_request(f"The request body must be a JSON object: {complaint}.")


def _usage_requested(endpoint: Endpoint, read: bodies.Body) -> bool:
    if endpoint not in (Endpoint.CHAT, Endpoint.COMPLETIONS):
        return True
    options = read.stream_options
    if isinstance(options, dict):
        return options.get("include_usage") not in (None, False)
    return options is not None  # not an object: the engine shall say so


def _session(read: bodies.Body) -> str | None:
    metadata = getattr(read, "metadata", None)
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    names = (read.session_id, read.prompt_cache_key, read.user, user)
    if names == _NAMELESS:
        return None
    return next((name for name in names if name and isinstance(name, str)), None)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
