"""Copies between two real vLLM servers of one model: the same texts, both caches filled, both told of truly."""

from typing import Any

import httpx
import pytest
from gateways import admin, gateway_of, nothing_is_booked, until
from real_vllm import RealVllm

pytestmark = [pytest.mark.real_vllm, pytest.mark.filterwarnings("default")]

SESSIONS, TURNS = 6, 3


async def test_a_copy_says_and_caches_the_same(vllms: list[RealVllm]) -> None:
    pools: list[dict[str, Any]] = [
        {"name": name, "engine": "vllm", "replicas": [server.url], "pinned_only": name == "spare"}
        for name, server in zip(("real", "spare"), vllms, strict=True)
    ]
    shadow = {"name": "s", "to": "spare", "share": 1.0, "compare": "text"}
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        for server in vllms:
            (await client.post(server.url + "/reset_prefix_cache")).raise_for_status()
    async with (
        gateway_of(pools, shadows=[shadow], limit_s=500) as run,
        httpx.AsyncClient(base_url=run.url, trust_env=False, timeout=120) as http,
        admin(run) as operator,
    ):
        for session in range(SESSIONS):
            text = f"session {session}: " + "prefix cache router " * 150
            for turn in range(TURNS):
                text += f" and turn {turn} "
                body = {"model": "tiny", "temperature": 0, "max_tokens": 16, "stream": turn % 2 == 0}
                answer = await http.post(
                    "/v1/chat/completions", json={**body, "messages": [{"role": "user", "content": text}]}
                )
                assert answer.headers["x-prefixgate-pool"] == "real"
                done = session * TURNS + turn + 1
                await until(lambda done=done: _figures(run).counts["completed"] == done)  # type: ignore[misc]
        await until(lambda: _figures(run).same + _figures(run).differed == SESSIONS * TURNS)
        assert nothing_is_booked(run)
        figures = _figures(run)
        assert (figures.same, figures.differed) == (SESSIONS * TURNS, 0)
        assert all(pair.own_cached == pair.copy_cached for pair in figures.pairs)
        assert sum(pair.own_cached or 0 for pair in figures.pairs) > 0
        [shown] = (await operator.get("/api/snapshot")).json()["shadows"]
        print({name: shown[name] for name in ("paired", "own_ttft_s", "copy_ttft_s", "ttft_ratio", "own_hit_rate")})


def _figures(run: Any) -> Any:
    return run.gateway.shadows.figures()[0]
