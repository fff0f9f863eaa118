"""`prefixgate bench ladder`: TTFT and prefill throughput by prompt length, several targets in one run; does I/O."""

import argparse
import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from gateway.bench.ask import AskError, new_client
from gateway.bench.ladder import Climbed, climb, within_context
from gateway.bench.plan import Rung, Step, cost_of, rungs_of, steps_of, written
from gateway.bench.plot import write_ladder
from gateway.bench.report import DEFAULT_TIE_MARGIN, LadderReport, Row, report_on
from gateway.bench.samples import RunHeader, Sample, SampleFile, SampleFileError, missing
from gateway.bench.subject import Subject, find_all
from gateway.bench.target import Target
from gateway.cli.bench_options import folder_exists, isls_of, plot_of, positive, shares_of, targets_of
from gateway.cli.bench_progress import Bar
from gateway.cli.bench_tables import print_ladder
from gateway.cli.usage import Commands, UsageError, command
from gateway.demo.fleet import StartError
from gateway.demo.published import published_rows, published_targets, started_targets

EXAMPLE: Final = (
    "prefixgate bench ladder --target 'W4A8 vLLM TP2=http://10.0.0.1:8000' --target fp4=http://10.0.1.1:30000"
)
_INTERRUPTED: Final = 130


@dataclass(slots=True)
class _Course:
    """What a run has come to, also when it is interrupted."""

    targets: list[Target]
    rungs: list[Rung]
    subjects: list[Subject] = field(default_factory=list)
    climbed: Climbed = field(default_factory=Climbed)


def add_parser(verbs: Commands) -> None:
    """Declare the verb."""
    summary = "one request at a time of 1k to 24k uncached tokens: TTFT and prefill tok/s/GPU, targets side by side"
    parser = command(verbs, "ladder", _run, summary, EXAMPLE)
    add = parser.add_argument
    add("--target", action="append", default=[], metavar="NAME=URL",
        help="an engine, or a gateway with #replica=NAME or #pool=NAME behind its URL (repeatable); TP2 in the name "
        "says how many GPUs; without a URL: a row that is planned")  # fmt: skip
    add("--config", type=Path, metavar="FILE", help="a gateway's configuration: a replica of each of its pools")
    add("--simulated", action="store_true",
        help="start simulated engines of the published table, and set what is measured against it")  # fmt: skip
    add("--speed", type=float, default=1.0, help="of the simulated engines (default 1: the hardware's)")
    add("--isl", default="1k,2k,4k,8k,16k,24k", metavar="N,N,…", help="prompt lengths (default 1k,2k,4k,8k,16k,24k)")
    add("--cached", default="0", metavar="SHARE,…", help="shares of the prompt that are sent before (default 0)")
    add("--repeats", type=int, default=5, help="answers for each length and target (default 5; 4 make an interval)")
    add("--warm-up", type=int, default=1, help="rounds that are not counted (default 1)")
    add("--gpus", action="append", default=[], metavar="NAME=N", help="GPUs of a target (default: its TP, else 1)")
    add("--model", action="append", default=[], metavar="NAME=MODEL", help="default: the first that it serves")
    add("--api-key-env", metavar="VARIABLE", help="environment variable with the API key")
    add("--tie", type=float, default=100 * DEFAULT_TIE_MARGIN, metavar="PERCENT",
        help=f"differences that are noise (default {100 * DEFAULT_TIE_MARGIN:g})")  # fmt: skip
    add("--seed", type=int, default=1, help="of the order; prompts are new in every run (default 1)")
    add("--out", type=Path, metavar="FILE.jsonl", help="keep every sample there; a run that broke off goes on from it")
    add("--plot", type=Path, metavar="FILE.png|.svg", help="also draw it")
    add("--json", action="store_true", help="print JSON instead of tables")


