"""`prefixgate probe`: the answers of two targets compared, question by question; does I/O."""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gateway.cli.usage import Commands, UsageError, command
from gateway.probe.answered import Answered, AnswerFile, AnswerFileError
from gateway.probe.asking import DEFAULT_MAX_TOKENS, Manner
from gateway.probe.questions import Question, QuestionError, load_questions, own_questions, some
from gateway.probe.run import ask_all
from gateway.probe.target import HttpTarget, Target, TargetError, target_of

if TYPE_CHECKING:
    from gateway.probe.comparison import Comparison

EXAMPLE = "prefixgate probe --target w4a8=http://10.0.0.1:8000 --target fp4=http://10.0.1.1:30000"
Answers = dict[str, dict[str, Answered]]
"""By target and question."""


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands, "probe", _run, "put the same questions to two targets and compare their answers", EXAMPLE
    )
    parser.description = (
        "Put word problems with known answers to two targets at temperature 0, and say whether the second is worse. "
        "Exit status 1 if it is, or if a target did not answer. Behind a gateway a pool is a target: "
        "--target A=http://gateway:8080#pool=vllm-w4a8"
    )
    add = parser.add_argument
    add("--target", action="append", default=[], metavar="NAME=URL", help="given twice: the known one, then the other")
    add("--questions", type=Path, metavar="FILE", help='lines of {"question", "answer"[, "id"]} instead of our own set')
    add("--limit", type=int, metavar="N", help="so many of the questions, spread over the set")
    add("--model", action="append", default=[], metavar="[NAME=]MODEL", help="default: the one that a target serves")
    add("--api-key-env", action="append", default=[], metavar="[NAME=]VAR", help="environment variable with the key")
    add("--thinking", choices=("on", "off"), default="off", help="sent explicitly, engines' defaults differ (off)")
    add("--max-tokens", type=int, default=DEFAULT_MAX_TOKENS, metavar="N", help=f"({DEFAULT_MAX_TOKENS})")
    add("--seed", type=int, default=0, metavar="N", help="sent with each question (0)")
    add("--concurrency", type=int, default=1, metavar="N", help="questions at a time, at each target (1)")
    add("--timeout-s", type=float, default=600.0, metavar="S", help="for one answer (600)")
    add("--max-drop", type=float, default=0.0, metavar="POINTS", help="a loss that is not called worse (0)")
    add("--out", type=Path, metavar="FILE", help="keep answers there as JSON lines; what is there is not asked again")
    add("--html", type=Path, metavar="FILE", help="write all answers side by side")
    add("--json", action="store_true", help="print JSON")


def _run(options: argparse.Namespace) -> int:
    targets = _targets(options)
    manner = Manner(options.thinking == "on", options.max_tokens, options.seed)
    for name, least in (("limit", 1), ("max_tokens", 1), ("concurrency", 1), ("max_drop", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}")
    if options.timeout_s <= 0:
        raise UsageError("--timeout-s must be above 0")
    try:
        questions = own_questions() if options.questions is None else load_questions(options.questions)
        questions = questions if options.limit is None else some(questions, options.limit)
        with contextlib.ExitStack() as stack:
            kept = None if options.out is None else stack.enter_context(AnswerFile(options.out))
            answers = asyncio.run(_asked(targets, questions, manner, options, kept))
            trouble = "" if kept is None else kept.trouble
    except (QuestionError, AnswerFileError) as error:
        raise UsageError(str(error)) from error
    except TargetError as error:
        print(f"prefixgate: {error}", file=sys.stderr)
        return 1
    if trouble:
        print(f"prefixgate: {trouble}", file=sys.stderr)
    return max(_told(targets, questions, answers, options), 1 if trouble else 0)


def _targets(options: argparse.Namespace) -> tuple[Target, Target]:
    try:
        targets = [target_of(text) for text in options.target]
    except TargetError as error:
        raise UsageError(str(error)) from error
    names = [target.name for target in targets]
    if len(targets) != 2 or len(set(names)) != 2:
        raise UsageError("give two targets of different names: --target A=URL --target B=URL")
    models, variables = _by_name(options.model, names), _by_name(options.api_key_env, names)
    for name, variable in variables.items():
        if not os.environ.get(variable, "").strip():
            raise UsageError(f"--api-key-env: the environment variable {variable} for {name} is not set")
    first, second = (
        msgspec.structs.replace(
            target,
            model=models.get(target.name),
            key=os.environ[variables[target.name]].strip() if target.name in variables else "",
        )
        for target in targets
    )
    return first, second


def _by_name(given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` for one target, or `VALUE` for all that are not named."""
    split = [(text.partition("=")[0], text.partition("=")[2], text) for text in given]
    named = {name: value for name, value, _ in split if name in names and value}
    others = [text for name, value, text in split if not (name in names and value)]
    return {**{name: others[-1] for name in names if others}, **named}


async def _asked(
    targets: tuple[Target, Target],
    questions: Sequence[Question],
    manner: Manner,
    options: argparse.Namespace,
    kept: AnswerFile | None,
) -> Answers:
    """All answers, those that were kept before included. Raises TargetError before anything is asked."""
    answers: Answers = {target.name: {} for target in targets}
    async with contextlib.AsyncExitStack() as stack:
        asked = [await stack.enter_async_context(HttpTarget(one, manner, options.timeout_s)) for one in targets]
        for one in asked:
            await one.open()
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        bars = stack.enter_context(
            Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
        )
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for one in asked:
            mine = answers[one.target.name]
            if kept is not None:
                known = {question.id: kept.known.get((one.target.name, one.asked(question))) for question in questions}
                mine.update({name: answer for name, answer in known.items() if answer is not None})
            bar = bars.add_task(one.target.name, total=len(questions), completed=len(mine))

            def told(answer: Answered, mine: dict[str, Answered] = mine, bar: object = bar) -> None:
                mine[answer.id] = answer
                bars.advance(bar)  # type: ignore[arg-type]
                if kept is not None:
                    kept.add(answer)

            new = [question for question in questions if question.id not in mine]
            group.create_task(ask_all(one, new, options.concurrency, told))
    return answers


def _told(
    targets: tuple[Target, Target], questions: Sequence[Question], answers: Answers, options: argparse.Namespace
) -> int:
    from gateway.probe.comparison import compared  # scipy takes a second to import
    from gateway.probe.judging import Verdict
    from gateway.probe.page import page

    names = (targets[0].name, targets[1].name)
    comparison = compared(questions, names, answers[names[0]], answers[names[1]], options.max_drop / 100)
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(comparison), indent=2).decode())
    else:
        _print(comparison)
    if options.html is not None:
        try:
            options.html.write_text(page(comparison), encoding="utf-8")
        except OSError as error:
            print(f"prefixgate: {options.html}: cannot be written: {error.strerror or error}", file=sys.stderr)
            return 1
    return 1 if comparison.verdict in (Verdict.WORSE, Verdict.FAILED) else 0


def _print(comparison: "Comparison") -> None:
    from gateway.cli.probe_tables import differing_table, scores_table

    console = Console(highlight=False)
    console.print(scores_table(comparison))
    count = comparison.compared
    console.print(
        f"same answer {comparison.same_answer}/{count}, identical text {comparison.same_text}/{count}; right at one "
        f"only: {comparison.only_left} and {comparison.only_right} (McNemar, exact: p = {comparison.p_value:.3g})"
    )
    if any(score.cut for score in comparison.scores):
        console.print("answers were cut off before their end: raise --max-tokens", style="yellow")
    differing = differing_table(comparison)
    if differing.row_count:
        console.print(differing)
    console.print(comparison.sentence, markup=False, style="bold")
