"""The journal: one line for each request, whatever becomes of it; nothing secret in it; and no request waits for it."""

import asyncio
import errno
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from fake_engine import (
    COMPLETION,
    DONE,
    fake_engine,
    frame,
    held_stream,
    in_turn,
    reset,
    response,
    silence,
    stream,
    usage_frame,
    whole,
)
from gateways import admin, chat, chat_bytes, gateway_of, gateway_over, openai_error, outcomes, post, retries, until
from model_folders import model_folder
from processes import prefixgate
from raw_client import post_head, raw_client

from gateway.cli import run as run_command
from gateway.config import Config, ConfigError, build
from gateway.journal.entry import Entry
from gateway.journal.lines import JournalLine, JournalText, read_journal
from gateway.journal.salt import Salt
from gateway.routing.facts import Outcome, Refused
from gateway.serving import journal as journal_module
from gateway.serving.gateway import Gateway
from gateway.serving.journal import Journal, open_journal
from gateway.serving.rotating_file import RotatingFile
from gateway.serving.server import RunningGateway
from gateway.wire.request import Endpoint, parse

SALT = "a salt of sixteen letters or more"
WORDS = "the quick brown fox jumps over the lazy dog "
LONG = "".join(f"{WORDS}{number} " for number in range(200))
"""About 9,500 bytes."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


@pytest.fixture
def _salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_SALT", SALT)


salted = pytest.mark.usefixtures("_salt")


def read(path: Path) -> JournalText:
    return read_journal(path.read_bytes().splitlines(keepends=True))


def written(run: RunningGateway) -> int:
    assert run.gateway.journal is not None
    return run.gateway.journal.counts["written"]


# ── one line for each request ────────────────────────────────────────────────────────────────────


async def test_a_completed_stream(path: Path) -> None:
    answers = stream(frame("one"), frame("two"), usage_frame(2500, 1024), DONE)
    before = time.time()
    async with fake_engine(answers) as engine, gateway_over(engine.url, journal={"path": str(path)}) as run:
        answer = await post(run, chat(LONG, stream=True), headers={"x-session-id": "s"})
        assert answer.status_code == 200
        await until(lambda: written(run) == 1)  # soon, not only at the end
        assert len(read(path).lines) == 1
    journal = read(path)
    [header], [line] = journal.headers, journal.lines
    assert before <= header.started_at + line.timestamp / 1000 <= time.time()
    assert (line.input_length, line.output_length, line.cached) == (2500, 2, 1024)
    assert (line.pool, line.replica, line.model, line.policy) == ("p", "p-0", "m", "ttft")
    assert (line.endpoint, line.streams, line.outcome, line.attempts) == (
        "/v1/chat/completions", True, "completed", 1,
    )  # fmt: skip
    assert (line.predicted_cached, line.available_cached, line.wait_ms) == (0, 0, 0)
    assert len(line.hash_ids) == len(line.full_ids) == 9
    assert line.block_tokens == pytest.approx(256, rel=0.2)
    assert line.predicted_ttft_ms is not None
    assert line.predicted_ttft_ms > 0
    assert line.routed_ms is not None
    assert line.ttft_ms is not None
    assert line.e2e_ms is not None
    assert 0 <= line.routed_ms <= line.ttft_ms <= line.e2e_ms


async def test_a_plain_answer(path: Path) -> None:
    async with fake_engine() as engine, gateway_over(engine.url, journal={"path": str(path)}) as run:
        await post(run, chat())
    [line] = read(path).lines
    assert (line.input_length, line.output_length, line.cached) == (9, 1, 4)
    assert (line.streams, line.ttft_ms, line.outcome, line.hash_ids) == (False, None, "completed", ())
    assert line.session is None


async def test_what_the_second_turn_expects(path: Path) -> None:
    async with fake_engine() as engine, gateway_over(engine.url, journal={"path": str(path)}) as run:
        for _ in range(2):
            await post(run, chat(LONG))
    first, second = read(path).lines
    assert first.hash_ids == second.hash_ids
    assert second.predicted_cached is not None
    assert second.predicted_cached > 0
    assert second.available_cached == second.predicted_cached


async def test_an_engine_that_counts_nothing(path: Path) -> None:
    """The input is then as long as the decision took it to be, the output as many frames as came."""
    answers = stream(frame("one"), frame("two"), DONE)
    async with fake_engine(answers) as engine, gateway_over(engine.url, journal={"path": str(path)}) as run:
        await post(run, chat(LONG, stream=True))
    [line] = read(path).lines
    assert line.input_length == pytest.approx(len(LONG) / 4, rel=0.05)
    assert (line.output_length, line.cached, line.outcome) == (2, None, "completed")


async def test_an_embedding(path: Path) -> None:
    async with fake_engine() as engine, gateway_over(engine.url, journal={"path": str(path)}) as run:
        await post(run, {"model": "m", "input": LONG}, "/v1/embeddings")
    [line] = read(path).lines
    assert (line.endpoint, line.outcome, line.hash_ids) == ("/v1/embeddings", "completed", ())


async def test_another_replica_took_over(path: Path) -> None:
    tables: dict[str, Any] = {"routing": {"policy": "round-robin"}, "journal": {"path": str(path)}}
    async with (
        fake_engine(reset()) as first,
        fake_engine() as second,
        gateway_over(first.url, second.url, **tables) as run,
    ):
        for _ in range(2):
            assert (await post(run, chat())).status_code == 200
        lost = retries(run)
    lines = read(path).lines
    assert [(line.outcome, line.replica) for line in lines] == [("completed", "p-1")] * 2
    assert sum(line.attempts for line in lines) == 2 + lost > 2


async def test_engines_that_fail_refuse_or_say_nothing(path: Path) -> None:
    full = b'{"error":{"message":"full","type":"x","param":null,"code":503}}'
    answers = in_turn(
        whole(b"", 500),
        whole(full, 503),
        stream(frame("one"), complete=False),
        silence(),
    )
    tables: dict[str, Any] = {
        "routing": {"hold_ms": 0},
        "timeouts": {"first_byte_s": 0.2, "first_token_s": 0.2},
        "journal": {"path": str(path)},
    }
    async with fake_engine(answers) as engine, gateway_over(engine.url, **tables) as run:
        for _ in range(4):
            await post(run, chat(stream=True))
    lines = read(path).lines
    assert [line.outcome for line in lines] == ["engine_failed", "engine_rejected", "engine_failed", "timed_out"]
    assert [line.output_length for line in lines] == [0, 0, 1, 0]
    assert all((line.replica, line.attempts) == ("p-0", 1) for line in lines)


async def test_clients_that_leave(path: Path) -> None:
    async def half(_request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b'{"a":1}')[:-3])
        await asyncio.sleep(3600)

    begun = held_stream(asyncio.Event(), frame("one"))
    async with (
        fake_engine(in_turn(begun, silence(), half)) as engine,
        gateway_over(engine.url, journal={"path": str(path)}) as run,
    ):
        for count in range(1, 5):
            async with raw_client(run.url) as http:
                if count == 4:
                    await http.send(post_head(1000) + b'{"model":')
                    await asyncio.sleep(0.02)
                else:
                    await http.post(chat_bytes(LONG, stream=count == 1))
                    await until(lambda count=count: len(engine.requests) == count)  # type: ignore[misc]
                if count == 1:
                    await http.head()
                    await http.chunk()
                await http.leave()
            await until(lambda count=count: outcomes(run) == {"client_gone": count})  # type: ignore[misc]
    lines = read(path).lines
    assert [line.outcome for line in lines] == ["client_gone"] * 4
    assert [line.ttft_ms is not None for line in lines] == [True, False, False, False]
    assert [len(line.hash_ids) for line in lines] == [9, 9, 9, 0]
    assert [line.replica for line in lines] == ["p-0"] * 3 + [""]


async def test_a_client_that_leaves_while_its_prompt_is_tokenised(path: Path) -> None:
    """Before a replica was chosen: it counts as one that left, too."""
    asked = asyncio.Event()

    async def never(*_: object) -> None:
        asked.set()
        await asyncio.sleep(3600)

    async with fake_engine() as engine, gateway_over(engine.url, journal={"path": str(path)}) as run:
        run.gateway.chains_of = never  # type: ignore[assignment, method-assign]
        async with raw_client(run.url) as http:
            await http.post(chat_bytes())
            await asked.wait()
            await http.leave()
        await until(lambda: outcomes(run) == {"client_gone": 1})
    [line] = read(path).lines
    assert (line.outcome, line.attempts) == ("client_gone", 0)


async def test_requests_that_no_replica_gets(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables: dict[str, Any] = {"server": {"max_body_bytes": 20_000}, "journal": {"path": str(path)}}
    async with fake_engine() as engine, gateway_over(engine.url, **tables) as run:
        for body in (b"{", b"x" * 20_001, b'{"model":"m"}'):
            openai_error(await post(run, body))
        openai_error(await post(run, chat(LONG, model="an unknown name")))
        openai_error(await post(run, chat(LONG), headers={"x-prefixgate-replica": "nobody"}))
        assert outcomes(run) == {"rejected": 5}

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(run.gateway.router, "route", broken)
        openai_error(await post(run, chat(LONG)))
        assert outcomes(run) == {"rejected": 6}, "a failure of ours ends a request too"
    lines = read(path).lines
    assert [line.outcome for line in lines] == ["rejected"] * 6
    assert [len(line.hash_ids) for line in lines] == [0, 0, 0, 9, 9, 9]
    assert [line.model for line in lines] == ["", "", "", "", "m", ""]
    for line in lines:
        assert (line.attempts, line.replica, line.predicted_cached, line.predicted_ttft_ms) == (0, "", None, None)
    assert lines[4].input_length == pytest.approx(len(LONG) / 4, rel=0.05)
    assert b"unknown" not in path.read_bytes()


async def test_a_name_that_is_asked_for_before_any_model_is_known(path: Path) -> None:
    async with gateway_over("http://127.0.0.1:9", model=None, journal={"path": str(path)}) as run:
        openai_error(await post(run, chat(model="an unknown name")))
        assert [series.model for series in run.gateway.snapshot().series] == [""]
    assert b"unknown" not in path.read_bytes()


# ── what it says of prompts ──────────────────────────────────────────────────────────────────────


@salted
async def test_nothing_secret_is_in_it(path: Path) -> None:
    headers = {"authorization": "Bearer sk-topsecret", "x-session-id": "patient-4711", "x-request-id": "case-4711"}
    journal = {"path": str(path), "salt_env": "JOURNAL_SALT"}
    body = chat(LONG, user="Ms Example", stream=True)
    answers = stream(frame("the answer"), usage_frame(2500, 0), DONE)
    async with fake_engine(answers) as engine, gateway_over(engine.url, journal=journal) as run:
        await post(run, body, headers=headers)
        chain = (await run.gateway.chains_of(parse(Endpoint.CHAT, json.dumps(body).encode()), b"")).text
        tenants = [tenant.name for tenant in run.gateway.snapshot().tenants]
    text = path.read_text()
    for secret in (
        *WORDS.split(),
        *("topsecret", "4711", "patient", "case", "Example", "answer", "user", "anonymous", engine.url),
        *(SALT, SALT.encode().hex(), *tenants),
    ):
        assert secret not in text, secret
    [line] = read(path).lines
    unsalted = {form for link in chain.hashes for form in (link, link >> 1, link & (2**63 - 1), link ^ (1 << 63))}
    assert len(chain.hashes) > 15
    assert not unsalted & set(line.hash_ids)
    for link in chain.hashes:
        assert str(link) not in text
        assert f"{link:016x}" not in text
    assert line.session == Salt(SALT.encode()).name("session", "patient-4711")
    assert line.tenant == Salt(SALT.encode()).name("tenant", tenants[0])


async def one_journal(path: Path, *bodies: dict[str, Any], **settings: Any) -> tuple[JournalLine, ...]:
    journal = {"path": str(path), **settings}
    async with fake_engine() as engine, gateway_over(engine.url, journal=journal) as run:
        for body in bodies:
            assert (await post(run, body)).status_code == 200
    return read(path).lines


@salted
async def test_equal_prefixes_have_equal_ids_under_one_salt_only(tmp_path: Path) -> None:
    bodies = chat(LONG + "one " * 500), chat(LONG + "two " * 500)
    salt = {"salt_env": "JOURNAL_SALT"}
    one, two = await one_journal(tmp_path / "a", *bodies, **salt)
    shared = len(LONG) // 1024
    assert shared == 9
    assert one.hash_ids[:shared] == two.hash_ids[:shared]
    assert not set(one.hash_ids[shared:]) & set(two.hash_ids[shared:])
    again = await one_journal(tmp_path / "b", *bodies, **salt)
    assert [line.hash_ids for line in again] == [one.hash_ids, two.hash_ids]
    assert again[0].tenant == one.tenant
    drawn = [await one_journal(tmp_path / name, *bodies) for name in ("c", "d")]
    for others in drawn:
        assert others[0].hash_ids[:shared] == others[1].hash_ids[:shared]
        assert not set(others[0].hash_ids) & set(one.hash_ids)
        assert others[0].tenant != one.tenant
    assert not set(drawn[0][0].hash_ids) & set(drawn[1][0].hash_ids)
    ids = [read(tmp_path / name).headers[0].salt_id for name in "abcd"]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


async def test_prompts_whose_tokens_are_known(path: Path, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    async with fake_engine() as engine:
        engine.pages["/metrics"] = response(
            b'vllm:cache_config_info{block_size="32",num_gpu_blocks="1000"} 1.0\n', content_type="text/plain"
        )
        pool = {"name": "p", "engine": "vllm", "replicas": [engine.url], "model": "m", "tokens": f"tokenizer:{folder}"}
        async with gateway_of([pool], journal={"path": str(path)}) as run:
            await post(run, chat(LONG))
            await post(run, chat(LONG + "more"))
            chains = await run.gateway.chains_of(parse(Endpoint.CHAT, chat_bytes(LONG)), chat_bytes(LONG))
    [tokens] = chains.tokens
    one, two = read(path).lines
    assert one.block_tokens == two.block_tokens == 256
    assert len(one.hash_ids) == tokens.length // 256 > 5
    assert one.hash_ids[:-1] == two.hash_ids[: len(one.hash_ids) - 1]
    [pool_then] = read(path).fleet
    assert (pool_then.block_tokens, pool_then.kv_tokens) == (32, (32_000,))


async def test_the_header_says_what_the_fleet_was(path: Path) -> None:
    async with fake_engine() as one, fake_engine() as two:
        pools = [
            {"name": "a", "engine": "vllm", "replicas": [one.url], "model": "m", "prefill": {"chunk_tokens": 8192}},
            {"name": "b", "engine": "sglang", "replicas": [two.url], "gpus_per_replica": 4},
        ]
        async with gateway_of(pools, journal={"path": str(path)}) as run:
            for _ in range(3):
                await post(run, chat())
    first, *rest = path.read_bytes().splitlines()
    assert json.loads(first).keys() == {"prefixgate_journal", "started_at", "salt_id", "fleet"}
    assert not any(b"prefixgate_journal" in line for line in rest)
    a, b = read(path).fleet
    assert (a.pool, a.engine, a.replicas, a.model, a.chunk_tokens) == ("a", "vllm", ("a-0",), "m", 8192)
    assert (a.kv_tokens, a.block_tokens) == ((None,), None)
    assert (b.pool, b.engine, b.replicas, b.model, b.gpus_per_replica) == ("b", "sglang", ("b-0",), None, 4)


async def test_the_header_is_said_again_when_the_fleet_has_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "FLEET_EVERY_S", 0.0)
    tables: dict[str, Any] = {"polling": {"interval_s": 0.02}, "journal": {"path": str(path)}}
    async with fake_engine() as engine, gateway_over(engine.url, **tables) as run:
        await post(run, chat())
        await post(run, chat())
        engine.pages["/metrics"] = response(
            b'vllm:cache_config_info{block_size="16",num_gpu_blocks="10"} 1.0\n', content_type="text/plain"
        )
        await until(lambda: run.gateway.snapshot().replicas[0].report.kv_capacity_tokens == 160)
        await post(run, chat())
    kinds = [b"prefixgate_journal" in line for line in path.read_bytes().splitlines()]
    assert kinds == [True, False, False, True, False]
    assert read(path).fleet[0].kv_tokens == (160,)


async def test_a_gateway_that_starts_again_goes_on_in_the_same_file(path: Path) -> None:
    path.touch(0o644)
    await one_journal(path, chat())
    with path.open("ab") as file:
        file.write(b'{"timestamp": 1, "inp')  # killed while it wrote
    await one_journal(path, chat(), chat())
    journal = read(path)
    assert (len(journal.headers), len(journal.lines)) == (2, 3)
    assert any("not valid JSON" in note for note in journal.notes)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# ── the writer ───────────────────────────────────────────────────────────────────────────────────


def config(path: Path | str, **journal: Any) -> Config:
    pool = {"name": "p", "engine": "vllm", "replicas": ["http://127.0.0.1:9"]}
    return build({"pools": [pool], "journal": {"path": str(path), **journal}})


class Writing:
    """A journal without a gateway around it, fed with rejected requests."""

    def __init__(self, settings: Config) -> None:
        self.gateway = Gateway(settings)
        opened = open_journal(settings)
        assert opened is not None
        self.journal: Journal = opened
        self.added = 0

    def add(self, count: int = 1) -> None:
        for _ in range(count):
            end = Refused(time.monotonic(), "", Outcome.REJECTED)
            entry = Entry("/v1/chat/completions", "t", time.monotonic(), attempts=self.added, end=end)
            self.journal.add(entry, self.gateway.snapshot)
            self.added += 1

    def settled(self) -> bool:
        return sum(self.journal.counts.values()) == self.added


@pytest.fixture
def writing(path: Path) -> Iterator[Writing]:
    made = Writing(config(path))
    yield made
    made.journal.close()


def numbers(*paths: Path) -> list[int]:
    """The requests of the files, each of which must begin with a header."""
    found = []
    for one in paths:
        assert one.read_bytes().startswith(b'{"prefixgate_journal":1,')
        found += [line.attempts for line in read(one).lines]
    return found


@pytest.mark.parametrize("keep", [0, 1, 3])
async def test_a_full_file_is_renamed_and_old_ones_go(path: Path, keep: int) -> None:
    writing = Writing(config(path, max_bytes=64 * 1024, keep=keep))
    for _ in range(20):
        writing.add(100)
        await until(writing.settled)
    writing.journal.close()
    assert writing.journal.counts == {"written": 2000, "dropped": 0, "failed": 0}
    files = sorted(path.parent.iterdir())
    assert files == [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, keep + 1))]
    assert all(0 < file.stat().st_size <= 64 * 1024 for file in files)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    kept = numbers(*reversed(files))
    assert kept == list(range(2000 - len(kept), 2000))
    joined = b"".join(file.read_bytes() for file in reversed(files)).splitlines(keepends=True)
    assert len(read_journal(joined).lines) == len(kept)


async def test_a_slow_disk_drops_lines_and_holds_up_nobody(
    path: Path, writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    append = RotatingFile.append

    def slow(file: RotatingFile, lines: bytes) -> None:
        gate.wait(20)
        append(file, lines)

    monkeypatch.setattr(RotatingFile, "append", slow)
    writing.add(6000)
    assert writing.journal.counts["written"] == 0
    dropped = writing.journal.counts["dropped"]
    assert 6000 - 4096 - 100 < dropped < 6000 - 4000
    assert str(dropped) in writing.journal.notices()[0]
    gate.set()
    await until(writing.settled)
    assert writing.journal.counts == {"written": 6000 - dropped, "dropped": dropped, "failed": 0}
    assert numbers(path)[:3000] == list(range(3000))


async def test_a_full_disk_is_said_once_and_leaves_no_half_lines(
    path: Path, writing: Writing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    writing.add()
    await until(writing.settled)
    room = [30]
    write = os.write

    def full(file: int, data: memoryview) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(file, data[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr(os, "write", full)
    for _ in range(3):
        writing.add()
        await until(writing.settled)
    assert writing.journal.counts == {"written": 1, "dropped": 0, "failed": 3}
    assert writing.journal.notices() == [f"the journal {path} cannot be written: No space left on device"]
    assert numbers(path) == [0]
    monkeypatch.setattr(os, "write", write)
    writing.add(2)
    await until(writing.settled)
    writing.journal.close()
    assert writing.journal.notices() == []
    assert sorted(numbers(path)) == [0, 4, 5]
    assert read(path).notes == ()
    assert caplog.text.count("No space left") == 1
    assert caplog.text.count("is written again") == 1


async def test_what_cannot_be_cut_off_is_never_part_of_a_later_line(
    path: Path, writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing.add()
    await until(writing.settled)
    write, whole = os.write, [True]

    def broken(file: int, data: memoryview) -> int:
        if whole.pop():
            whole.append(False)
            return write(file, data[:50])
        raise OSError(errno.EIO, "Input/output error")

    def refused(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", broken)
        patch.setattr(os, "ftruncate", refused)
        writing.add()
        await until(writing.settled)
    writing.add()
    await until(writing.settled)
    assert numbers(path) == [0, 2]
    assert len(read(path).notes) == 1


async def test_requests_do_not_notice_a_journal_that_cannot_be_written(path: Path) -> None:
    async with fake_engine() as engine, gateway_over(engine.url, journal={"path": str(path)}) as run:
        path.mkdir()  # after the start's checks
        for _ in range(2):
            answer = await post(run, chat())
            assert (answer.status_code, answer.content) == (200, COMPLETION)
        journal = run.gateway.journal
        assert journal is not None
        await until(lambda: journal.counts["failed"] == 2)
        async with admin(run) as http:
            page = (await http.get("/metrics")).text
            view = (await http.get("/api/snapshot")).json()
        assert 'prefixgate_journal_lines_total{result="failed"} 2.0' in page
        assert 'prefixgate_journal_lines_total{result="written"} 0.0' in page
        [notice] = view["gateway"]["notices"]
        assert str(path) in notice
        assert "Is a directory" in notice


async def test_what_waits_at_the_end_is_written(path: Path, writing: Writing) -> None:
    writing.add(500)
    writing.journal.close()
    writing.journal.close()
    assert numbers(path) == list(range(500))
    writing.add()
    assert writing.journal.counts == {"written": 500, "dropped": 1, "failed": 0}


async def test_a_disk_that_never_answers_does_not_hold_up_the_end(
    writing: Writing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(journal_module, "CLOSE_S", 0.05)
    monkeypatch.setattr(RotatingFile, "append", lambda *_: gate.wait(20))
    writing.add(6000)
    writing.journal.close()
    gate.set()
    assert "does not answer" in caplog.text


async def test_many_requests_at_once_have_one_line_each(path: Path) -> None:
    rng = Random(1)
    async with fake_engine() as engine, gateway_over(engine.url, journal={"path": str(path)}) as run:
        bodies = [b"{" if rng.random() < 0.3 else chat_bytes(LONG) for _ in range(60)]
        await asyncio.gather(*(post(run, body) for body in bodies))
        counted = outcomes(run)
    lines = read(path).lines
    assert {outcome: sum(line.outcome == outcome for line in lines) for outcome in counted} == counted
    assert len(lines) == 60


# ── start and end ────────────────────────────────────────────────────────────────────────────────


async def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        await post(run, chat())
        assert run.gateway.journal is None
        assert not any(thread.name == "prefixgate-journal" for thread in threading.enumerate())
    assert list(tmp_path.iterdir()) == []


def test_a_gateway_that_nobody_asks_makes_no_file(path: Path) -> None:
    made = open_journal(config(path))
    assert made is not None
    made.close()
    assert not path.exists()


REFUSED = {
    "no directory": ("none/x", "there is no directory"),
    "a file for a directory": ("file/x", "there is no directory"),
    "a directory": ("", "not a file"),
    "something else": ("file", "exists and is not a journal"),
}


@pytest.mark.parametrize(("place", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_places_that_will_not_do(tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "file").write_text("a diary")
    with pytest.raises(ConfigError, match=words) as raised:
        open_journal(config(tmp_path / place))
    assert str(raised.value).startswith("[journal] path: ")


@pytest.mark.parametrize("which", ["directory", "file"])
def test_places_that_may_not_be_written(path: Path, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    forbidden = path if which == "file" else path.parent
    monkeypatch.setattr(os, "access", lambda place, _mode: place != forbidden)
    with pytest.raises(ConfigError, match="writ"):
        open_journal(config(path))


@pytest.mark.parametrize(("value", "words"), [(None, "SOME_SALT is not set"), ("short", "at least 16 characters")])
def test_salts_that_will_not_do(path: Path, value: str | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_SALT", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_SALT", value)
    with pytest.raises(ConfigError, match=words):
        open_journal(config(path, salt_env="SOME_SALT"))


@pytest.mark.parametrize("command", ["serve", "check"])
def test_commands_refuse_in_one_sentence(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        '[[pools]]\nname = "p"\nengine = "vllm"\nreplicas = ["http://127.0.0.1:9"]\n'
        '[server]\nport = 0\n[journal]\npath = "/nowhere/at/all"\n'
    )
    assert run_command([command, "--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert said == "prefixgate: [journal] path: there is no directory /nowhere/at\n"


async def test_a_gateway_that_is_told_to_stop_writes_all(tmp_path: Path, path: Path) -> None:
    file = tmp_path / "gateway.toml"
    async with fake_engine() as engine:
        file.write_text(
            f'[[pools]]\nname = "p"\nengine = "vllm"\nmodel = "m"\nreplicas = ["{engine.url}"]\n'
            f'[server]\nport = 0\n[journal]\npath = "{path}"\n'
        )

        def serve_and_ask() -> int:
            with prefixgate("serve", "--config", str(file)) as (process, urls):
                for _ in range(5):
                    httpx.post(urls[0] + "/v1/chat/completions", json=chat(), timeout=20, trust_env=False)
                process.terminate()
                return process.wait(20)

        assert await asyncio.to_thread(serve_and_ask) == 0
    assert len(read(path).lines) == 5
