"""The journal's format: what is written is read again, Mooncake's traces are read, and every mistake is named."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.reports import Usage
from gateway.journal.entry import Entry
from gateway.journal.lines import (
    FleetPool,
    JournalError,
    JournalHeader,
    JournalLine,
    encode,
    read_journal,
)
from gateway.journal.salt import Salt
from gateway.routing.chain import ChainForm, PrefixChain, chain, token_chain
from gateway.routing.decision import RouteRequest
from gateway.routing.facts import Finished, Outcome, Refused

MOONCAKE = (
    b'{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, '
    b"12, 13]}\n",
    b'{"timestamp": 3000, "input_length": 1024, "output_length": 3, "hash_ids": [0, 14]}\n',
)
SECRET = b"a secret of good length"
TEXT = bytes(range(256)) * 60
TOKENS = b"".join(number.to_bytes(4, "little") for number in range(4000))
counts = st.integers(0, 2**53)
times = st.floats(0, 1e12).map(lambda ms: round(ms, 3))
names = st.text(max_size=20)
lines = st.builds(
    JournalLine,
    timestamp=times,
    input_length=counts,
    output_length=counts,
    hash_ids=st.lists(st.integers(0, 2**63 - 1), max_size=5).map(tuple),
    block_tokens=st.floats(0, 1e9, exclude_min=True),
    tenant=names,
    session=st.none() | names,
    model=names,
    endpoint=names,
    streams=st.booleans(),
    policy=names,
    pool=names,
    replica=names,
    outcome=st.sampled_from(list(Outcome)).map(str),
    attempts=counts,
    predicted_cached=st.none() | counts,
    available_cached=st.none() | counts,
    cached=st.none() | counts,
    predicted_ttft_ms=st.none() | times,
    ttft_ms=st.none() | times,
    wait_ms=st.none() | times,
    routed_ms=st.none() | times,
    e2e_ms=st.none() | times,
)
pools = st.builds(
    FleetPool,
    pool=names,
    engine=names,
    replicas=st.lists(names, max_size=3).map(tuple),
    model=st.none() | names,
    kv_tokens=st.lists(st.none() | counts, max_size=3).map(tuple),
    chunk_tokens=st.none() | counts,
    block_tokens=st.none() | counts,
)
headers = st.builds(
    JournalHeader,
    prefixgate_journal=st.just(1),
    started_at=st.integers(0, 2**32),
    salt_id=st.just("0123"),
    fleet=st.lists(pools, max_size=2).map(tuple),
)


def header(started_at: float = 1000.0, salt_id: str = "s") -> bytes:
    return encode(JournalHeader(1, started_at, salt_id))


def line(**more: Any) -> bytes:
    return json.dumps({"timestamp": 5, "input_length": 1, "output_length": 1, "hash_ids": [], **more}).encode() + b"\n"


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


@given(headers, st.lists(lines, max_size=4))
def test_what_is_written_is_read_again(first: JournalHeader, written: list[JournalLine]) -> None:
    texts = [encode(first), *map(encode, written)]
    assert all(text.endswith(b"\n") and text.count(b"\n") == 1 for text in texts)
    read = read_journal(texts)
    assert read.headers == (first,)
    assert read.lines == tuple(sorted(written, key=lambda one: one.timestamp))
    assert read.fleet == first.fleet
    assert read.notes == ()


@given(st.lists(lines, min_size=1, max_size=3), st.data())
def test_a_line_that_broke_off_is_left_out_with_a_note(written: list[JournalLine], data: st.DataObject) -> None:
    """Also where the gateway started again after it: a header follows then."""
    whole = header() + b"".join(map(encode, written))
    last = len(encode(written[-1]))
    torn = whole[: -data.draw(st.integers(2, last - 1))]
    for text, headers_read in ((torn, 1), (torn + b"\n" + header(), 2)):
        read = read_journal(text.splitlines(keepends=True))
        assert len(read.lines) == len(written) - 1
        assert len(read.headers) == headers_read
        [note] = read.notes
        assert note.startswith(f"line {len(written) + 1}: not valid JSON")


def test_a_mooncake_trace() -> None:
    read = read_journal(MOONCAKE)
    assert (read.headers, read.fleet, read.notes) == ((), (), ())
    first, second = read.lines
    assert (first.timestamp, first.input_length, first.output_length) == (0, 6758, 500)
    assert (first.block_tokens, first.outcome, first.session) == (512, "completed", None)
    assert first.hash_ids == tuple(range(14))
    assert first.full_ids == tuple(range(13))
    assert second.full_ids == second.hash_ids == (0, 14)


def test_parts_are_placed_on_one_clock_in_order_of_arrival() -> None:
    """Files may be given in any order, the rotated ones last."""
    read = read_journal([header(2000), line(timestamp=1), header(1000), line(timestamp=7), line(timestamp=3)])
    assert [one.timestamp for one in read.lines] == [3, 7, 1_000_001]
    assert read.notes == ()


def test_parts_under_different_salts_are_pointed_out() -> None:
    [note] = read_journal([header(salt_id="a"), header(salt_id="b")]).notes
    assert "salt" in note


def test_the_fleet_is_that_of_the_last_header_that_knows_one() -> None:
    fleets = [(FleetPool("p", "vllm", ("p-0",)),), (FleetPool("q", "sglang", ()),), ()]
    read = read_journal([encode(JournalHeader(1, 0, "s", fleet)) for fleet in fleets])
    assert read.fleet == fleets[1]


def test_blank_lines_and_unknown_fields_do_no_harm() -> None:
    assert len(read_journal([b"\n", line(later="new"), b"  \r\n"]).lines) == 1


MISTAKES: dict[str, tuple[bytes, str]] = {
    "not JSON, and more follows": (b"{]\n" + line(), "line 2: not valid JSON"),
    "not UTF-8, and more follows": (b'{"timestamp": "\xff"}\n' + line(), "line 2: "),
    "a list": (b"[]\n", "line 2: Expected `object`"),
    "no length": (b'{"timestamp": 1}\n', "line 2: Object missing required field `input_length`"),
    "a negative time": (line(timestamp=-1), "line 2: `timestamp`: Expected `float` >= 0"),
    "a negative length": (line(input_length=-1), "line 2: `input_length`: Expected `int` >= 0"),
    "a negative id": (line(hash_ids=[1, -1]), "line 2: `hash_ids[1]`: Expected `int` >= 0"),
    "an id of 64 bits": (line(hash_ids=[2**63]), "line 2: `hash_ids[0]`"),
    "a block of nothing": (line(block_tokens=0), "line 2: `block_tokens`: Expected `float` > 0"),
    "a text for a number": (line(output_length="3"), "line 2: `output_length`: Expected `int`, got `str`"),
    "a part of a token": (line(input_length=1.5), "line 2: `input_length`: Expected `int`, got `float`"),
    "another version": (header().replace(b"1", b"2", 1), "line 2: the journal has version 2"),
    "a header without its start": (b'{"prefixgate_journal": 1}\n', "line 2: Object missing"),
}


@pytest.mark.parametrize(("text", "complaint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_every_mistake_is_named_with_its_line(text: bytes, complaint: str) -> None:
    with pytest.raises(JournalError) as raised:
        read_journal([header(), *text.splitlines(keepends=True)])
    assert str(raised.value).startswith(complaint)
    assert "\n" not in str(raised.value)
    assert "$" not in str(raised.value)


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_bytes_are_read_or_refused(text: list[bytes]) -> None:
    with suppress(JournalError):
        read_journal(text)


# ── salting ──────────────────────────────────────────────────────────────────────────────────────

links = st.lists(st.integers(0, 2**64 - 1), max_size=8)


@given(links)
def test_ids_are_the_links_under_a_salt(chained: list[int]) -> None:
    salt, other = Salt(SECRET), Salt(SECRET + b"!")
    ids = salt.ids(b"text", chained)
    assert ids == Salt(SECRET).ids(b"text", chained)
    assert len(ids) == len(chained)
    assert all(0 <= one < 2**63 for one in ids)
    for elsewhere in (other.ids(b"text", chained), salt.ids(b"tokens", chained), salt.ids(b"text ", chained)):
        assert not set(ids) & set(elsewhere)
    assert not set(ids) & {form for link in chained for form in (link, link >> 1, link & (2**63 - 1)) if form > 2**32}


@given(st.text(max_size=20))
def test_names_are_hashes(name: str) -> None:
    salt = Salt(SECRET)
    assert salt.name("tenant", name) == Salt(SECRET).name("tenant", name)
    assert salt.name("tenant", name) != salt.name("session", name)
    assert salt.name("tenant", name) != Salt(b"other").name("tenant", name)
    assert len(salt.name("tenant", name)) == 16


def test_the_salts_id_tells_salts_apart_and_is_not_the_salt() -> None:
    assert Salt(SECRET).id == Salt(SECRET).id != Salt(b"other").id
    assert Salt(SECRET).id not in (SECRET.hex(), SECRET.decode())


def test_half_of_a_character_is_a_name_too() -> None:
    assert Salt(SECRET).name("session", "\ud800")


# ── from a request to its line ───────────────────────────────────────────────────────────────────


def entry(text: PrefixChain, *tokens: PrefixChain, usage: Usage | None = None) -> Entry:
    made = Entry("/v1/chat/completions", "key-1", accepted_at=10.0)
    made.request = RouteRequest("r", "m", text, streams=True, accepted_at=10.0, token_chains=tokens, session="s")
    made.end = Finished(1, 12.5, Outcome.COMPLETED, usage) if usage else Refused(12.5, "", Outcome.REJECTED)
    return made


def written(made: Entry, secret: bytes = SECRET) -> JournalLine:
    return made.draft(origin=9.0).salted(Salt(secret))


@pytest.mark.parametrize(("block_bytes", "id_bytes"), [(256, 1024), (64, 1024), (100, 1000), (600, 1200), (4096, 4096)])
def test_an_id_covers_about_256_tokens_of_text(block_bytes: int, id_bytes: int) -> None:
    length = 10 * 1024 + 500
    one = written(entry(chain(b"m", TEXT[:length], block_bytes), usage=Usage(5000)))
    assert len(one.hash_ids) == length // id_bytes
    assert one.block_tokens == pytest.approx(id_bytes * 5000 / length)
    assert one.full_ids == one.hash_ids
    assert (one.timestamp, one.e2e_ms) == (1000, 2500)


@pytest.mark.parametrize(("block", "id_tokens"), [(16, 256), (48, 240), (256, 256), (1024, 1024)])
def test_an_id_covers_about_256_tokens(block: int, id_tokens: int) -> None:
    form = ChainForm(block, "tokenizer:x")
    one = written(entry(chain(b"m", TEXT), token_chain(form, TOKENS), usage=Usage(4000)))
    assert len(one.hash_ids) == 4000 // id_tokens
    assert one.block_tokens == id_tokens
    assert one.full_ids == one.hash_ids


def test_of_several_chains_of_tokens_the_finest_counts_in_any_order() -> None:
    chains = [token_chain(ChainForm(block, name), TOKENS) for block, name in ((64, "b"), (16, "c"), (16, "b"))]
    text = chain(b"m", TEXT)
    alone = written(entry(text, chains[2]))
    assert written(entry(text, *chains)) == written(entry(text, *reversed(chains))) == alone
    assert written(entry(text, chains[0])).hash_ids != alone.hash_ids


@given(st.integers(0, len(TEXT)), st.binary(max_size=3000), st.binary(max_size=3000), st.sampled_from([64, 256, 512]))
def test_ids_are_equal_exactly_as_far_as_prompts_are(common: int, one: bytes, other: bytes, block: int) -> None:
    first, second = TEXT[:common] + b"<" + one, TEXT[:common] + b">" + other
    ids = written(entry(chain(b"m", first, block))).hash_ids
    others = written(entry(chain(b"m", second, block))).hash_ids
    shared = common // 1024
    assert ids[:shared] == others[:shared]
    assert not set(ids[shared:]) & set(others[shared:])
    assert not set(ids) & set(written(entry(chain(b"m", first, block)), b"another").hash_ids)


def test_the_same_links_of_text_and_of_tokens_differ() -> None:
    chained = tuple(range(1, 65))
    text = PrefixChain(chained, 64 * 16, ChainForm(16))
    tokens = PrefixChain(chained, 64 * 16, ChainForm(16, "tokenizer:x"))
    assert not set(written(entry(text)).hash_ids) & set(written(entry(PrefixChain(), tokens)).hash_ids)


def test_models_share_no_ids_even_of_equal_tokens() -> None:
    tokens = token_chain(ChainForm(16, "tokenizer:x"), TOKENS)
    one, other = entry(PrefixChain(), tokens), entry(PrefixChain(), tokens)
    one.end, other.end = Refused(1.0, "a", Outcome.REJECTED), Refused(1.0, "b", Outcome.REJECTED)
    assert not set(written(one).hash_ids) & set(written(other).hash_ids)


def test_a_request_of_which_nothing_is_known() -> None:
    made = Entry("/v1/rerank", "anonymous", accepted_at=1.0, end=Refused(1.5, "", Outcome.CLIENT_GONE))
    one = written(made)
    assert (one.hash_ids, one.input_length, one.output_length, one.attempts) == ((), 0, 0, 0)
    assert (one.outcome, one.model, one.session, one.cached, one.predicted_cached) == (
        "client_gone",
        "",
        None,
        None,
        None,
    )
    assert read_journal([encode(one)]).lines == (one,)


def test_a_request_that_goes_on_has_no_line() -> None:
    with pytest.raises(ValueError, match="not ended"):
        Entry("/v1/rerank", "anonymous", accepted_at=1.0).draft(0.0)


@given(st.integers(0, 2**53), st.integers(0, 4000))
def test_whatever_an_engine_counts_the_line_can_be_read(prompt_tokens: int, length: int) -> None:
    one = written(entry(chain(b"m", TEXT[:length], 16), usage=Usage(prompt_tokens)))
    assert read_journal([encode(one)]).lines == (one,)
    assert prompt_tokens == 0 or one.full_ids == one.hash_ids


def test_a_draft_keeps_no_more_than_its_links() -> None:
    made = entry(PrefixChain(), token_chain(ChainForm(16, "tokenizer:x"), TOKENS))
    draft = made.draft(0.0)
    assert len(draft.links) == 15
    assert not msgspec.json.encode(draft.line).count(b"key-1")
    assert draft.line.hash_ids == ()
