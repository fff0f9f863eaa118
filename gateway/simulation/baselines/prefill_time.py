"""The linear prefill time that policies with a time model are given: measured on the hardware simulated; pure."""

from typing import Final

PREFILL_S_PER_TOKEN: Final = 0.547 / 8192
"""A full chunk of 8192 tokens takes 547 ms."""
PREFILL_STEP_S: Final = 0.017
"""What a step takes before its first token."""


def prefill_s(tokens: int, prompts: int = 1) -> float:
    """Seconds to prefill so many uncached tokens of so many prompts."""
    return PREFILL_STEP_S * prompts + PREFILL_S_PER_TOKEN * tokens
