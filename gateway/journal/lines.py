"""The journal's format: a header, then one JSON line per ended request; a superset of Mooncake's traces; pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

VERSION: Final = 1
MOONCAKE_BLOCK_TOKENS: Final = 512.0
_HEADER_KEY: Final = b'"prefixgate_journal"'

Count = Annotated[int, Meta(ge=0)]
Ms = Annotated[float, Meta(ge=0)]
Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class FleetPool(msgspec.Struct, frozen=True):
    """A pool as it was. `kv_tokens` are by replica, in their order; None is what the engines did not say."""

    pool: str
    engine: str
    replicas: tuple[str, ...]
    model: str | None = None
    gpus_per_replica: int = 1
    kv_tokens: tuple[int | None, ...] = ()
    chunk_tokens: int | None = None
    block_tokens: int | None = None


class JournalHeader(msgspec.Struct, frozen=True):
    """A line that says what the lines after it are relative to; repeated when the fleet's facts have changed.

    `started_at` is seconds since the Unix epoch; `salt_id` is equal where ids are comparable.
    """

    prefixgate_journal: int
    started_at: Annotated[float, Meta(ge=0)]
    salt_id: str
    fleet: tuple[FleetPool, ...] = ()


class JournalLine(msgspec.Struct, frozen=True):
    """One ended request; the defaults are what a line of Mooncake's leaves open.

    `timestamp` is its arrival, in milliseconds after the header's start. `hash_ids` are salted hashes, each of one
    more full block of the prompt and all before it; one covers `block_tokens` tokens of this prompt. Of a Mooncake
    trace the last id may be of a partial block: `full_ids`. `tenant` and `session` are salted hashes.

    `output_length` is by the engine's word, else the content frames that came. `predicted_cached`,
    `available_cached`, `predicted_ttft_ms` and `wait_ms` are of the last decision, None where there was none;
    `cached` is the engine's word, None where it gave none (one that gives it for other requests had none cached);
    `routed_ms` is from arrival to that decision, so that `ttft_ms` (from arrival; streams only) less `routed_ms`
    compares with `predicted_ttft_ms`. `arm` is the request's in the `experiment` that it took part in, if any;
    `crossed`: it was sent outside of it.
    """

    timestamp: Ms
    input_length: Count
    output_length: Count
    hash_ids: tuple[Id, ...]
    block_tokens: Annotated[float, Meta(gt=0)] = MOONCAKE_BLOCK_TOKENS
    tenant: str = ""
    session: str | None = None
    model: str = ""
    endpoint: str = ""
    streams: bool = True
    policy: str = ""
    pool: str = ""
    replica: str = ""
    outcome: str = "completed"
    attempts: Count = 1
    predicted_cached: Count | None = None
    available_cached: Count | None = None
    cached: Count | None = None
    predicted_ttft_ms: Ms | None = None
    ttft_ms: Ms | None = None
    wait_ms: Ms | None = None
    routed_ms: Ms | None = None
    e2e_ms: Ms | None = None
    experiment: str = ""
    arm: str = ""
    crossed: bool = False

    @property
    def full_ids(self) -> tuple[int, ...]:
        """The ids of blocks that the prompt fills."""
        return self.hash_ids[: int(self.input_length / self.block_tokens + 1e-6)]


class JournalError(Exception):
    """The text is not a journal; the message names the line."""


@dataclass(frozen=True, slots=True)
class JournalText:
    """What was read. `lines` are in order of arrival; their timestamps are relative to the earliest header's start.

    `notes` are sentences about what a reader should know: a line that broke off, parts under different salts.
    """

    headers: tuple[JournalHeader, ...]
    lines: tuple[JournalLine, ...]
    notes: tuple[str, ...]

    @property
    def fleet(self) -> tuple[FleetPool, ...]:
        """The fleet by the last header that knows one."""
        return next((header.fleet for header in reversed(self.headers) if header.fleet), ())


def encode(line: JournalHeader | JournalLine) -> bytes:
    """The line, with its end."""
    return msgspec.json.encode(line) + b"\n"


def read_journal(lines: Iterable[bytes]) -> JournalText:
    """Read a journal, several of them one after the other, or a Mooncake trace. Raises JournalError.

    A line that broke off is left out, with a note: the last one, or one before a header (a gateway that was killed,
    or a full disk).
    """
    headers: list[JournalHeader] = []
    read: list[tuple[JournalHeader | None, JournalLine]] = []
    notes: list[str] = []
    for one in _decoded(lines, notes):
        if isinstance(one, JournalHeader):
            headers.append(one)
        else:
            read.append((headers[-1] if headers else None, one))
    if len({header.salt_id for header in headers}) > 1:
        notes.append("it has parts under different salts: between them no prefix is known to be shared")
    start = min((header.started_at for header in headers), default=0.0)
    placed = [line if header is None else _later(line, header.started_at - start) for header, line in read]
    return JournalText(tuple(headers), tuple(sorted(placed, key=lambda line: line.timestamp)), tuple(notes))


_HEADER: Final = msgspec.json.Decoder(JournalHeader)
_LINE: Final = msgspec.json.Decoder(JournalLine)


def _decoded(lines: Iterable[bytes], notes: list[str]) -> Iterator[JournalHeader | JournalLine]:
    broken: str | None = None
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        one = _decode(number, text)
        if broken is not None:
            if not isinstance(one, JournalHeader):
                raise JournalError(broken)
            notes.append(f"{broken}; it is left out, as the writer broke off there")
            broken = None
        if isinstance(one, str):
            broken = one
        else:
            yield one
    if broken is not None:
        notes.append(f"{broken}; it is left out, as the writer broke off there")


def _decode(number: int, text: bytes) -> JournalHeader | JournalLine | str:
    """The line, or what is wrong with its JSON. Raises JournalError for JSON that is no line of a journal."""
    try:
        if _HEADER_KEY not in text:
            return _LINE.decode(text)
        header = _HEADER.decode(text)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise JournalError(f"line {number}: {f'`{where}: ' if where else ''}{what}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"line {number}: not valid JSON: {error}"
    if header.prefixgate_journal != VERSION:
        version = header.prefixgate_journal
        raise JournalError(f"line {number}: the journal has version {version}, and this reads version {VERSION}")
    return header


def _later(line: JournalLine, seconds: float) -> JournalLine:
    return msgspec.structs.replace(line, timestamp=line.timestamp + seconds * 1000) if seconds else line
