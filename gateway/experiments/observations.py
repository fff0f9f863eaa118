"""What was observed of an experiment, one row a request, as columns; pure data."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Observations:
    """Columns of equal length n, one entry for each request that was exposed, in order of `at_s`.

    `arm` indexes `arms`; `unit` is the hash of the unit of randomisation, so equal units have equal arms. `at_s` is
    seconds since the experiment began to count. Times are seconds and NaN where there was none (`ttft_s` of a plain
    body, `itl_s` of an answer of one frame); tokens are the engine's word, NaN where it gave none. `failed`: the engine
    failed or timed out; `refused`: nobody took it; `crossed`: it was answered outside of its arm.
    """

    arms: tuple[str, ...]
    arm: NDArray[np.int16]
    unit: NDArray[np.uint64]
    at_s: NDArray[np.float64]
    ttft_s: NDArray[np.float64]
    itl_s: NDArray[np.float64]
    request_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.float64]
    cached_tokens: NDArray[np.float64]
    completion_tokens: NDArray[np.float64]
    failed: NDArray[np.bool_]
    refused: NDArray[np.bool_]
    crossed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.arm)
