import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import GatewayError, Origin
from gateway.wire.request import Endpoint, InferenceRequest, parse

HI = [{"role": "user", "content": "hi"}]
EVERY_FIELD = {"model": "m", "messages": HI, "prompt": "hi", "input": "hi", "query": "q", "documents": ["d"]}

plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
known_names = st.sampled_from(
    [
        *("model", "stream", "messages", "prompt", "input", "system", "tools", "instructions", "reasoning"),
        *("stream_options", "user", "metadata", "max_tokens", "role", "content", "type", "text", "documents"),
        *("tool_calls", "chat_template_kwargs", "thinking", "query", "cache_salt", "rid", "prompt_embeds"),
    ]
)
bodies = st.recursive(
    plain_json,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(known_names, inner, max_size=6),
    max_leaves=20,
)


def chat(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": HI, **fields}).encode()


def refusal(endpoint: Endpoint, body: bytes) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        parse(endpoint, body)
    assert caught.value.status == 400
    assert caught.value.origin is Origin.CLIENT
    assert not caught.value.retryable
    return caught.value


def parsed(endpoint: Endpoint, body: bytes) -> InferenceRequest | None:
    """The request, or None for a refusal; anything but a 400 is raised."""
    try:
        return parse(endpoint, body)
    except GatewayError as error:
        if error.status != 400:
            raise
        return None


def test_reads_what_routing_needs() -> None:
    request = parse(
        Endpoint.CHAT,
        chat(stream=True, user="u", max_tokens=5, max_completion_tokens=7, rid="r", temperature=0.1),
    )
    assert request.endpoint is Endpoint.CHAT
    assert request.model == "m"
    assert request.stream
    assert not request.usage_requested
    assert request.session == "u"
    assert request.max_output_tokens == 7
    assert request.names_request
    assert request.previous_response_id is None


@pytest.mark.parametrize("endpoint", Endpoint)
def test_every_endpoint_accepts_a_plain_body_without_a_model(endpoint: Endpoint) -> None:
    body = {name: value for name, value in EVERY_FIELD.items() if name != "model"}
    request = parse(endpoint, json.dumps(body).encode())
    assert request.model is None
    assert not request.stream
    assert (request.prompt.text == b"") == (endpoint is Endpoint.DETOKENIZE)


@pytest.mark.parametrize(
    ("options", "requested"),
    [
        ({}, False),
        ({"stream_options": None}, False),
        ({"stream_options": {}}, False),
        ({"stream_options": {"include_usage": False}}, False),
        ({"stream_options": {"include_usage": None, "continuous_usage_stats": True}}, False),
        ({"stream_options": {"include_usage": True}}, True),
        ({"stream_options": "nonsense that the engine shall refuse"}, True),
    ],
)
def test_usage_is_requested(options: dict[str, object], requested: bool) -> None:
    assert parse(Endpoint.CHAT, chat(stream=True, **options)).usage_requested is requested
    assert parse(Endpoint.CHAT, chat(stream=False, **options)).usage_requested
    streamed = json.dumps(EVERY_FIELD | {"stream": True} | options).encode()
    assert parse(Endpoint.COMPLETIONS, streamed).usage_requested is requested
    assert parse(Endpoint.RESPONSES, streamed).usage_requested
    assert parse(Endpoint.MESSAGES, streamed).usage_requested


@pytest.mark.parametrize(
    ("fields", "session"),
    [
        ({"session_id": "s", "prompt_cache_key": "k", "user": "u"}, "s"),
        ({"session_id": 5, "prompt_cache_key": "k", "user": "u"}, "k"),
        ({"session_id": "", "user": "u", "metadata": {"user_id": "a"}}, "u"),
        ({"metadata": {"user_id": "a"}}, "a"),
        ({"metadata": {"user_id": 7}}, None),
        ({"metadata": "x"}, None),
    ],
)
def test_session(fields: dict[str, object], session: str | None) -> None:
    assert parse(Endpoint.MESSAGES, chat(**fields)).session == session


def test_metadata_is_anthropics_alone() -> None:
    assert parse(Endpoint.CHAT, chat(metadata={"user_id": "a"})).session is None


@pytest.mark.parametrize(
    ("value", "tokens"),
    [(0, 0), (16, 16), (-1, None), (1.5, None), (True, None), ("9", None), (10**400, None), ([], None)],
)
def test_output_limit(value: object, tokens: int | None) -> None:
    assert parse(Endpoint.CHAT, chat(max_tokens=value)).max_output_tokens == tokens
    assert parse(Endpoint.MESSAGES, chat(max_tokens=value)).max_output_tokens == tokens
    body = json.dumps({"input": "x", "max_output_tokens": value, "max_tokens": 3}).encode()
    assert parse(Endpoint.RESPONSES, body).max_output_tokens == tokens


def test_previous_response() -> None:
    assert parse(Endpoint.RESPONSES, b'{"input":"x","previous_response_id":"r1"}').previous_response_id == "r1"
    assert parse(Endpoint.RESPONSES, b'{"input":"x","previous_response_id":null}').previous_response_id is None
    assert parse(Endpoint.CHAT, chat(previous_response_id="r1")).previous_response_id is None


@pytest.mark.parametrize(
    "body",
    [
        b' {"messages":[{"role":"user","content":null}],"stream":null,"model":null} \n',
        '{"messages":[{"role":"user","content":"\u2028 \U0001f600 e\u0301"}]}'.encode(),
        b'{"messages":[{"role":"user","content":"\\ud83d\\ude00 \\u0000"}]}',
        b'{"messages":[{"role":"user"}],"seed":1' + b"0" * 6000 + b',"temperature":1e999,"n":{},"stop":[1,null]}',
        b'{"messages":[{"role":"user"}],"user":1e999,"cache_salt":1' + b"0" * 6000 + b"}",
        b'{"model":1,"messages":3,"model":"m","messages":[{"role":7,"role":"user"}],"stream":"x","stream":true}',
        b'{"messages":[{"role":"user","content":["a",{"type":"text"},{"type":5},{"text":"x"},{}]}]}',
        b'{"messages":[{"role":"assistant","tool_calls":[{"id":1}],"function_call":null,"name":{},"reasoning":[]}]}',
        b'{"messages":[{"role":"user","content":[{"type":"text","text":{"a":1}}]}],"tools":"?","tool_choice":4}',
    ],
)
def test_odd_but_servable_chats_are_accepted(body: bytes) -> None:
    assert isinstance(parse(Endpoint.CHAT, body), InferenceRequest)


def test_the_last_of_duplicate_keys_counts() -> None:
    twice = b'{"model":"a","messages":[{"role":"user","content":"no"}],"model":"b","messages":%b}'
    request = parse(Endpoint.CHAT, twice % json.dumps(HI).encode())
    assert request == parse(Endpoint.CHAT, chat(model="b"))
    wrong_first = parse(Endpoint.CHAT, b'{"model":1,"stream":"?","stream":false,' + chat(model="b")[1:])
    assert wrong_first == request


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        (Endpoint.CHAT, b"", None),
        (Endpoint.CHAT, b"{", None),
        (Endpoint.CHAT, b"[]", None),
        (Endpoint.CHAT, b'"text"', None),
        (Endpoint.CHAT, b'{"messages":[{"role":"user"}]} x', None),
        (Endpoint.CHAT, b'{"messages":[{"role":"user"}],"top_p":NaN}', None),
        (Endpoint.CHAT, b'{"model":7,"messages":[{"role":"user"}],"top_p":NaN}', "model"),
        (Endpoint.CHAT, b'{"messages":[{"role":"user","content":"\\ud800"}]}', None),
        (Endpoint.CHAT, b'{"messages":[{"role":"user"}],"skipped":"\\udc00x"}', None),
        (Endpoint.CHAT, b'{"messages":[{"role":"user","content":"\xff"}]}', None),
        (Endpoint.CHAT, b'{"messages":[{"role":"user","tool_calls":["\xff\xfe"]}]}', None),
        (Endpoint.CHAT, b'{"model":"m"}', "messages"),
        (Endpoint.CHAT, b'{"messages":null}', "messages"),
        (Endpoint.CHAT, b'{"messages":[]}', "messages"),
        (Endpoint.CHAT, b'{"messages":{}}', "messages"),
        (Endpoint.CHAT, b'{"messages":["hi"]}', "messages"),
        (Endpoint.CHAT, b'{"messages":[{"content":"hi"}]}', "messages"),
        (Endpoint.CHAT, b'{"messages":[{"role":null}]}', "messages"),
        (Endpoint.CHAT, b'{"messages":[{"role":"user","content":5}]}', "messages"),
        (Endpoint.CHAT, b'{"messages":[{"role":"user","content":true}]}', "messages"),
        (Endpoint.CHAT, b'{"messages":[{"role":"user","content":{}}]}', "messages"),
        (Endpoint.CHAT, b'{"messages":[{"role":"user","content":[5]}]}', "messages"),
        (Endpoint.CHAT, b'{"model":["m"],"messages":[{"role":"user"}]}', "model"),
        (Endpoint.CHAT, b'{"stream":1,"messages":[{"role":"user"}]}', "stream"),
        (Endpoint.CHAT, b'{"stream":"true","messages":[{"role":"user"}]}', "stream"),
        (Endpoint.MESSAGES, b'{"system":5,"messages":[{"role":"user"}]}', "system"),
        (Endpoint.MESSAGES, b'{"messages":[]}', "messages"),
        (Endpoint.COMPLETIONS, b'{"model":"m"}', "prompt"),
        (Endpoint.COMPLETIONS, b'{"prompt":7}', "prompt"),
        (Endpoint.COMPLETIONS, b'{"prompt":[1,"a"]}', "prompt"),
        (Endpoint.COMPLETIONS, b'{"prompt":[1,[2]]}', "prompt"),
        (Endpoint.COMPLETIONS, b'{"prompt":[1.5]}', "prompt"),
        (Endpoint.COMPLETIONS, b'{"prompt":[true]}', "prompt"),
        (Endpoint.COMPLETIONS, b'{"prompt":[-1]}', "prompt"),
        (Endpoint.COMPLETIONS, b'{"prompt":[4294967296]}', "prompt"),
        (Endpoint.COMPLETIONS, b'{"prompt":[[1],[4294967295]]}', "prompt"),
        (Endpoint.RESPONSES, b'{"model":"m"}', "input"),
        (Endpoint.RESPONSES, b'{"input":null}', "input"),
        (Endpoint.RESPONSES, b'{"input":[3]}', "input"),
        (Endpoint.EMBEDDINGS, b'{"model":"m"}', "input"),
        (Endpoint.TOKENIZE, b"{}", "prompt"),
        (Endpoint.RERANK, b'{"documents":["a"]}', "query"),
        (Endpoint.RERANK, b'{"query":"a"}', "documents"),
    ],
)
def test_what_no_engine_could_serve_is_refused(endpoint: Endpoint, body: bytes, param: str | None) -> None:
    error = refusal(endpoint, body)
    assert error.param == param
    assert param is None or f"'{param}" in error.message


