"""`prefixgate bench sweep`: one managed replica at one chunk size after the other; does I/O."""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from engines.launch.launcher import Launcher, LaunchError, LaunchSpec
from gateway.bench.ask import new_client
from gateway.bench.drained import DrainError, drained
from gateway.bench.plan import rungs_of
from gateway.bench.plot import write_sweep
from gateway.bench.ramp import DEFAULT_MOST
from gateway.bench.report import DEFAULT_TIE_MARGIN
from gateway.bench.sweep import NotUpError, Sweep, SweepPlan, as_running
from gateway.bench.sweep_report import SweepReport, report_on_sweep
from gateway.bench.target import Target
from gateway.cli.bench_options import isls_of, plot_of, positive
from gateway.cli.bench_progress import Bar
from gateway.cli.bench_tables import print_sweep
from gateway.cli.usage import Commands, UsageError, command
from gateway.config import Config, PoolConfig, load, nearest
from gateway.config.launch import EXTERNAL, LOCAL
from gateway.demo.published import write_sweep_config
from gateway.serving.launching import launcher_of, local_launcher, spec_of
from gateway.serving.supervision import ensure_supervisor, supervised_by

EXAMPLE: Final = "prefixgate bench sweep --config gateway.toml --replica sglang-fp4-0 --chunks 8192,16384"
_INTERRUPTED: Final = 130
_LOOK_S: Final = 0.05


@dataclass(slots=True)
class _Course:
    """What a run has come to, also when it is interrupted."""

    sweep: Sweep | None = None
    own_chunk: int | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Managed:
    """The replica that is swept, and who starts it."""

    config: Config
    path: Path
    pool: PoolConfig
    spec: LaunchSpec
    target: Target


def add_parser(verbs: Commands) -> None:
    """Declare the verb."""
    summary = "a managed replica at one chunk size after the other: TTFT ladder, and how many long prompts fit at once"
    parser = command(verbs, "sweep", _run, summary, EXAMPLE)
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="TOML configuration, whose [pools.launch] says how it is started")
    add("--replica", metavar="NAME", help="which one (default: the only one that is launched)")
    add("--simulated", action="store_true", help="start a simulated SGLang FP4 replica, and sweep that")
    add("--speed", type=float, default=2.0, help="of the simulated one (default 2 times the hardware's)")
    add("--chunks", default="2048,4096,8192,16384", metavar="N,N,…", help="default 2048,4096,8192,16384")
    add("--isl", default="8k,16k,24k", metavar="N,N,…", help="prompt lengths (default 8k,16k,24k)")
    add("--repeats", type=int, default=5, help="answers for each length and chunk size (default 5)")
    add("--warm-up", type=int, default=1, help="rounds that are not counted (default 1)")
    add("--ramp-isl", default="24k", metavar="N", help="prompts that are to fit at once (default 24k; none: no ramp)")
    add("--ramp-most", type=int, default=DEFAULT_MOST, help=f"how many of them at most (default {DEFAULT_MOST})")
    add("--start-s", type=float, default=900.0, help="how long a start may take, in seconds (default 900)")
    add("--tie", type=float, default=100 * DEFAULT_TIE_MARGIN, metavar="PERCENT",
        help=f"differences that are noise (default {100 * DEFAULT_TIE_MARGIN:g})")  # fmt: skip
    add("--seed", type=int, default=1, help="of the order (default 1)")
    add("--plot", type=Path, metavar="FILE.png|.svg", help="also draw it")
    add("--json", action="store_true", help="print JSON instead of tables")


def _run(options: argparse.Namespace) -> int:
    chunks = [positive(part.strip(), "--chunks") for part in options.chunks.split(",")]
    plan = _plan(options)
    plot_of(options.plot)
    if (options.config is None) == (not options.simulated):
        raise UsageError("give either --config FILE or --simulated")
    run, interrupted = _Course(), False
    with ExitStack() as stack:
        path = options.config
        if options.simulated:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="prefixgate-sweep-"))
            path = write_sweep_config(Path(folder), options.speed)
        managed = _managed(path, options.replica)
        try:
            asyncio.run(_sweep(managed, list(dict.fromkeys(chunks)), plan, run))
        except KeyboardInterrupt:
            interrupted = True
        except (LaunchError, NotUpError, DrainError) as error:
            run.notes.append(str(error))
    report = report_on_sweep(run.sweep.swept if run.sweep else [], run.own_chunk, options.tie / 100)
    if report.chunks:
        _show(report, options)
    for note in run.notes:
        print(f"prefixgate: {note}", file=sys.stderr)
    if interrupted:
        return _INTERRUPTED
    return 1 if run.notes or any(one.trouble for one in report.chunks) else 0


