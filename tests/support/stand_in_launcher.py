"""A launcher of simulated engines in the test's own event loop: they start and end within milliseconds."""

from contextlib import AsyncExitStack
from dataclasses import replace

from engines.launch.launcher import LaunchError, LaunchSpec, ProcessState, ProcessView
from engines.reports import PrefillSettings
from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings


class StandIn:
    """Launches the replicas of all pools. `base` is what they are beside their chunk.

    `restarts` tells in which order they were restarted, and with which chunk.
    """

    can_restart = True

    def __init__(self, base: SimulatorSettings) -> None:
        self.base = base
        self.urls: dict[str, str] = {}
        self.restarts: list[tuple[str, int]] = []
        self.breaks: set[int] = set()
        """Chunks with which an engine does not start."""
        self.lies: dict[int, int] = {}
        """Chunks that an engine takes, and what it then runs."""
        self.sulks = False
        """From now on nothing starts any more."""
        self._stacks: dict[str, AsyncExitStack] = {}
        self._chunks: dict[str, int] = {}
        self._reasons: dict[str, str] = {}

    # ── of all pools ──

    def launcher(self, pool: str) -> "StandIn":
        return self

    def spec(self, replica: str, settings: PrefillSettings) -> LaunchSpec:
        port = int(self.urls[replica].rpartition(":")[2]) if replica in self.urls else 0
        return LaunchSpec(
            name=replica, dialect=self.base.dialect, model="m", host="127.0.0.1", port=port, prefill=settings
        )

    # ── a launcher ──

    async def start(self, spec: LaunchSpec) -> None:
        await self.restart(spec)

    async def restart(self, spec: LaunchSpec) -> None:
        await self.stop(spec.name)
        chunk = spec.prefill.chunk_tokens or self.base.chunk_tokens
        self.restarts.append((spec.name, chunk))
        if self.sulks or chunk in self.breaks:
            self._reasons[spec.name] = f"CUDA out of memory with a chunk of {chunk}"
            return
        stack = self._stacks[spec.name] = AsyncExitStack()
        runs = self._chunks[spec.name] = self.lies.get(chunk, chunk)
        settings = replace(self.base, port=spec.port, chunk_tokens=runs)
        self.urls[spec.name] = await stack.enter_async_context(serving(settings))

    async def stop(self, name: str) -> None:
        stack = self._stacks.pop(name, None)
        if stack is not None:
            await stack.aclose()

    async def view(self, name: str) -> ProcessView:
        if name not in self.urls:
            raise LaunchError(f"there is no {name}")
        if name not in self._stacks:
            return ProcessView(ProcessState.FAILED, reason=self._reasons.get(name, "it was stopped"))
        command = ("vllm", "serve", "m", "--max-num-batched-tokens", str(self._chunks[name]))
        return ProcessView(ProcessState.RUNNING, command, pid=1)

    async def close(self) -> None:
        for name in list(self._stacks):
            await self.stop(name)