@pytest.mark.parametrize(
    "body", [b'{"x":%b}', b'{"messages":%b}', b'{"model":7,"x":%b}', b'{"messages":[{"role":"u","tools":%b}]}']
)
def test_deep_nesting_is_refused(body: bytes) -> None:
    error = refusal(Endpoint.CHAT, body % (b"[" * 100_000 + b"]" * 100_000))
    assert error.message == "The request body is nested too deeply."


@given(st.integers(min_value=900, max_value=1000))
def test_nesting_near_the_limit_parses_or_is_refused(depth: int) -> None:
    nested = chat(chat_template_kwargs={"a": 1}).replace(b"1", b"[" * depth + b"]" * depth)
    request = parsed(Endpoint.CHAT, nested)
    assert request is None or request.prompt.namespace != parse(Endpoint.CHAT, chat()).prompt.namespace


def test_a_refusal_says_where() -> None:
    error = refusal(Endpoint.CHAT, b'{"messages":[{"role":"user"},{"role":"user","content":5}]}')
    assert error.message == "Invalid 'messages[1].content': Expected `str | array | null`, got `int`."
    assert error.type == "invalid_request_error"
    assert refusal(Endpoint.CHAT, b"{}").message == "Missing required parameter: 'messages'."


@given(st.sampled_from(Endpoint), st.binary(max_size=200))
@example(Endpoint.CHAT, b"\xef\xbb\xbf{}")
@example(Endpoint.CHAT, '{"messages":[{"role":"user"}]}'.encode("utf-16"))
def test_any_bytes_parse_or_are_refused(endpoint: Endpoint, body: bytes) -> None:
    request = parsed(endpoint, body)
    assert request is None or request.endpoint is endpoint


@given(st.sampled_from(Endpoint), bodies, st.booleans())
def test_any_json_parses_or_is_refused(endpoint: Endpoint, body: object, ascii_only: bool) -> None:
    if isinstance(body, dict):
        body = EVERY_FIELD | body
    request = parsed(endpoint, json.dumps(body, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))
    if request is not None:
        assert isinstance(body, dict)
        assert request.model == body["model"]
        assert request.stream is (body.get("stream") is True)


@given(st.binary(min_size=1, max_size=3), st.integers(min_value=0))
def test_a_damaged_body_parses_or_is_refused(damage: bytes, where: int) -> None:
    body = chat(tools=[{"type": "function"}], stream=True, user="ü", stream_options={"include_usage": True})
    at = where % len(body)
    request = parsed(Endpoint.CHAT, body[:at] + damage + body[at + 1 :])
    assert request is None or request.endpoint is Endpoint.CHAT
