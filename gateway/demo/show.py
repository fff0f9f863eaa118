"""Runs the demo and shows it: progress, the table, then where to look; does I/O."""

import asyncio
import contextlib
import json
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import msgspec
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from engines.registry import dialect
from gateway.demo.fleet import (
    KV_TOKENS,
    MODEL,
    POOLS,
    SPEED,
    SimulatedEngine,
    StartError,
    flush,
    gateway,
    simulated_engines,
)
from gateway.demo.replay import Measured, Run, replay
from gateway.demo.workload import Session, Shape, sessions
from gateway.routing.snapshot import quantile

POLICIES: Final = ("round-robin", "least-load", "prefix", "ttft")
"""In the order of the table; the last one's gateway stays up."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `hit_rate` is cached over prompt tokens as the engines reported them."""

    policy: str
    hit_rate: float
    ttft_p50_ms: float
    ttft_p90_ms: float
    ttft_p99_ms: float
    requests: int
    errors: int


async def run_demo(seed: int, port: int, json_file: Path | None, *, oneshot: bool) -> int:
    """The whole demo; its exit status. Ends in order when its task is cancelled, as SIGINT and SIGTERM do."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    console = Console()
    try:
        return await _show(console, seed, port, json_file, oneshot=oneshot)
    except StartError as error:
        console.print(f"prefixgate: {error}", markup=False)
        return 1


async def _show(console: Console, seed: int, port: int, json_file: Path | None, *, oneshot: bool) -> int:
    shape = Shape()
    load = sessions(shape, seed)
    console.print(
        f"Simulated fleet: 2 vLLM W4A8 and 2 SGLang FP4 replicas, {KV_TOKENS:,} tokens of cache each, time "
        f"{SPEED:g}× compressed.\nWorkload (seed {seed}): {shape.requests} requests, {shape.sessions} sessions of "
        f"{shape.turns} turns over {shape.families} system prompts, the same for every policy.",
        highlight=False,
    )
    rows: list[Row] = []
    table = _table()
    async with simulated_engines() as engines:
        for policy in POLICIES:
            last = policy == POLICIES[-1]
            async with gateway(engines, policy, _free(port) if last and not oneshot else 0) as (url, admin_url):
                run = await _measure(console, policy, url, engines, load, shape)
                rows.append(_row(policy, run.measured, run.errors))
                _add(table, rows[-1], run)
                if last:
                    console.print(table)
                    console.print(_verdict(rows), highlight=False)
                    if json_file is not None:
                        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
                if last and not oneshot:
                    await _stay(console, url, admin_url)
    return 1 if any(row.errors for row in rows) else 0


async def _measure(
    console: Console, policy: str, url: str, engines: list[SimulatedEngine], load: list[Session], shape: Shape
) -> Run:
    """One policy's run, from empty caches, with its progress; checked against the engines' own counters."""
    await flush(engines)
    before = await _counters(engines)
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=False) as progress:
        bar = progress.add_task(policy, total=shape.requests)
        run = await replay(url, load, shape, lambda: progress.advance(bar))
    after = await _counters(engines)
    prompt, cached = (now - then for now, then in zip(after, before, strict=True))
    answered = sum(measured.usage.prompt_tokens for measured in run.measured)
    if not run.errors and prompt != answered:
        raise StartError(f"the engines counted {prompt} prompt tokens, their answers {answered}: nothing is comparable")
    if not run.errors and cached != sum(measured.usage.cached_tokens or 0 for measured in run.measured):
        raise StartError("the engines' counters and their answers disagree on cached tokens")
    return run


async def _counters(engines: list[SimulatedEngine]) -> tuple[int, int]:
    """Prompt and cached tokens, summed over the engines' own metrics."""
    prompt = cached = 0
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        for engine in engines:
            speaks = dialect(engine.dialect)
            pages = {path: (await client.get(engine.url + path)).content for path in speaks.load_paths}
            report = speaks.read_load(pages)
            prompt += report.prompt_tokens_total or 0
            cached += report.cached_tokens_total or 0
    return prompt, cached


def _row(policy: str, measured: list[Measured], errors: int) -> Row:
    ttfts = sorted(one.ttft_ms for one in measured)
    prompt = sum(one.usage.prompt_tokens for one in measured)
    cached = sum(one.usage.cached_tokens or 0 for one in measured)
    p50, p90, p99 = (round(quantile(ttfts, share) or 0.0, 1) for share in (0.5, 0.9, 0.99))
    return Row(policy, round(cached / prompt, 4) if prompt else 0.0, p50, p90, p99, len(measured) + errors, errors)


def _table() -> Table:
    title = "Hit rate by the engines' own count; time to first token at the client, in ms of the engines' clock"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("policy", "pool"):
        table.add_column(column, no_wrap=True)
    for column in ("req.", "err.", "hit rate", "p50 ms", "p90 ms", "p99 ms"):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _add(table: Table, row: Row, run: Run) -> None:
    """A line for the policy and one for each of its pools."""
    lines = [(row.policy, "all", row)]
    for pool in POOLS:
        measured = [one for one in run.measured if one.pool == pool.name]
        if measured:
            lines.append(("", pool.name, _row(row.policy, measured, 0)))
    for policy, pool_name, line in lines:
        figures = (line.ttft_p50_ms, line.ttft_p90_ms, line.ttft_p99_ms)
        shown = [f"{figure:,.0f}" for figure in figures]
        errors = str(line.errors) if pool_name == "all" else ""
        table.add_row(policy, pool_name, str(line.requests), errors, f"{line.hit_rate:.1%}", *shown)
    table.add_section()


def _verdict(rows: list[Row]) -> str:
    base, best = rows[0], rows[-1]
    points = 100 * (best.hit_rate - base.hit_rate)
    factor = base.ttft_p50_ms / best.ttft_p50_ms if best.ttft_p50_ms else 0.0
    return (
        f"{best.policy} against {base.policy}: {points:+.1f} points of hit rate, "
        f"median time to first token {factor:.1f}× shorter."
    )


def _free(port: int) -> int:
    """The port, or 0 (any) when something listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


async def _stay(console: Console, url: str, admin_url: str) -> None:
    """Leave everything up until the task is cancelled (Ctrl-C)."""
    question = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": True})
    console.print(f"\nGateway    {url}/v1\nDashboard  {admin_url}/\nTry:", highlight=False)
    console.print(
        f"  curl -N {url}/v1/chat/completions -H 'content-type: application/json' -d '{question}'", soft_wrap=True
    )
    console.print("Ctrl-C ends gateway and engines.")
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
