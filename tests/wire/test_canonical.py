import json
import random
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gateway.wire.canonical import CanonicalPrompt, digest, pack_ids
from gateway.wire.request import Endpoint, parse

Fields = dict[str, Any]

# Few letters, so that random conversations often nearly collide; the frame bytes' code points are among them.
words = st.text(st.sampled_from("abÿþü{\"'\\\n"), max_size=3)
roles = st.sampled_from(["user", "assistant", "u", ""])
images = st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": words})})
texts = st.fixed_dictionaries({"type": st.just("text"), "text": words})
results = st.fixed_dictionaries(
    {
        "type": st.just("tool_result"),
        "tool_use_id": words,
        "content": words | st.lists(texts | images, min_size=2, max_size=3),
    }
)
# Lists of one text are left out here: they mean the same as the text itself.
contents = words | st.lists(texts | images | results, min_size=2, max_size=3) | st.none()
calls = st.lists(st.fixed_dictionaries({"id": words}), min_size=1, max_size=2)
messages = st.fixed_dictionaries(
    {"role": roles, "content": contents},
    optional={"tool_calls": calls, "name": words, "tool_call_id": words, "reasoning": words},
)
chats = st.fixed_dictionaries(
    {"messages": st.lists(messages, min_size=1, max_size=4)},
    optional={
        "model": words,
        "tools": st.lists(st.fixed_dictionaries({"name": words}), min_size=1, max_size=2),
        "cache_salt": words,
        "reasoning_effort": st.sampled_from(["low", "high"]),
        "chat_template_kwargs": st.dictionaries(words, st.booleans(), min_size=1, max_size=2),
    },
)


def prompt(endpoint: Endpoint, fields: Fields) -> CanonicalPrompt:
    return parse(endpoint, json.dumps(fields).encode()).prompt


def chat(*turns: Fields, **fields: Any) -> CanonicalPrompt:
    return prompt(Endpoint.CHAT, {"model": "m", "messages": list(turns), **fields})


def user(content: object) -> Fields:
    return {"role": "user", "content": content}


def meaning(body: Fields) -> Fields:
    """Without what is meant to make no difference: a null says no more than nothing."""
    kept = [{k: v for k, v in message.items() if v is not None} for message in body["messages"]]
    return body | {"messages": kept}


def rewritten(value: object, seed: random.Random) -> str:
    """The same JSON with other white space, escapes and key order."""

    def space() -> str:
        return seed.choice(["", " ", "\n\t", "\r "])

    if isinstance(value, dict):
        members = [f"{rewritten(k, seed)}{space()}:{rewritten(v, seed)}" for k, v in value.items()]
        seed.shuffle(members)
        text = "{" + ",".join(members) + space() + "}"
    elif isinstance(value, list):
        text = "[" + ",".join(rewritten(item, seed) for item in value) + space() + "]"
    elif isinstance(value, str):
        plain = (json.dumps(letter, ensure_ascii=False)[1:-1] for letter in value)
        text = (
            '"'
            + "".join(p if seed.random() < 0.5 else f"\\u{ord(c):04x}" for p, c in zip(plain, value, strict=True))
            + '"'
        )
    else:
        text = json.dumps(value)
    return space() + text + space()


@given(chats, st.lists(messages, min_size=1, max_size=3))
def test_a_conversation_is_a_prefix_of_its_continuation(body: Fields, more: list[Fields]) -> None:
    before = prompt(Endpoint.CHAT, body)
    after = prompt(Endpoint.CHAT, body | {"messages": body["messages"] + more})
    assert after.namespace == before.namespace
    assert after.text.startswith(before.text)
    assert len(after.text) > len(before.text)


@given(st.lists(st.dictionaries(st.sampled_from(["type", "role", "content", "id", "output"]), words), min_size=1))
def test_so_are_responses_items_and_anthropic_turns(items: list[Fields]) -> None:
    shared = {"instructions": "i", "tools": [{"type": "function"}]}
    whole = prompt(Endpoint.RESPONSES, shared | {"input": items}).text
    assert whole.startswith(prompt(Endpoint.RESPONSES, shared | {"input": items[:-1]}).text)
    turns = [{"role": "user", **item} for item in items]
    whole = prompt(Endpoint.MESSAGES, {"system": "s", "messages": [user("a"), *turns]}).text
    assert whole.startswith(prompt(Endpoint.MESSAGES, {"system": "s", "messages": [user("a"), *turns[:-1]]}).text)


@given(chats, chats)
@example({"messages": [user("a"), user("b")]}, {"messages": [user("aÿuserþb")]})
@example({"messages": [user(["a", "b"])]}, {"messages": [user("aûb")]})
@example({"model": "ab", "messages": [user("")]}, {"model": "a", "cache_salt": "b", "messages": [user("")]})
def test_different_conversations_differ(one: Fields, other: Fields) -> None:
    assume(meaning(one) != meaning(other))
    assert prompt(Endpoint.CHAT, one) != prompt(Endpoint.CHAT, other)


