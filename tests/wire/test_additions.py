import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.wire.additions import add
from gateway.wire.request import Endpoint, parse

names = st.sampled_from(["stream_options", "include_usage", "messages", "a", "", '"', "\\", "}", "stream_option"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('{}[]",:\\ \n\u00e9stream_options')),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)
options = st.none() | st.dictionaries(names, values, max_size=3)
bodies = st.builds(
    lambda body, option: body | option,
    st.dictionaries(names.filter(lambda name: name != "stream_options"), values, max_size=5),
    st.fixed_dictionaries({}, optional={"stream_options": options}),
)
fields = st.lists(st.tuples(st.sampled_from(["rid", "cache_salt", "x"]), st.text()), max_size=3)


def written(value: object, seed: random.Random) -> str:
    """JSON with random white space and escapes, members in random order."""

    def space() -> str:
        return seed.choice(["", "", " ", "\n\t", "\r "])

    if isinstance(value, dict):
        members = [f"{written(name, seed)}:{written(member, seed)}" for name, member in value.items()]
        seed.shuffle(members)
        text = "{" + (",".join(members) or space()) + "}"
    elif isinstance(value, list):
        text = "[" + (",".join(written(item, seed) for item in value) or space()) + "]"
    elif isinstance(value, str):
        odds = seed.choice([0, 0, 0.3])
        text = "".join(f"\\u{ord(c):04x}" if seed.random() < odds else json.dumps(c)[1:-1] for c in value)
        text = f'"{text}"'
    else:
        text = json.dumps(value)
    return space() + text + space()


def expected(body: dict[str, Any], include_usage: bool, added: list[tuple[str, str]]) -> dict[str, Any]:
    result = body | dict(added)
    if include_usage:
        result["stream_options"] = (body.get("stream_options") or {}) | {"include_usage": True}
    return result


def common_ends(one: bytes, other: bytes) -> int:
    """How many bytes of `one` lie in the longest common beginning and, apart from it, the longest common end."""
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    one, other = one[start:][::-1], other[start:][::-1]
    end = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return start + end


@given(bodies, st.booleans(), fields, st.integers())
@example({}, True, [("rid", "r")], 0)
@example({"stream_options": {}}, True, [], 1)
@example({"stream_options": {"include_usage": {"include_usage": False}}}, True, [], 2)
def test_only_the_additions_change(
    body: dict[str, Any], include_usage: bool, added: list[tuple[str, str]], seed: int
) -> None:
    before = written(body, random.Random(seed)).encode()
    after = add(before, include_usage=include_usage, fields=added)
    assert json.loads(after) == expected(body, include_usage, added)


@given(bodies, st.integers())
def test_every_other_byte_is_the_clients(body: dict[str, Any], seed: int) -> None:
    before = written(body, random.Random(seed)).encode()
    replaced = 0
    if "stream_options" in body:
        option = body["stream_options"]
        old = None if option is None else option.get("include_usage")
        # Whatever the value that gives way to ours, it was written here in at most this many bytes.
        replaced = len(before) if isinstance(old, str | list | dict) else len(json.dumps(old))
    assert common_ends(before, add(before, include_usage=True)) >= len(before) - replaced
    assert common_ends(before, add(before, include_usage=False, fields=[("rid", "r")])) == len(before)


def test_nothing_to_add_is_the_same_object() -> None:
    body = b' {"a" : 1} '
    assert add(body, include_usage=False) is body


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"{}", b'{"stream_options":{"include_usage":true}}'),
        (b'{ "a":1 }\n', b'{ "a":1 ,"stream_options":{"include_usage":true}}\n'),
        (b'{"stream_options" : null}', b'{"stream_options" : {"include_usage":true}}'),
        (b'{"stream_options":{ },"b":2}', b'{"stream_options":{ "include_usage":true},"b":2}'),
        (b'{"stream_options":{"x":1 }}', b'{"stream_options":{"x":1 ,"include_usage":true}}'),
        (b'{"stream_options":{"include_usage": false}}', b'{"stream_options":{"include_usage": true}}'),
        (b'{"stream_options":{"include_usage":null,"x":[]}}', b'{"stream_options":{"include_usage":true,"x":[]}}'),
        # the last of two counts
        (
            b'{"stream_options":{"a":1},"stream_options":{"include_usage":true,"include_usage":false}}',
            b'{"stream_options":{"a":1},"stream_options":{"include_usage":true,"include_usage":true}}',
        ),
        # not the top-level member
        (
            b'{"t":"\\"stream_options\\":null","o":{"stream_options":null}}',
            b'{"t":"\\"stream_options\\":null","o":{"stream_options":null},"stream_options":{"include_usage":true}}',
        ),
        (b'{"v":"stream_options","w":1}', b'{"v":"stream_options","w":1,"stream_options":{"include_usage":true}}'),
        # written with an escape
        (b'{"stream\\u005foptions":{"x":1}}', b'{"stream\\u005foptions":{"x":1,"include_usage":true}}'),
        # for the engine to refuse
        (b'{"stream_options":[]}', b'{"stream_options":[]}'),
    ],
)
def test_where_usage_is_asked_for(before: bytes, after: bytes) -> None:
    assert add(before, include_usage=True) == after


def test_fields_are_escaped_and_stand_at_the_end() -> None:
    body = b'{"messages":[{"role":"user","content":"}"}]}\n'
    after = add(body, include_usage=False, fields=[("rid", 'a"b\\'), ("cache_salt", "\u00fc")])
    assert after == b'{"messages":[{"role":"user","content":"}"}],"rid":"a\\"b\\\\","cache_salt":"\xc3\xbc"}\n'


def test_a_request_with_additions_asks_for_usage_and_is_otherwise_the_same() -> None:
    body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}'
    before = parse(Endpoint.CHAT, body)
    after = parse(Endpoint.CHAT, add(body, include_usage=True, fields=[("rid", "r")]))
    assert (before.usage_requested, before.names_request) == (False, False)
    assert (after.usage_requested, after.names_request) == (True, True)
    assert after.prompt == before.prompt
