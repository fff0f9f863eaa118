"""What engines that nobody disturbs say to each question of a corpus; does I/O."""

import asyncio
from collections.abc import Sequence

import httpx

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings
from storm.asks import MODEL, Ask
from storm.reading import Said, read_whole

SPEED = 5000.0


async def expected_answers(corpus: Sequence[Ask]) -> dict[bytes, Said]:
    """By body; both dialects must say the same. Raises ValueError where they do not."""
    answers: dict[bytes, Said] = {}
    for dialect in ("vllm", "sglang"):
        settings = SimulatorSettings(dialect=dialect, model=MODEL, speed=SPEED)
        async with serving(settings) as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
            gate = asyncio.Semaphore(8)

            async def one(ask: Ask, http: httpx.AsyncClient = http, gate: asyncio.Semaphore = gate) -> None:
                async with gate:
                    answer = await http.post(ask.path, content=ask.plain_body)
                answer.raise_for_status()
                said = read_whole(ask, answer.content)
                if answers.setdefault(ask.body, said) != said:
                    raise ValueError(f"vLLM says {answers[ask.body]}, SGLang {said}")

            await asyncio.gather(*(one(ask) for ask in corpus if ask.refused is None))
    return answers
