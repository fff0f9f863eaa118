"""The published table that simulated engines are calibrated to; pure.

Source: the model card of endnai/DeepSeek-V4-Flash-W4A8-FP8, "W4A8 leads the TP2 matrix": single-request prefill on
H200, 24,576 tokens.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Engine = Literal["vllm", "sglang"]

REFERENCE_PROMPT_TOKENS = 24_576


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row as it was printed.

    Tokens over TTFT over GPUs make the printed throughput in the rows of W4A8, W4A16 and FP8, but not in those of
    FP4: 24,576 tokens in 1824 and 1894 ms on two GPUs are 6737 and 6488 tok/s/GPU. Those two would be right for
    about 25,870 tokens.
    """

    config: str
    engine: Engine
    gpus: int
    ttft_ms: float
    tokens_per_s_per_gpu: float


PUBLISHED = MappingProxyType(
    {
        "vllm-w4a8": PublishedRow("W4A8", "vllm", 2, 1658, 7410),
        "vllm-w4a16": PublishedRow("W4A16", "vllm", 2, 1691, 7267),
        "vllm-fp4": PublishedRow("FP4 Marlin", "vllm", 2, 1824, 7090),
        "sglang-fp4": PublishedRow("FP4 Marlin", "sglang", 2, 1894, 6832),
        "sglang-fp8-tp4": PublishedRow("FP8", "sglang", 4, 892, 6888),
    }
)
"""By the name of the profile."""