@given(chats, st.integers())
def test_the_way_json_is_written_makes_no_difference(body: Fields, seed: int) -> None:
    for raw in ("tools", "tool_calls"):  # those stay as given
        body.pop(raw, None)
        for message in body["messages"]:
            message.pop(raw, None)
    again = rewritten(body, random.Random(seed))
    assert parse(Endpoint.CHAT, again.encode()).prompt == prompt(Endpoint.CHAT, body)


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_a_text_part_equals_its_text(kind: str) -> None:
    assert chat(user([{"type": kind, "text": "a"}])) == chat(user("a")) == chat(user(["a"]))
    assert chat(user([{"type": kind, "text": "a", "cache_control": {"type": "ephemeral"}}])) == chat(user("a"))


def test_tools_stay_as_given_and_come_first() -> None:
    body = b'{"messages":[{"role":"user","content":"x"}],"tools": [ {"b":1, "a":"\\u0041"} ]}'
    text = parse(Endpoint.CHAT, body).prompt.text
    assert b'[ {"b":1, "a":"\\u0041"} ]' in text
    assert text.index(b"tools") < text.index(b"user")
    assert chat(user("x"), tools=[]) == chat(user("x"), tools=None) == chat(user("x"))


def test_reasoning_has_two_names() -> None:
    turn = {"role": "assistant", "content": "c"}
    assert chat(turn | {"reasoning": "r"}) == chat(turn | {"reasoning_content": "r"}) != chat(turn)


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (Endpoint.CHAT, {"model": "n"}),
        (Endpoint.CHAT, {"cache_salt": "s"}),
        (Endpoint.CHAT, {"extra_key": ["k"]}),
        (Endpoint.CHAT, {"lora_path": "l"}),
        (Endpoint.CHAT, {"chat_template": "{{ x }}"}),
        (Endpoint.CHAT, {"chat_template_kwargs": {"thinking": False}}),
        (Endpoint.CHAT, {"reasoning_effort": "low"}),
        (Endpoint.RESPONSES, {"reasoning": {"effort": "low"}}),
        (Endpoint.MESSAGES, {"thinking": {"type": "disabled"}}),
        (Endpoint.MESSAGES, {"output_config": {"effort": "low"}}),
    ],
)
def test_what_makes_caches_disjoint_is_in_the_namespace(endpoint: Endpoint, fields: Fields) -> None:
    body = {"model": "m", "messages": [user("x")], "input": "x"}
    plain, marked = prompt(endpoint, body), prompt(endpoint, body | fields)
    assert plain.text == marked.text
    assert plain.namespace != marked.namespace
    assert prompt(endpoint, body | dict.fromkeys(fields)) == plain or "model" in fields


def test_namespaces_are_unambiguous() -> None:
    salts: list[object] = ["s", ["s"], {"s": 1}, 1, "1", True, "true", "", "m", "\\u00ff", None]
    assert len({chat(user("x"), cache_salt=salt).namespace for salt in salts}) == len(salts)
    assert chat(user("x"), cache_salt="s") != chat(user("x"), extra_key="s")
    assert chat(user("x"), chat_template_kwargs={}) == chat(user("x"))


def test_a_budget_of_thinking_shares_the_cache_of_another() -> None:
    one = {"messages": [user("x")], "thinking": {"type": "enabled", "budget_tokens": 1024}}
    other = {"messages": [user("x")], "thinking": {"type": "enabled", "budget_tokens": 9}}
    assert prompt(Endpoint.MESSAGES, one) == prompt(Endpoint.MESSAGES, other)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5_000_000}},
        {"type": "input_image", "image_url": "https://x/y.png"},
        {"type": "input_audio", "input_audio": {"data": "A" * 1000, "format": "wav"}},
        {"type": "image", "source": {"type": "base64", "data": "A" * 1000}},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "hologram", "text": 5},
    ],
)
def test_media_count_by_a_digest(part: Fields) -> None:
    text = chat(user([{"type": "text", "text": "see"}, part])).text
    assert len(text) < 100
    assert digest(part) in text
    assert len(digest(part)) == 32
    assert chat(user([{"type": "text", "text": "see"}, part | {"detail": "low"}])).text != text
    assert chat(user(["see", part | {"cache_control": {"type": "ephemeral"}}])).text == text


def test_other_endpoints_render_a_chat_alike() -> None:
    turns = [user("q"), {"role": "assistant", "content": "a"}]
    base = chat({"role": "system", "content": "s"}, *turns)
    assert prompt(Endpoint.MESSAGES, {"model": "m", "system": "s", "messages": turns}) == base
    assert prompt(Endpoint.RESPONSES, {"model": "m", "instructions": "s", "input": turns}) == base
    assert prompt(Endpoint.TOKENIZE, {"model": "m", "messages": [{"role": "system", "content": "s"}, *turns]}) == base
    assert prompt(Endpoint.EMBEDDINGS, {"model": "m", "messages": turns}) == chat(*turns)
    assert prompt(Endpoint.RESPONSES, {"model": "m", "input": "q"}) == chat(user("q"))
    assert prompt(Endpoint.MESSAGES, {"model": "m", "system": "", "messages": turns}) == chat(*turns)


