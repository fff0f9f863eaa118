"""Piecewise encoding is whole encoding, with every make of tokenizer, and what was encoded is not encoded again."""

import re
import struct
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folders import MAKES, SPECIALS, tokenizer
from tokenizers import AddedToken, Tokenizer

from gateway.tokens.cutting import Cutter
from gateway.tokens.encoder import PARALLEL_CHARACTERS, Encoder
from gateway.tokens.errors import InexactError, Reason
from gateway.tokens.memo import Memo

PIECES = [
    *SPECIALS,
    "<think>",
    "</think>",
    "<|both|>",
    "<|r7|>",
    "<|r7",
    "answer",
    "hello",
    "wörld",
    "<|im_start|>user",
]
TEXTS = st.lists(
    st.one_of(st.sampled_from(PIECES), st.sampled_from([" ", "  ", "\n", "\t\n "]), st.text(max_size=12)), max_size=14
).map("".join)


@cache
def plain(make: str) -> Tokenizer:
    made = tokenizer(make)
    made.no_truncation()
    made.no_padding()
    return made


@cache
def encoder(make: str) -> Encoder:
    return Encoder(tokenizer(make), Memo())


def ids(packed: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(packed) // 4}I", packed))


@pytest.mark.parametrize("make", MAKES)
@settings(max_examples=150)
@given(text=TEXTS, special=st.booleans())
def test_piecewise_is_whole(make: str, text: str, special: bool) -> None:
    whole = plain(make).encode(text, add_special_tokens=special).ids
    assert ids(encoder(make).encode(text, special=special)) == whole
    assert ids(encoder(make).encode(text, special=special)) == whole  # this time from the memo


@pytest.mark.parametrize("make", MAKES)
def test_texts_large_enough_for_all_cores(make: str) -> None:
    text = "<|im_start|>user\nhello wörld 1234567 世界 answer<|im_end|>\n<think> x </think>" * 300
    assert len(text) > PARALLEL_CHARACTERS
    assert ids(encoder(make).encode(text)) == plain(make).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("make", MAKES)
def test_all_makes_are_cut(make: str) -> None:
    assert encoder(make).cuts


@given(TEXTS)
def test_pieces_are_cut_before_plain_tokens_and_nowhere_else(text: str) -> None:
    tokens = list(plain("stripping").get_added_tokens_decoder().values())
    pieces = Cutter(tokens).pieces(text)
    assert "".join(pieces) == text
    assert "" not in pieces
    assert all(piece.startswith(tuple(SPECIALS)) for piece in pieces[1:])
    assert all(not any(special in piece[1:] for special in SPECIALS) for piece in pieces)


def test_longer_tokens_win_and_tokens_that_look_around_forbid_cuts() -> None:
    def token(content: str, **flags: bool) -> AddedToken:
        return AddedToken(content, normalized=False, **{"special": True, **flags})

    nested = [token("<a>"), token("<a>b"), token("<a>bc", special=False), token("<ad>")]
    assert Cutter(nested).pieces("x<a>x<a>bx<a>bcx<ad>") == ["x", "<a>x", "<a>bx<a>bcx", "<ad>"]
    assert Cutter([token("<a>"), token("w", single_word=True)]).pieces("x<a>x") == ["x<a>x"]
    assert Cutter([token("<a>"), token("w", rstrip=True)]).pieces("x<a>xw x") == ["x", "<a>xw x"]
    assert Cutter([AddedToken("<a>", special=True, normalized=True)]).pieces("x<a>x") == ["x<a>x"]
    assert Cutter([]).pieces("") == []


def test_many_special_tokens_do_not_slow_the_search() -> None:
    words = [f"<|reserved_special_token_{number}|>" for number in range(1000)]
    cutter = Cutter([AddedToken(word, special=True, normalized=False) for word in words])
    text = "".join(f"<|x{word}<" for word in words)
    assert cutter.pieces(text * 20)[1:3] == [f"{words[0]}<<|x", f"{words[1]}<<|x"]


def test_cuts_that_change_results_are_noticed_when_loading() -> None:
    wrong = Cutter([AddedToken("l", special=True, normalized=False)])
    made = Encoder(tokenizer(), Memo(), cutter=wrong)
    assert not made.cuts
    text = "hello<|im_end|> world"
    assert ids(made.encode(text)) == plain("byte-level").encode(text, add_special_tokens=False).ids
    begun = made.begin(text)
    assert (begun.known_bytes, begun.unknown_bytes) == (len(text), 0)


def test_tokens_that_are_not_to_be_found_in_texts() -> None:
    split = tokenizer()
    split.encode_special_tokens = True
    made = Encoder(split, Memo())
    assert ids(made.encode("a<|im_end|>b")) == split.encode("a<|im_end|>b", add_special_tokens=False).ids
    assert 2 not in ids(made.encode("a<|im_end|>b"))


FRAMES = {
    "byte-level": ([], []),
    "metaspace-first": ([3], []),
    "prepending": ([3], [2]),
    "word-pieces": ([3], [2]),
}


@pytest.mark.parametrize(("make", "frame"), FRAMES.items())
def test_what_goes_around_a_prompt(make: str, frame: tuple[list[int], list[int]]) -> None:
    before, after = frame
    bare = ids(encoder(make).encode("hello world"))
    assert ids(encoder(make).encode("hello world", special=True)) == before + bare + after


def test_a_prompt_that_is_repeated_between_its_special_tokens() -> None:
    from tokenizers.processors import TemplateProcessing

    odd = tokenizer()
    odd.post_processor = TemplateProcessing(single="<s> $A <s> $A", special_tokens=[("<s>", 3)])
    made = Encoder(odd, Memo())
    for _ in range(2):
        assert ids(made.encode("hello", special=True)) == odd.encode("hello").ids
        assert ids(made.encode("hello")) == odd.encode("hello", add_special_tokens=False).ids


def test_only_what_is_new_is_encoded() -> None:
    made = Encoder(tokenizer(), Memo())
    turn = "<|im_start|>user\nhello world " + "x" * 500 + "<|im_end|>\n"
    begun = made.begin(turn * 3)
    assert (begun.known_bytes, begun.unknown_bytes) == (0, 3 * len(turn))
    assert len(begun.unknown) == 2
    begun.finish()
    begun = made.begin(turn * 5 + "<|im_start|>assistant\n")
    assert begun.unknown_bytes == len("<|im_start|>assistant\n")


def test_what_another_encoding_did_meanwhile() -> None:
    made = Encoder(tokenizer(), Memo())
    first, second = made.begin("hello<|im_end|>"), made.begin("hello<|im_end|>")
    result = first.finish()
    second.look_again()
    assert not second.unknown
    assert second.finish() == result


def test_tokenizers_share_a_memo_without_sharing_entries() -> None:
    memo = Memo()
    one = Encoder(tokenizer("byte-level"), memo, name="one")
    other = Encoder(tokenizer("many-tokens"), memo, name="other")
    text = "hello wörld 1234567"
    assert ids(one.encode(text)) == plain("byte-level").encode(text, add_special_tokens=False).ids
    assert ids(other.encode(text)) == plain("many-tokens").encode(text, add_special_tokens=False).ids


def test_a_memo_too_small_to_keep_anything() -> None:
    made = Encoder(tokenizer(), Memo(limit_bytes=10))
    assert ids(made.encode("hello<|im_end|>")) == plain("byte-level").encode("hello<|im_end|>").ids
    assert made.memo.size_bytes == 0


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(InexactError) as refusal:
        encoder("byte-level").encode("a\ud83d")
    assert refusal.value.reason is Reason.MALFORMED


def test_threads() -> None:
    made = Encoder(tokenizer(), Memo(limit_bytes=20_000))
    texts = [f"<|im_start|>user\nquestion {number % 7} {'hello ' * number}<|im_end|>\n" for number in range(60)]
    expected = [plain("byte-level").encode(text, add_special_tokens=False).ids for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert [ids(packed) for packed in pool.map(made.encode, texts)] == expected


def test_the_pattern_holds_for_tokens_of_any_characters() -> None:
    words = ["(", "a|b", "[", "\\", "^$", "\n|", "é", "é́", "a"]
    cutter = Cutter([AddedToken(word, special=True, normalized=False) for word in words])
    for word in words:
        if word == word.strip():
            assert cutter.pieces(f"x{word}x") == ["x", f"{word}x"], re.escape(word)
