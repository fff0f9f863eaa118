"""What each engine and checkpoint costs in time and memory, calibrated to published measurements; pure.

Source of the measured figures: the model card of endnai/DeepSeek-V4-Flash-W4A8-FP8 (single-request prefill ladder
on H200, chunk 8192): TTFT of a 24,576-token prompt per configuration, +547 ms for each 8,192 tokens above the first
8,192, and 7 % less TTFT with a chunk of 16,384. Everything else is an assumption, and is called one.
"""

from dataclasses import dataclass, replace
from typing import Self

from engines.simulated.published import PUBLISHED, REFERENCE_PROMPT_TOKENS, Engine

REFERENCE_CHUNK_TOKENS = 8192
"""The chunk of the measurements, and the prompt length where the TTFT curve has its knee."""


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """Costs of one engine, checkpoint and GPU count. `*_ms` and `*_us` are on an otherwise idle engine.

    Measured: `knee_ms` (TTFT of 8,192 uncached tokens), `slope_ms` (each further 8,192 tokens at chunk 8192, of which
    `chunk_reload_ms` is the price of beginning another chunk: reading the earlier context again).
    """

    name: str
    engine: Engine
    gpus: int
    knee_ms: float
    slope_ms: float
    chunk_reload_ms: float
    floor_ms: float
    """Assumption: TTFT of a prompt of (almost) no uncached tokens; below the knee the curve is linear."""
    reload_ramp_tokens: int = 1024
    """Assumption: a later chunk shorter than this pays its reload in proportion, so that TTFT has no jumps."""
    cached_us_per_token: float = 1.0
    """Assumption: attending to one cached token of context, paid once per request."""
    decode_base_ms: float = 10.0
    """Assumption: a step that only decodes, apart from its sequences."""
    decode_sequence_ms: float = 0.15
    """Assumption: each decoding sequence of a step."""
    kv_tokens: int = 600_000
    """Assumption: KV capacity with a chunk of 8192."""
    kv_tokens_per_chunk_token: float = 8.0
    """Assumption: KV tokens given up for each token by which the chunk exceeds 8192 (activation memory)."""

    def prefill_ms(self, tokens: int) -> float:
        """TTFT of `tokens` uncached tokens in a single chunk, nothing cached."""
        if tokens <= REFERENCE_CHUNK_TOKENS:
            return self.floor_ms + (self.knee_ms - self.floor_ms) * tokens / REFERENCE_CHUNK_TOKENS
        per_token_ms = (self.slope_ms - self.chunk_reload_ms) / REFERENCE_CHUNK_TOKENS
        return self.knee_ms + per_token_ms * (tokens - REFERENCE_CHUNK_TOKENS)

    def chunk_ms(self, done_tokens: int, chunk_tokens: int, cached_tokens: int) -> float:
        """One chunk of a request whose `done_tokens` uncached tokens went through before it.

        The first chunk also pays the floor and the attention to `cached_tokens`; a later one pays the reload.
        """
        if not done_tokens:
            return self.prefill_ms(chunk_tokens) + self.cached_us_per_token * cached_tokens / 1000
        ramp = min(1.0, chunk_tokens / self.reload_ramp_tokens)
        grown_ms = self.prefill_ms(done_tokens + chunk_tokens) - self.prefill_ms(done_tokens)
        return grown_ms + self.chunk_reload_ms * ramp

    def kv_capacity_tokens(self, chunk_tokens: int, kv_tokens: int | None = None) -> int:
        """KV capacity with this chunk; `kv_tokens` replaces the profile's own figure for a chunk of 8192."""
        base = self.kv_tokens if kv_tokens is None else kv_tokens
        return int(base - self.kv_tokens_per_chunk_token * (chunk_tokens - REFERENCE_CHUNK_TOKENS))

    def faster(self, speed: float) -> Self:
        """The same engine with every duration divided by `speed`: seen from outside, time is compressed."""
        return replace(
            self,
            knee_ms=self.knee_ms / speed,
            slope_ms=self.slope_ms / speed,
            chunk_reload_ms=self.chunk_reload_ms / speed,
            floor_ms=self.floor_ms / speed,
            cached_us_per_token=self.cached_us_per_token / speed,
            decode_base_ms=self.decode_base_ms / speed,
            decode_sequence_ms=self.decode_sequence_ms / speed,
        )


def _calibrated(name: str, *, slope_ms: float, floor_ms: float) -> EngineProfile:
    """The profile with the published TTFT at 24,576 tokens and chunk 8192, and 7 % less with a chunk of 16,384.

    With the larger chunk that prompt takes one chunk fewer, so one reload is 7 % of its TTFT. The 7 % was measured
    on SGLang only; for the others it is an assumption.
    """
    row = PUBLISHED[name]
    further_chunks = REFERENCE_PROMPT_TOKENS // REFERENCE_CHUNK_TOKENS - 1
    return EngineProfile(
        name=name,
        engine=row.engine,
        gpus=row.gpus,
        knee_ms=row.ttft_ms - further_chunks * slope_ms,
        slope_ms=slope_ms,
        chunk_reload_ms=0.07 * row.ttft_ms,
        floor_ms=floor_ms,
    )


PROFILES: dict[str, EngineProfile] = {
    profile.name: profile
    for profile in (
        _calibrated("vllm-w4a8", slope_ms=547, floor_ms=17),
        _calibrated("vllm-w4a16", slope_ms=547, floor_ms=17),
        _calibrated("vllm-fp4", slope_ms=547, floor_ms=17),
        _calibrated("sglang-fp4", slope_ms=547, floor_ms=25),
        # The slope was measured at TP2; twice the GPUs halve it (assumption).
        _calibrated("sglang-fp8-tp4", slope_ms=547 / 2, floor_ms=25),
    )
}
"""The configurations of the source's headline table, by name."""