def _plan(options: argparse.Namespace) -> SweepPlan:
    if options.speed <= 0 or options.tie <= 0 or options.start_s <= 0 or options.warm_up < 0:
        raise UsageError("--speed, --tie and --start-s must be above 0, --warm-up not below it")
    return SweepPlan(
        rungs=rungs_of(isls_of(options.isl), [0.0]),
        warm_up=options.warm_up,
        repeats=positive(options.repeats, "--repeats"),
        seed=options.seed,
        ramp_isl=None if options.ramp_isl == "none" else isls_of(options.ramp_isl)[0],
        ramp_most=positive(options.ramp_most, "--ramp-most"),
        start_s=options.start_s,
    )


def _managed(path: Path, wished: str | None) -> _Managed:
    """The replica that is meant. Raises ConfigError or UsageError."""
    config = load(path)
    known = {one.name: (pool, one.url) for pool in config.pools for one in pool.spec().replicas}
    launched = [name for name, (pool, _) in known.items() if pool.launch.kind != EXTERNAL]
    if wished is not None and wished not in known:
        raise UsageError(f"no replica is called `{wished}`{nearest(wished, list(known))}")
    if wished is None and len(launched) > 1:
        raise UsageError(f"say which --replica: {', '.join(launched)}")
    if not launched or (wished is not None and wished not in launched):
        raise UsageError(
            f"{wished or 'no replica'} is started by prefixgate: give its pool a [pools.launch] other than external"
            if wished is None
            else f"`{wished}` is not started by prefixgate: its pool's [pools.launch] kind is external"
        )
    name = wished or launched[0]
    pool, url = known[name]
    target = Target(name=name, url=url, gpus=pool.gpus_per_replica, model=pool.model, api_key_env=pool.api_key_env)
    return _Managed(config, path, pool, spec_of(pool, name, url), target)


async def _sweep(managed: _Managed, chunks: list[int], plan: SweepPlan, run: _Course) -> None:
    """Raises LaunchError, NotUpError, DrainError."""
    server = managed.config.server
    token = os.environ.get(server.admin_token_env or "")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    admin_url = f"http://{server.host}:{server.admin}"
    async with (
        new_client() as client,
        _launching(managed) as (launcher, stays),
        drained(client, admin_url, managed.spec.name, headers) as in_gateway,
    ):
        with Bar(len(chunks) * (plan.warm_up + plan.repeats) * sum(one.isl for one in plan.rungs)) as bar:
            if in_gateway:
                bar.say(f"{managed.spec.name} is drained at the gateway, and gets its traffic back in the end")
            run.own_chunk = as_running(managed.spec, await launcher.view(managed.spec.name)).prefill.chunk_tokens
            run.sweep = Sweep(
                client, launcher, managed.spec, managed.target, plan, bar.say, lambda step, _: bar.advance(step, "")
            )
            try:
                await run.sweep.run(chunks)
            finally:
                if stays:
                    await run.sweep.up_again()


@asynccontextmanager
async def _launching(managed: _Managed) -> AsyncIterator[tuple[Launcher, bool]]:
    """The pool's launcher, and whether its replicas stay when this is over.

    Where a local pool has no supervisor, it gets one for as long as the block runs.
    """
    own = None
    if managed.pool.launch.kind == LOCAL:
        own = await ensure_supervisor(managed.pool, managed.path, managed.spec.name)
    launcher = launcher_of(managed.pool)
    try:
        yield launcher, own is None
    finally:
        await launcher.close()
        if own is not None:
            local = local_launcher(managed.pool)
            await local.shutdown()
            while await supervised_by(local) is not None:  # noqa: ASYNC110 - another process has no event
                await asyncio.sleep(_LOOK_S)


def _show(report: SweepReport, options: argparse.Namespace) -> None:
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        print_sweep(report)
    if options.plot is not None and report.ladder.rungs:
        try:
            write_sweep(options.plot, report)
        except OSError as error:
            raise UsageError(f"--plot {options.plot}: {error.strerror}") from error
