"""What a supervisor is asked over its socket, and what it answers: one line of JSON each; pure."""

import msgspec

from engines.launch.launcher import LaunchSpec, ProcessView

LIMIT = 1 << 24
"""Bytes of the longest line."""


class Start(msgspec.Struct, frozen=True, tag=True):
    """Run it as the spec says."""

    spec: LaunchSpec


class Restart(msgspec.Struct, frozen=True, tag=True):
    """End it and run it as the spec says."""

    spec: LaunchSpec


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Run it with the settings that were last applied, also when it was stopped."""

    name: str


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End it and leave it so."""

    name: str


class Views(msgspec.Struct, frozen=True, tag=True):
    """How do all replicas stand?"""


class Tail(msgspec.Struct, frozen=True, tag=True):
    """The last lines of its log."""

    name: str
    lines: int


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """End all replicas, and then yourself."""


Ask = Start | Restart | Begin | Stop | Views | Tail | Shutdown


class Answer(msgspec.Struct, frozen=True):
    """`refusal` is a sentence where it was not done. `pid` is the supervisor's own."""

    pid: int
    refusal: str = ""
    views: dict[str, ProcessView] = {}
    lines: list[str] = []


ASKS = msgspec.json.Decoder(Ask)
ANSWERS = msgspec.json.Decoder(Answer)


def line_of(message: Ask | Answer) -> bytes:
    """As it goes over the socket."""
    return msgspec.json.encode(message) + b"\n"
