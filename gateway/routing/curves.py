"""Learned curves: milliseconds to prefill u uncached tokens, and bytes per token; pure."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

PRIOR_BASE_MS: Final = 17.0
PRIOR_MS_PER_TOKEN: Final = 547 / 8192
"""DeepSeek-V4-Flash W4A8 on vLLM, 2×H200: 1658 ms at 24,576 tokens, +547 ms per 8192 (the seed's ladder)."""

_FORGET: Final = 0.98
_PRIOR_TOKENS: Final = (0.0, 8192.0)
_SURPRISE: Final = 2.0
_LEAST_MS: Final = 0.1
_ENOUGH: Final = 16
_TEXT_RATIO: Final = (0.5, 32.0)


class PrefillCurve:
    """`base_ms + ms_per_token · u`, fitted online by recency-weighted least squares of the relative error.

    Starts from the prior, which counts like one observation at each end. One observation moves the fit by no
    more than a measurement `_SURPRISE` times off would, so that a stall cannot bend the curve. The error is
    relative to the prediction, not to the measurement: else one that is far too short would outweigh all others.
    """

    def __init__(self, base_ms: float = PRIOR_BASE_MS, ms_per_token: float = PRIOR_MS_PER_TOKEN) -> None:
        self.observations = 0
        self.start_from(base_ms, ms_per_token)

    def start_from(self, base_ms: float, ms_per_token: float) -> None:
        """Take this line as the prior, in place of all that was learned."""
        self.base_ms = base_ms
        self.ms_per_token = ms_per_token
        self._sums = [0.0] * 5  # of w, w·u, w·u², w·y, w·u·y
        for tokens in _PRIOR_TOKENS:
            expected = base_ms + ms_per_token * tokens
            self._add(tokens, expected, expected)

    def predict_ms(self, uncached_tokens: float) -> float:
        """Milliseconds from the start of prefill to the first token."""
        return self.base_ms + self.ms_per_token * uncached_tokens

    def observe(self, uncached_tokens: float, measured_ms: float) -> None:
        """Learn from one request: its uncached tokens and its time to first token less its wait."""
        predicted = self.predict_ms(uncached_tokens)
        measured = max(min(max(measured_ms, predicted / _SURPRISE), predicted * _SURPRISE), _LEAST_MS)
        self.observations += 1
        self._sums = [_FORGET * total for total in self._sums]
        self._add(uncached_tokens, measured, predicted)
        w, wu, wuu, wy, wuy = self._sums
        spread = w * wuu - wu * wu
        if spread > 1e-9 * w * wuu:
            slope = (w * wuy - wu * wy) / spread
            if slope > 0 and (wy - slope * wu) > 0:
                self.ms_per_token, self.base_ms = slope, (wy - slope * wu) / w
                return
        # Degenerate (all requests alike, or a negative part): keep the shape, move its scale.
        fitted = self.base_ms * w + self.ms_per_token * wu
        self.base_ms *= wy / fitted
        self.ms_per_token *= wy / fitted

    def _add(self, tokens: float, ms: float, expected_ms: float) -> None:
        # Relative error: a small prompt teaches as much as a large one.
        weight = 1.0 / max(expected_ms, _LEAST_MS) ** 2
        terms = (1.0, tokens, tokens * tokens, ms, tokens * ms)
        self._sums = [total + weight * term for total, term in zip(self._sums, terms, strict=True)]


def best_known(curves: Sequence[PrefillCurve]) -> PrefillCurve:
    """The first curve that has seen enough, else the last: give the most particular first.

    A replica that was never measured borrows its pool's curve, a new pool the fleet's. Without that, the
    first replica to be measured as faster than the prior would keep all the traffic.
    """
    return next((curve for curve in curves if curve.observations >= _ENOUGH), curves[-1])


def is_plain_text(prompt_bytes: int, prompt_tokens: int) -> bool:
    """Whether so many tokens can be so many bytes of text; not so with images, or with a stored conversation."""
    return prompt_tokens > 0 and _TEXT_RATIO[0] <= prompt_bytes / prompt_tokens <= _TEXT_RATIO[1]


class TokenRatio:
    """Bytes of canonical prompt per engine token, from `usage.prompt_tokens`; a recency-weighted ratio of sums."""

    def __init__(self, bytes_per_token: float = 4.0, prior_tokens: float = 200.0) -> None:
        self._bytes = bytes_per_token * prior_tokens
        self._tokens = prior_tokens

    @property
    def bytes_per_token(self) -> float:
        """The current estimate, above 0."""
        return self._bytes / self._tokens

    def observe(self, prompt_bytes: int, prompt_tokens: int) -> None:
        """Learn from one finished request; one that is not plain text (an image, a stored response) is left out."""
        if is_plain_text(prompt_bytes, prompt_tokens):
            self._bytes = self._bytes * _FORGET + prompt_bytes
            self._tokens = self._tokens * _FORGET + prompt_tokens


class TokenRatios:
    """Bytes per token of single prefix families: texts differ more than a hit may be off. The latest count each."""

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._ratios: OrderedDict[int, float] = OrderedDict()

    def of(self, family: int | None, otherwise: float) -> float:
        """The family's ratio, or the pool's where the family was never counted."""
        return otherwise if family is None else self._ratios.get(family, otherwise)

    def observe(self, family: int | None, prompt_bytes: int, prompt_tokens: int) -> None:
        """Learn from one finished request."""
        if family is None or not is_plain_text(prompt_bytes, prompt_tokens):
            return
        self._ratios[family] = prompt_bytes / prompt_tokens
        self._ratios.move_to_end(family)
        if len(self._ratios) > self._limit:
            self._ratios.popitem(last=False)