def _run(options: argparse.Namespace) -> int:
    targets = targets_of(options)
    if not options.simulated and not any(target.url for target in targets):
        raise UsageError("say what to measure: --target NAME=URL, --config FILE or --simulated")
    positive(options.repeats, "--repeats")
    if options.speed <= 0 or options.tie <= 0 or options.warm_up < 0:
        raise UsageError("--speed and --tie must be above 0, --warm-up not below it")
    plot_of(options.plot)
    folder_exists(options.out, "--out")
    run = _Course(targets, rungs_of(isls_of(options.isl), shares_of(options.cached)))
    ended = 0
    try:
        asyncio.run(_measure(run, options))
    except KeyboardInterrupt:
        print("prefixgate: interrupted", file=sys.stderr)
        ended = _INTERRUPTED
    except (AskError, SampleFileError, StartError) as error:
        print(f"prefixgate: {error}", file=sys.stderr)
        ended = 1
    if ended and not run.climbed.samples:
        return ended
    report = _report(run, options)
    _show(report, options)
    return ended or (0 if _is_complete(report) else 1)


async def _measure(run: _Course, options: argparse.Namespace) -> None:
    """Raises AskError, SampleFileError, StartError."""
    async with _all_targets(run.targets, options) as targets, new_client() as client:
        run.targets = targets
        rng = random.Random(random.SystemRandom().getrandbits(128))
        run.subjects = await find_all(client, targets, rng)
        steps = steps_of(run.rungs, len(run.subjects), options.warm_up, options.repeats, options.seed)
        fitting = [set(within_context(run.rungs, subject)) for subject in run.subjects]
        for subject, rungs in zip(run.subjects, fitting, strict=True):
            if too_long := sorted({rung.isl for rung in run.rungs if rung not in rungs}):
                lengths = ", ".join(map(written, too_long))
                run.climbed.trouble(
                    f"{subject.target.name}: {lengths} left out, its context is {subject.context_tokens:,} tokens"
                )
        steps = [step for step in steps if step.rung in fitting[step.target]]
        file = _file(run, options)
        names = [subject.target.name for subject in run.subjects]
        if file is not None:
            run.climbed.samples += file.kept
            steps = missing(steps, names, file.kept)
        try:
            with Bar(sum(map(cost_of, steps))) as bar:

                def done(step: Step, sample: Sample | None) -> None:
                    if file is not None and sample is not None:
                        file.add(sample)
                    bar.advance(step, names[step.target])

                await climb(client, run.subjects, steps, run.climbed, done)
        finally:
            if file is not None:
                file.close()


@asynccontextmanager
async def _all_targets(targets: list[Target], options: argparse.Namespace) -> AsyncIterator[list[Target]]:
    if not options.simulated:
        yield targets
        return
    async with started_targets(published_targets(), options.speed) as started:
        yield [*started, *targets]


def _file(run: _Course, options: argparse.Namespace) -> SampleFile | None:
    """Where simulated engines are on other ports each time, their names tell them."""
    if options.out is None:
        return None
    own = set(published_rows()) if options.simulated else set()
    urls = {one.target.name: "simulated" if one.target.name in own else one.target.url for one in run.subjects}
    return SampleFile(options.out, RunHeader(seed=options.seed, targets=urls))


def _report(run: _Course, options: argparse.Namespace) -> LadderReport:
    subjects = {subject.target.name: subject for subject in run.subjects}
    rows = [subjects[target.name].row if target.name in subjects else _planned(target) for target in run.targets]
    blocks = {name: subject.block_tokens for name, subject in subjects.items()}
    troubles = [
        f"{name}: how many GPUs it has is not known, it is counted as one: say --gpus '{name}=N'"
        for name, subject in subjects.items()
        if subject.target.gpus is None
    ]
    return report_on(rows, run.climbed.samples, troubles + run.climbed.troubles, blocks, options.tie / 100)


def _planned(target: Target) -> Row:
    engine = target.told_engine or "?"
    return Row(name=target.name, config=target.config, engine=engine, gpus=target.gpus or 1, planned=True)


def _show(report: LadderReport, options: argparse.Namespace) -> None:
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        print_ladder(report, published_rows() if options.simulated else {}, options.speed)
    if options.plot is not None and report.rungs:
        try:
            write_ladder(options.plot, report)
        except OSError as error:
            raise UsageError(f"--plot {options.plot}: {error.strerror}") from error


def _is_complete(report: LadderReport) -> bool:
    """Whether every target that was run has a figure, and none has lost an answer."""
    measured = {one.target for one in report.rungs}
    return all(row.planned or row.name in measured for row in report.rows) and not any(
        one.left_out for one in report.rungs
    )