def test_claude_codes_billing_block_is_no_part_of_the_prompt() -> None:
    def claude(billing: str) -> CanonicalPrompt:
        system = [{"type": "text", "text": billing}, {"type": "text", "text": "You are."}]
        return prompt(Endpoint.MESSAGES, {"system": system, "messages": [user("x")]})

    assert claude("x-anthropic-billing-header: cch=1;") == claude("x-anthropic-billing-header: cch=2;")
    assert claude("one") != claude("other")


def test_anthropic_blocks_keep_their_text() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hmm", "signature": "AAAA"},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"b": 1, "a": [2]}},
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "found"}], "is_error": False},
    ]
    text = prompt(Endpoint.MESSAGES, {"messages": [user(blocks)]}).text
    assert all(piece in text for piece in (b"hmm", b"t1", b"look", b'{"a":[2],"b":1}', b"found"))
    assert b"AAAA" not in text


def test_responses_items() -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": '{"a":1}'}
    output = {"type": "function_call_output", "call_id": "c1", "output": "found"}
    reasoning = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "hmm"}]}
    reference = {"type": "item_reference", "id": "it_1"}
    items = [user([{"type": "input_text", "text": "q"}]), reasoning, call, output, reference]
    text = prompt(Endpoint.RESPONSES, {"input": items}).text
    assert all(piece in text for piece in (b"q", b"hmm", b'{"a":1}', b"found", digest(reference)))
    assert b"fc_1" not in text
    other = [*items[:-1], reference | {"id": "it_2"}]
    assert prompt(Endpoint.RESPONSES, {"input": other}).text != text


def test_blocks_close() -> None:
    def results(*contents: list[str]) -> CanonicalPrompt:
        return chat(user([{"type": "tool_result", "content": content} for content in contents]))

    assert results(["a", "b"], ["c"]) != results(["a"], ["b", "c"])
    inner = {"type": "tool_result", "content": ["a", "b"]}
    assert chat(user([inner, "c"])) != chat(user([inner | {"content": ["a"]}, "b", "c"]))


def test_text_prompts() -> None:
    assert prompt(Endpoint.COMPLETIONS, {"prompt": "añ"}).text == "añ".encode()
    assert prompt(Endpoint.COMPLETIONS, {"prompt": ["a"]}) == prompt(Endpoint.COMPLETIONS, {"prompt": "a"})
    lists = [["a", "b"], ["ab"], ["ab", ""], ["", "ab"], []]
    assert len({prompt(Endpoint.COMPLETIONS, {"prompt": texts}).text for texts in lists}) == len(lists)
    embeds = [prompt(Endpoint.COMPLETIONS, {"prompt_embeds": value}) for value in ("QUJD", ["QUJE"])]
    assert embeds[0] != embeds[1]


def test_token_prompts_are_packed() -> None:
    packed = prompt(Endpoint.COMPLETIONS, {"prompt": [1, 258, 2**32 - 2]})
    assert packed.text == b"\x01\0\0\0\x02\x01\0\0\xfe\xff\xff\xff"
    assert prompt(Endpoint.COMPLETIONS, {"prompt": [[1, 258, 2**32 - 2]]}) == packed
    assert packed.namespace != prompt(Endpoint.COMPLETIONS, {"prompt": "abcd"}).namespace


@given(st.lists(st.lists(st.integers(0, 2) | st.integers(2**32 - 3, 2**32 - 2), max_size=3), max_size=3))
def test_token_prompts_are_told_apart(prompts: list[list[int]]) -> None:
    packed = pack_ids(prompts)
    numbers = [int.from_bytes(packed[i : i + 4], "little") for i in range(0, len(packed), 4)]
    unpacked: list[list[int]] = [[]]
    for number in numbers:
        if number == 2**32 - 1:
            unpacked.append([])
        else:
            unpacked[-1].append(number)
    assert unpacked == (prompts or [[]])


def test_rerank_and_embeddings() -> None:
    pairs: list[tuple[str, object]] = [("a", ["b"]), ("a", ["b", "c"]), ("a", [{"text": "b"}]), ("ab", ["b"])]
    texts = {prompt(Endpoint.RERANK, {"query": query, "documents": found}).text for query, found in pairs}
    assert len(texts) == len(pairs)
    assert prompt(Endpoint.EMBEDDINGS, {"input": ["a", {"text": "x"}]}).text.startswith(b"a")
    assert prompt(Endpoint.EMBEDDINGS, {"input": [7]}).text == b"\x07\0\0\0"
    assert prompt(Endpoint.DETOKENIZE, {"tokens": [1, 2]}).text == b""


@pytest.mark.parametrize("kind", [[], {}, [["text"]], 1, None, True])
def test_a_part_of_no_kind_counts_by_a_digest(kind: object) -> None:
    one, other = ({"type": kind, "text": text} for text in "ab")
    assert chat(user([one])) == chat(user([dict(one)])) != chat(user([other]))
