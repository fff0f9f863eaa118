"""A/B on the demo's fleet: do the gateway's reports find what the simulated engines were configured to be? Does I/O."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import httpx
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from engines.simulated.profile import PROFILES
from gateway.demo.fleet import PoolKind, StartError, gateway, simulated_engines
from gateway.demo.replay import chat_body
from gateway.experiments.report import Comparison, Report, Verdict

SPEED: Final = 4.0
"""Less than the demo's: the gateway's own milliseconds count this many times, and here small differences count."""
CLIENTS: Final = 2
"""As many as an arm has replicas: wherever requests go, none waits for another."""
PROMPT_TOKENS: Final = 24_576
SPREAD_TOKENS: Final = 1024
ANSWER_TOKENS: Final = 8
WARM_UP_S: Final = 3.0
_TOKEN_BYTES: Final = 4
_SETTLE_S: Final = 1.0
"""Until what was observed is written."""


def _pool(profile: str) -> PoolKind:
    return PoolKind(profile, PROFILES[profile].engine, profile, "")


@dataclass(frozen=True, slots=True)
class Contest:
    """Two engine profiles as arms, and what the report is to say of the second one."""

    control: str
    arm: str
    expected: Verdict

    @property
    def name(self) -> str:
        """The experiment's."""
        return f"{self.arm}-vs-{self.control}"

    @property
    def configured(self) -> float:
        """The relative change of TTFT between the simulated engines alone."""
        return alone_ms(self.arm) / alone_ms(self.control) - 1


CONTESTS: Final = (
    Contest("sglang-fp4", "vllm-w4a8", "better"),
    Contest("vllm-w4a16", "vllm-w4a8", "tie"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a contest. `added_ms` is by arm: measured less what the engine alone takes, on its own clock."""

    contest: Contest
    report: Report
    added_ms: dict[str, float]
    errors: int

    @property
    def comparison(self) -> Comparison:
        """In the primary metric."""
        (comparison,) = self.report.verdicts
        return comparison

    @property
    def holds(self) -> bool:
        """Whether the report says what is so: the verdict, with an interval that holds the configured difference."""
        one, true = self.comparison, self.contest.configured
        inside = one.low is not None and one.high is not None and one.low <= true <= one.high
        return one.verdict == self.contest.expected and inside and not self.errors


def alone_ms(profile: str) -> float:
    """TTFT of a fresh prompt of `PROMPT_TOKENS` at the simulated engine, chunk by chunk of its reference size."""
    engine, chunk = PROFILES[profile], 8192
    return sum(engine.chunk_ms(done, chunk, 0) for done in range(0, PROMPT_TOKENS, chunk))


async def contest(console: Console, one: Contest, requests: int, speed: float, seed: int) -> Found:
    """One A/B over real HTTP. Raises StartError or httpx.HTTPError."""
    pools = [_pool(one.control), _pool(one.arm)]
    async with (
        simulated_engines(speed, pools) as engines,
        gateway(engines, "ttft", 0, more=_table(one)) as (url, admin_url),
    ):
        errors = await _load(console, one, url, requests, seed)
        await asyncio.sleep(_SETTLE_S)
        async with httpx.AsyncClient(base_url=admin_url, trust_env=False, timeout=200) as client:
            answer = await client.get(f"/api/experiments/{one.name}/report")
    if answer.status_code != 200:
        raise StartError(f"there is no report: {answer.text}")
    report = msgspec.json.decode(answer.content, type=Report)
    return Found(one, report, _added(report, speed), errors)


def _table(one: Contest) -> str:
    return (
        f'[[experiments]]\nname = "{one.name}"\ncontrol = "{one.control}"\nwarm_up_s = {WARM_UP_S}\n'
        f'arms = {{ "{one.control}" = 0.5, "{one.arm}" = 0.5 }}\n'
    )


def _added(report: Report, speed: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for arm in report.arms:
        p50 = next((figure.value for figure in arm.figures if figure.metric == "ttft_p50"), None)
        if p50 is not None:
            found[arm.name] = p50 * speed * 1000 - alone_ms(arm.name)
    return found


async def _load(console: Console, one: Contest, url: str, requests: int, seed: int) -> int:
    """Fresh prompts, each a unit of its own, from a few clients; how many failed."""
    rng = Random(seed)
    sizes = [PROMPT_TOKENS + rng.randint(-SPREAD_TOKENS, SPREAD_TOKENS) for _ in range(requests)]
    bodies = iter([chat_body([{"role": "user", "content": _fresh(rng, size)}], ANSWER_TOKENS) for size in sizes])
    warm_until = time.monotonic() + WARM_UP_S
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(one.name, total=requests)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:

            async def ask(body: bytes) -> bool:
                answer = await client.post(
                    "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
                )
                return answer.status_code == 200 and b"[DONE]" in answer.content

            async def run() -> int:
                failed = 0
                while time.monotonic() < warm_until:
                    failed += not await ask(
                        chat_body([{"role": "user", "content": _fresh(rng, PROMPT_TOKENS)}], ANSWER_TOKENS)
                    )
                for body in bodies:
                    failed += not await ask(body)
                    progress.advance(bar)
                return failed

            return sum(await asyncio.gather(*(run() for _ in range(CLIENTS))))


def _fresh(rng: Random, tokens: int) -> str:
    return rng.randbytes(tokens * _TOKEN_BYTES // 2).hex()


async def run_contests(console: Console, requests: int, speed: float, seed: int) -> Sequence[Found]:
    """All of them, one after the other. Raises StartError or httpx.HTTPError."""
    return [await contest(console, one, requests, speed, seed) for one in CONTESTS]
