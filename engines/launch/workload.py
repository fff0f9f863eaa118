"""What the Kubernetes launcher says to a cluster and reads from it: patches of workloads, states of pods; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from engines.launch.launcher import LaunchSpec, ProcessState, ProcessView
from engines.registry import dialect

WorkloadKind = Literal["StatefulSet", "Deployment"]
_FAILING = ("CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "CreateContainerError", "InvalidImageName")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one replica runs: a pod of a StatefulSet, or all pods (one) of a Deployment, whose `pod` is ""."""

    kind: WorkloadKind
    workload: str
    pod: str
    container: str

    @property
    def path(self) -> str:
        """Of the workload, in the API."""
        return f"{self.kind.lower()}s/{self.workload}"


def workload_patch(place: Place, spec: LaunchSpec, at: str) -> dict[str, Any]:
    """The strategic merge patch that has the workload's container run as the spec says.

    A StatefulSet's pods keep running until they are deleted, one by one (OnDelete). A Deployment replaces its only
    pod, for which the change is noted at the time `at`, and does not start the new one beside the old, which has the
    GPUs (Recreate).
    """
    command = dialect(spec.dialect).launch_command(spec)
    container: dict[str, Any] = {
        "name": place.container,
        "command": list(command.program),
        "args": list(command.arguments),
        "env": [{"name": name, "value": value} for name, value in command.env.items()],
    }
    if spec.directory:
        container["workingDir"] = spec.directory
    template: dict[str, Any] = {"spec": {"containers": [container]}}
    if place.kind == "StatefulSet":
        return {"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": None}, "template": template}}
    template["metadata"] = {"annotations": {"prefixgate/launched-at": at}}
    return {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}, "template": template}}


class Metadata(msgspec.Struct):
    """Of a pod."""

    name: str
    uid: str


class Running(msgspec.Struct):
    """A container that runs."""


class Waiting(msgspec.Struct):
    """A container that does not run yet, or not again."""

    reason: str = ""
    message: str = ""


class Terminated(msgspec.Struct, rename="camel"):
    """A container that has ended."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""


class ContainerState(msgspec.Struct):
    """One of them."""

    running: Running | None = None
    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, rename="camel"):
    """Of one container of a pod."""

    name: str
    ready: bool = False
    restart_count: int = 0
    state: ContainerState = msgspec.field(default_factory=ContainerState)
    last_state: ContainerState = msgspec.field(default_factory=ContainerState)


class Container(msgspec.Struct):
    """What a pod's container runs."""

    name: str
    command: list[str] = []
    args: list[str] = []


class PodSpec(msgspec.Struct):
    """The containers."""

    containers: list[Container] = []


class PodStatus(msgspec.Struct, rename="camel"):
    """How a pod stands."""

    phase: str = ""
    message: str = ""
    container_statuses: list[ContainerStatus] | None = None


class Pod(msgspec.Struct):
    """A pod, as far as it matters here."""

    metadata: Metadata
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class Pods(msgspec.Struct):
    """The answer to a list."""

    items: list[Pod]


class Selector(msgspec.Struct, rename="camel"):
    """Which pods are a workload's."""

    match_labels: Mapping[str, str] = {}


class WorkloadSpec(msgspec.Struct):
    """A workload's selector."""

    selector: Selector = msgspec.field(default_factory=Selector)


class Workload(msgspec.Struct):
    """A StatefulSet or a Deployment."""

    spec: WorkloadSpec = msgspec.field(default_factory=WorkloadSpec)


def command_of(pod: Pod, container: str) -> tuple[str, ...]:
    """What its container was told to run."""
    found = next((one for one in pod.spec.containers if one.name == container), None)
    return () if found is None else (*found.command, *found.args)


def view_of(pod: Pod, container: str) -> ProcessView:
    """A container that is not ready is one that starts."""
    command = command_of(pod, container)
    status = next((one for one in pod.status.container_statuses or [] if one.name == container), None)
    if status is None:
        return ProcessView(ProcessState.STARTING, command, reason=pod.status.message or f"pod is {pod.status.phase}")
    restarts, reason = status.restart_count, _ending(status.last_state.terminated)
    if status.state.running is not None:
        state = ProcessState.RUNNING if status.ready else ProcessState.STARTING
    elif status.state.terminated is not None:
        state, reason = ProcessState.BACKOFF, _ending(status.state.terminated)
    else:
        waiting = status.state.waiting or Waiting()
        state = ProcessState.BACKOFF if waiting.reason in _FAILING else ProcessState.STARTING
        said = ": ".join(part for part in (waiting.reason, waiting.message) if part)
        reason = "; ".join(part for part in (said, reason) if part)
    return ProcessView(state, command, None, restarts, reason)


def _ending(end: Terminated | None) -> str:
    if end is None:
        return ""
    last_words = [line for line in end.message.strip().splitlines() if line.strip()][-1:]
    return f"it ended with status {end.exit_code} ({end.reason or 'no reason'})" + "".join(
        f"; its last words: {line.strip()}" for line in last_words
    )
