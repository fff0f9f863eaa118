"""`prefixgate check`: validate a configuration and probe its replicas; does I/O."""

import argparse
import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
from rich.console import Console

from engines.advice import PREFILL_WORDS
from engines.launch.launcher import LaunchError
from gateway.cli.usage import Commands, add_fleet_options, command, config_of
from gateway.config import Config, PoolConfig
from gateway.routing.snapshot import ReplicaView, Snapshot
from gateway.serving.experiments.place import kept_in, trials_in
from gateway.serving.journal import open_journal
from gateway.serving.launching import missing_flags
from gateway.serving.one_token import answer_warnings
from gateway.serving.polling import looked_once


class Finding(msgspec.Struct, frozen=True):
    """One replica: the router's view of it, and warnings, one sentence each."""

    replica: ReplicaView
    warnings: list[str]


class _Advice(msgspec.Struct):
    pool: str
    verdict: str
    sentence: str


class _Learned(msgspec.Struct):
    warnings: dict[str, list[str]] = msgspec.field(default_factory=dict)
    advice: list[_Advice] = msgspec.field(default_factory=list)


class _View(msgspec.Struct):
    gateway: _Learned


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "check",
        _run,
        "validate a configuration, ask each replica for what it reports and for one token, and print every warning",
        "prefixgate check --config gateway.toml",
    )
    add_fleet_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(options: argparse.Namespace) -> int:
    config = config_of(options)
    open_journal(config)
    with kept_in(config) as store:
        trials_in(store)
    snapshot, learned = asyncio.run(_probe(config))
    findings = [Finding(replica, learned.warnings.get(replica.name, [])) for replica in snapshot.replicas]
    usable = all(any(r.state == "up" for r in snapshot.replicas if r.pool == pool.name) for pool in snapshot.pools)
    if options.json:
        report: dict[str, Any] = {"usable": usable, "notices": config.notices(), "replicas": findings}
        report["advice"] = learned.advice
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _print(config, findings, learned.advice, usable)
    return 0 if usable else 1


async def _probe(config: Config) -> tuple[Snapshot, _Learned]:
    """What a look at the replicas shows, and what a gateway that runs with this configuration has learned."""
    async with looked_once(config) as gateway:
        snapshot = gateway.snapshot()
        warnings = gateway.warnings(snapshot)
        shown = await answer_warnings(gateway, snapshot)
    learned = await _learned(config)
    for source in (shown, learned.warnings):
        for replica, sentences in source.items():
            seen = warnings.setdefault(replica, [])
            seen += [sentence for sentence in sentences if sentence not in seen]
    for pool in config.pools:
        await _compare_processes(pool, warnings)
    return snapshot, _Learned(warnings, learned.advice)


async def _compare_processes(pool: PoolConfig, warnings: dict[str, list[str]]) -> None:
    """What the processes of a launched pool lack, as far as nothing else has told it."""
    try:
        missing = await missing_flags(pool)
    except LaunchError as error:
        missing = {}
        for one in pool.spec().replicas:
            warnings.setdefault(one.name, []).append(str(error))
    for replica, flags in missing.items():
        said = warnings.setdefault(replica, [])
        untold = [flag for flag in flags if not any(flag in sentence for sentence in said)]
        said += [f"it was not started with {flag}, as the file has it: restart it" for flag in untold]


async def _learned(config: Config) -> _Learned:
    """What the running gateway knows: only traffic shows a broken cache, or what another chunk would be worth."""
    url = f"http://{config.server.host}:{config.server.admin}/api/snapshot"
    try:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            answer = await client.get(url)
        return msgspec.json.decode(answer.content, type=_View).gateway
    except (httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError):
        return _Learned()  # none runs there


def _print(config: Config, findings: list[Finding], advice: list[_Advice], usable: bool) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for finding in findings:
        replica = finding.replica
        state = replica.state if not replica.reason else f"{replica.state}: {replica.reason}"
        console.print(f"{replica.name}  {replica.url}  ", end="")
        console.print(state, style="green" if replica.state == "up" else "bold red")
        if replica.state == "up":
            console.print(f"  {_reported(replica)}")
        for warning in finding.warnings:
            console.print(f"  warning: {warning}", style="yellow")
    for one in advice:
        console.print(f"advice for the chunk of {one.pool}: {one.verdict}: {one.sentence}")
    for notice in config.notices():
        console.print(f"note: {notice}")
    if not usable:
        console.print("not usable: a pool has no replica that answers", style="bold red")


def _reported(replica: ReplicaView) -> str:
    """What the engine says of itself, on one line."""
    report, description = replica.report, replica.description
    return ", ".join(
        (
            f"version {description.version or '?'}",
            f"models {' '.join(replica.models) or '?'}",
            f"{_shown(report.kv_capacity_tokens or description.kv_capacity_tokens)} tokens of KV cache",
            f"block {_shown(report.block_tokens or description.block_tokens)}",
            *_prefill(replica),
            f"{_shown(report.running_requests)} running",
            f"{_shown(report.waiting_requests)} waiting",
            f"counted in {replica.cache.counted_in}",
        )
    )


def _prefill(replica: ReplicaView) -> Iterator[str]:
    """Each prefill setting as it is and as it is wished; the chunk always, others where one of the two is known."""
    for field, word in PREFILL_WORDS.items():
        runs, wished = getattr(replica.prefill_actual, field), getattr(replica.prefill_desired, field)
        if field == "chunk_tokens" or wished is not None or runs:
            yield f"{word} {_shown(runs)}" + ("" if wished in (None, runs) else f" (wished {_shown(wished)})")


def _shown(value: int | bool | None) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "?" if value is None else f"{value:,}"
