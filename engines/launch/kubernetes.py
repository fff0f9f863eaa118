"""The launcher of replicas that are Kubernetes pods: it patches their workload, one pod at a time; does I/O."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from engines.kubernetes_api import KubernetesApi, KubernetesError
from engines.launch.launcher import LaunchError, LaunchSpec, ProcessState, ProcessView
from engines.launch.workload import Place, Pod, Pods, Workload, command_of, view_of, workload_patch
from engines.registry import dialect

_APPS: Final = "apis/apps/v1"
_CORE: Final = "api/v1"
_LOOK_S: Final = 1.0
_GONE: Final = 404

_Answer = TypeVar("_Answer")


class KubernetesLauncher:
    """`places` by replica. A pod that was told to go has `patience_s` for it, its grace period included.

    The account needs: get and patch on the workload; get, list and delete on pods.
    """

    can_restart = True

    def __init__(self, api: KubernetesApi, places: Mapping[str, Place], patience_s: float) -> None:
        self._api = api
        self._places = places
        self._patience_s = patience_s

    async def start(self, spec: LaunchSpec) -> None:
        """Nothing where its pod runs as the spec says; a restart otherwise."""
        place = self._place(spec.name)
        wanted = dialect(spec.dialect).launch_command(spec).words
        if not any(command_of(pod, place.container) == wanted for pod in await self._pods(place)):
            await self.restart(spec)

    async def restart(self, spec: LaunchSpec) -> None:
        """Patch the workload, have this replica's pod go, and wait until it has; the others keep theirs."""
        place = self._place(spec.name)
        old = {pod.metadata.uid for pod in await self._pods(place)}
        patch = workload_patch(place, spec, datetime.now(UTC).isoformat())
        await self._ask("PATCH", _APPS, place.path, f"patch {place.kind.lower()}s", Workload, patch=patch)
        if place.kind == "StatefulSet" and old:
            await self._ask("DELETE", _CORE, f"pods/{place.pod}", "delete pods", msgspec.Raw)
        try:
            async with asyncio.timeout(self._patience_s):
                while old.intersection(pod.metadata.uid for pod in await self._pods(place)):  # noqa: ASYNC110 - polled
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError as error:
            raise LaunchError(f"the pod of {spec.name} is not gone after {self._patience_s:g} s") from error

    async def stop(self, name: str) -> None:
        """A pod of a workload always comes back."""
        place = self._place(name)
        workload = f"{place.kind.lower()}/{place.workload}"
        raise LaunchError(f"the pod of {name} would come back at once: scale it down with `kubectl scale {workload}`")

    async def view(self, name: str) -> ProcessView:
        """The state of its container."""
        place = self._place(name)
        pods = await self._pods(place)
        if not pods:
            return ProcessView(ProcessState.STOPPED, reason=f"{place.kind} {place.workload} has no pod for it")
        return view_of(pods[-1], place.container)

    async def close(self) -> None:
        """Close the connection to the API server."""
        await self._api.close()

    def _place(self, name: str) -> Place:
        if name not in self._places:
            raise LaunchError(f"{name} has no pod that is known: only replicas that the file lists have one")
        return self._places[name]

    async def _pods(self, place: Place) -> list[Pod]:
        if place.pod:
            pod = await self._ask("GET", _CORE, f"pods/{place.pod}", "get pods", Pod, missing=True)
            return [] if pod is None else [pod]
        workload = await self._ask("GET", _APPS, place.path, "get deployments", Workload)
        labels = {} if workload is None else workload.spec.selector.match_labels
        if not labels:
            raise LaunchError(f"{place.path} has no labels that its pods are known by")
        query = {"labelSelector": ",".join(f"{name}={value}" for name, value in labels.items())}
        pods = await self._ask("GET", _CORE, "pods", "list pods", Pods, query=query)
        return [] if pods is None else pods.items

    async def _ask(
        self,
        method: str,
        group: str,
        path: str,
        right: str,
        answer: type[_Answer],
        *,
        query: Mapping[str, str] | None = None,
        patch: object = None,
        missing: bool = False,
    ) -> _Answer | None:
        """One call; None where the thing is not there, if it may be `missing`. Raises LaunchError."""
        try:
            body = await self._api.ask(method, group, path, right=right, query=query, patch=patch)
            return msgspec.json.decode(body, type=answer)
        except KubernetesError as error:
            if missing and error.status == _GONE:
                return None
            raise LaunchError(f"{method} {path}: {error}") from error
        except msgspec.MsgspecError as error:
            raise LaunchError(f"{method} {path}: the API server's answer cannot be read: {error}") from error
