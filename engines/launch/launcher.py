"""What a launcher is, and what it is told: one replica's start as neutral settings; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from engines.reports import PrefillSettings

EventPorts = tuple[int, int]
"""Where KV events are published, and where missed ones are replayed; data-parallel ranks use consecutive ports."""

EVENT_PORTS: Final[EventPorts] = (5557, 5558)
"""Those that engines have unless they are told others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """One replica as it is to run. `dialect` is the engine's word in the config; `model` what is loaded (a path or a
    hub's name), `served_name` the name it answers to (None: the engine's own choice).

    `program` is the command before all flags, () for the dialect's own (`vllm serve`, `python3 -m
    sglang.launch_server`). `flags` come last, so that they win; `without` names flags of ours that are left out, for
    engines too old to know them. `gpus` are the devices it sees, () for all. `event_ports` None: it publishes no KV
    events. `directory` is where it runs, "" where its launcher does.
    """

    name: str
    dialect: str
    model: str
    host: str
    port: int
    served_name: str | None = None
    prefill: PrefillSettings = PrefillSettings()
    tensor_parallel: int = 1
    gpus: tuple[int, ...] = ()
    event_ports: EventPorts | None = EVENT_PORTS
    event_topic: str = ""
    directory: str = ""
    program: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    confidential: bool = False
    """Whether it runs in a confidential-computing guest, where custom all-reduce hangs at start."""


class ProcessState(StrEnum):
    """How a replica's process stands, by its launcher's word; whether it answers is for the gateway to see."""

    RUNNING = "running"
    STARTING = "starting"
    BACKOFF = "backoff"
    """It ended by itself and is started again after a pause."""
    STOPPED = "stopped"
    FAILED = "failed"
    """It ended too often and is not started again."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ProcessView:
    """`command` is what runs; `reason` one sentence with the last words of a process that ended, else ""."""

    state: ProcessState
    command: tuple[str, ...] = ()
    pid: int | None = None
    restarts: int = 0
    reason: str = ""


class LaunchError(Exception):
    """The launcher could not do as it was told; the message is one sentence and says what to do."""


class Launcher(Protocol):
    """Starts and restarts the replicas of one pool. Every method may raise LaunchError."""

    can_restart: bool
    """False where replicas are only observed."""

    async def start(self, spec: LaunchSpec) -> None:
        """Start the replica unless it runs already as the spec says."""

    async def restart(self, spec: LaunchSpec) -> None:
        """Stop its process, whole process group, and start it as the spec says; returns before it answers requests."""

    async def stop(self, name: str) -> None:
        """Stop it and leave it stopped."""

    async def view(self, name: str) -> ProcessView:
        """How its process stands."""

    async def close(self) -> None:
        """Let go of the launcher's own resources; processes run on."""
