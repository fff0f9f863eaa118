"""What the parent and a worker say to each other, and the line on which they say it; does I/O."""

import asyncio
import socket
from typing import Final

import msgspec

from gateway.config import Config, ConfigSource
from gateway.serving.experiments.trial import Trial
from gateway.serving.framing import read_framed, write_framed
from gateway.serving.membership.changing import UnderWay
from gateway.serving.membership.member import Member
from gateway.serving.membership.plan import Command
from gateway.serving.process_figures import Family

_MOST_BYTES: Final = 1 << 28


class Assignment(msgspec.Struct, frozen=True, tag=True):
    """The first thing that a worker hears. The listeners and `sharing` are numbers of open sockets.

    `members` are the replicas and `trials` the experiments that there are now, `store` is the file of what is observed
    of these; `change` is the one of prefill settings that runs; `source` is where the configuration can be read again.

    `started_at` is that of the whole gateway, in seconds since the Unix epoch.
    """

    number: int
    config: Config
    started_at: float
    listeners: tuple[int, ...]
    sharing: int | None
    members: tuple[Member, ...]
    trials: tuple[Trial, ...]
    store: str
    change: UnderWay | None
    source: ConfigSource | None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The worker listens; `said` is what an operator should read."""

    said: tuple[str, ...]


class Unusable(msgspec.Struct, frozen=True, tag=True):
    """The worker cannot start, and another one could not either; `status` is what the command exits with."""

    sentence: str
    status: int


class ReportWanted(msgspec.Struct, frozen=True, tag=True):
    """What do you know? The answer is a `Report`."""


class RecentWanted(msgspec.Struct, frozen=True, tag=True):
    """What were the latest requests? The answer is a list of `Told`."""

    limit: int


class RequestWanted(msgspec.Struct, frozen=True, tag=True):
    """What was decided for this request? The answer is a list of at most one `Told`."""

    request_id: str


class PrefixesWanted(msgspec.Struct, frozen=True, tag=True):
    """What was sampled of prompts? The answer is a `PrefixView`."""


Question = ReportWanted | RecentWanted | RequestWanted | PrefixesWanted


class Ask(msgspec.Struct, frozen=True, tag=True):
    """A worker asks all others. `own` is what it answers itself, to be remembered of it."""

    number: int
    question: Question
    own: bytes


class Passed(msgspec.Struct, frozen=True, tag=True):
    """The parent passes another worker's question on."""

    number: int
    question: Question


class Answer(msgspec.Struct, frozen=True, tag=True):
    """A worker answers what was passed on to it."""

    number: int
    answer: bytes


class Sibling(msgspec.Struct, frozen=True):
    """A worker as the parent knows it. `answer` None: there is none; `age_s` is how old an answer is, 0: just given.

    `state` is "up", or "starting" while it does not serve yet; `restarts` counts the processes that it had before.
    """

    number: int
    pid: int
    state: str
    restarts: int
    answer: bytes | None
    age_s: float


class Answers(msgspec.Struct, frozen=True, tag=True):
    """What all others say, and the parent's own row of the asking one (without an answer).

    `retired` is a `Report` of what workers that have ended had counted, `parent` are the parent's figures; both only
    where a report was wanted.
    """

    number: int
    asker: Sibling
    others: tuple[Sibling, ...]
    retired: bytes | None = None
    parent: tuple[Family, ...] = ()


class Propose(msgspec.Struct, frozen=True, tag=True):
    """A worker would have all do this."""

    number: int
    command: Command


class Follow(msgspec.Struct, frozen=True, tag=True):
    """All workers are to do this now: whoever proposed it too, which is told so by its `Settled` after it."""

    command: Command


class Settled(msgspec.Struct, frozen=True, tag=True):
    """What became of a proposal: None, or why it cannot be done."""

    number: int
    refusal: str | None


class Reread(msgspec.Struct, frozen=True, tag=True):
    """One worker is to read the configuration again, and to propose what it says."""


Message = Assignment | Ready | Unusable | Ask | Passed | Answer | Answers | Propose | Follow | Settled | Reread

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)


class Line:
    """One end of the line between the parent and a worker; it ends when the process at the other end does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Message) -> None:
        """Say something; never waits, as little is said and the other end always listens."""
        write_framed(self._writer, _ENCODER.encode(message))

    async def receive(self) -> Message | None:
        """What the other end says next; None once it is gone."""
        message = await read_framed(self._reader, _MOST_BYTES)
        return None if message is None else _DECODER.decode(message)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


async def line_over(end: socket.socket) -> Line:
    """A line over one end of a pair of sockets."""
    return Line(*await asyncio.open_unix_connection(sock=end))
