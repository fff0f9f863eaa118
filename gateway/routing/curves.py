"""Learned curves: milliseconds to prefill u uncached tokens, and bytes per token; pure."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice
from math import ceil, exp, log
from typing import Final, NamedTuple

from gateway.routing.least_squares import QuadraticSums

PRIOR_BASE_MS: Final = 17.0
PRIOR_MS_PER_TOKEN: Final = 547 / 8192
"""DeepSeek-V4-Flash W4A8 on vLLM, 2×H200: 1658 ms at 24,576 tokens, +547 ms per 8192 (the seed's ladder)."""

_FORGET: Final = 0.98
_KEEP: Final = 0.99
"""Of what is known in one direction, by one more observation there."""
_PACE: Final = 0.02
"""What one observation moves the pace by, of its error; the first ones move it by more."""
_BEGINNING: Final = 4
"""The first observations move the pace only: what is limited is no measure of the shape."""
_PRIOR_TOKENS: Final = (0.0, 8192.0, 65_536.0)
_PRIOR_WEIGHT: Final = 0.1
_LIMITS: Final = (0.25, 1.0)
_LIMIT_SPREADS: Final = 2.0
_MISFITS: Final = 32
_UNIT_TOKENS: Final = 8192.0
_LEAST_MS: Final = 0.1
_LEAST_BASE_MS: Final = 1e-3
_LEAST_MS_PER_TOKEN: Final = 1e-6
ENOUGH: Final = 16
"""Observations after which a curve is believed."""
_USUAL_TOKENS: Final = 4096
_CHANCE: Final = 0.15
"""Replicas that differ no more than so much (as a logarithm) from their pool may well be alike."""
_TEXT_RATIO: Final = (0.5, 32.0)

REFERENCE_CHUNK: Final = 8192
LONG_TOKENS: Final = 24_576
DOUBLED_GAIN: Final = 0.07
"""Of a prompt of `LONG_TOKENS` the share of its time that a chunk twice `REFERENCE_CHUNK` saves (measured on SGLang by
the source of the prior). It then takes two chunks, not three: so much is the price of beginning another one.
"""
_RELOAD: Final = DOUBLED_GAIN / (1 - 2 * DOUBLED_GAIN)
"""The same price as a share of that prompt's own work."""


class Prefill(NamedTuple):
    """One measured prefill: milliseconds for so many uncached tokens."""

    uncached_tokens: int
    ms: float


class PrefillCurve:
    """`base_ms + ms_per_token · u + ms_per_token2 · u²`, fitted online by least squares of the relative error.

    Each observation moves the pace (all terms alike: an engine that slows down does so at every length), then, but
    for the first few, the shape; no term is ever negative. The prior counts like a tenth of an observation at each of
    three lengths; what is learned of long prompts is not forgotten over short ones.

    A measurement counts for no more than one `1 + limit` times off would. The limit follows the usual error, so that a
    stall hardly bends a curve that fits. After `_MISFITS` in a row beyond it, all too long or all too short, the curve
    begins anew from where it is, in the big steps of a beginner. Errors are relative to the prediction, not to the
    measurement: else one that is far too short would outweigh all others.

    The curve measures itself on each observation before it learns from it: see `bias` and `mape`.
    """

    __slots__ = (
        "_age", "_errors", "_misfits", "_spread", "_sums", "base_ms", "ms_per_token", "ms_per_token2", "observations",
    )  # fmt: skip

    def __init__(self, base_ms: float = PRIOR_BASE_MS, ms_per_token: float = PRIOR_MS_PER_TOKEN) -> None:
        self.observations = 0
        self._errors = (0.0, 0.0, 0.0)  # recency-weighted sums of 1, of errors and of their sizes
        self.start_from(base_ms, ms_per_token)

    def start_from(self, base_ms: float, ms_per_token: float, ms_per_token2: float = 0.0) -> None:
        """Take these terms as the prior, in place of all that was learned."""
        self.base_ms = base_ms
        self.ms_per_token = ms_per_token
        self.ms_per_token2 = ms_per_token2
        self._age = 0  # observations since
        self._misfits = 0  # in a row beyond the limit, negative for too short ones
        self._spread = _LIMITS[1] / _LIMIT_SPREADS
        self._sums: QuadraticSums | None = None  # the prior's, unless something was learned

    def _prior(self) -> QuadraticSums:
        sums = QuadraticSums()
        for tokens in _PRIOR_TOKENS:
            expected = max(self.predict_ms(tokens), _LEAST_MS)
            sums.add(tokens / _UNIT_TOKENS, expected, _PRIOR_WEIGHT / expected**2)
        return sums

    @property
    def bias(self) -> float | None:
        """How much longer than predicted prefills were, as a share of the prediction; None until observed.

        A recency-weighted mean over errors of predictions made before their outcome was learned. Above 0 the curve is
        too low. A single error counts for at most 1 (100 %), or one stall would be all that is seen.
        """
        weight, errors, _ = self._errors
        return errors / weight if weight else None

    @property
    def mape(self) -> float | None:
        """The mean absolute error of the same predictions, each as a share of the prediction and at most 1."""
        weight, _, sizes = self._errors
        return sizes / weight if weight else None

    def predict_ms(self, uncached_tokens: float) -> float:
        """Milliseconds from the start of prefill to the first token."""
        return self.base_ms + uncached_tokens * (self.ms_per_token + uncached_tokens * self.ms_per_token2)

    def observe(self, uncached_tokens: float, measured_ms: float) -> None:
        """Learn from one request: its uncached tokens and the time of its prefill without any wait."""
        predicted = max(self.predict_ms(uncached_tokens), _LEAST_MS)
        self._measure_itself(min(measured_ms / predicted - 1.0, 1.0))
        self.observations += 1
        if abs(self._misfits) >= _MISFITS:
            self.start_from(self.base_ms, self.ms_per_token, self.ms_per_token2)
        sums = self._sums = self._sums or self._prior()
        self._age += 1
        measured = self._limited(measured_ms, predicted)
        pace = 1.0 + max(_PACE, 1.0 / (self._age + 2)) * (measured / predicted - 1.0)
        sums.scale(pace)
        base, linear, quadratic = self.base_ms * pace, self.ms_per_token * pace, self.ms_per_token2 * pace
        if self._age > _BEGINNING:
            expected = max(predicted * pace, _LEAST_MS)
            sums.add(uncached_tokens / _UNIT_TOKENS, measured, 1.0 / expected**2, _KEEP)
            terms = sums.fit()
            if terms is not None:
                base, linear, quadratic = terms[0], terms[1] / _UNIT_TOKENS, terms[2] / _UNIT_TOKENS**2
        self.base_ms = max(base, _LEAST_BASE_MS)
        self.ms_per_token = max(linear, _LEAST_MS_PER_TOKEN)
        self.ms_per_token2 = quadratic

    def _measure_itself(self, error: float) -> None:
        weight, errors, sizes = self._errors
        self._errors = (_FORGET * weight + 1.0, _FORGET * errors + error, _FORGET * sizes + abs(error))

    def _limited(self, measured_ms: float, predicted_ms: float) -> float:
        """The measurement, or the limit that it is beyond; the usual error is one of limited measurements, too."""
        least, most = _LIMITS
        limit = 1.0 + min(max(_LIMIT_SPREADS * self._spread, least), most)
        if measured_ms > predicted_ms * limit:
            self._misfits = max(self._misfits, 0) + 1
        elif measured_ms < predicted_ms / limit:
            self._misfits = min(self._misfits, 0) - 1
        else:
            self._misfits = 0
        measured = max(min(max(measured_ms, predicted_ms / limit), predicted_ms * limit), _LEAST_MS)
        self._spread += (1.0 - _FORGET) * (abs(measured / predicted_ms - 1.0) - self._spread)
        return measured


def blended(own: PrefillCurve, of_pool: PrefillCurve) -> PrefillCurve:
    """The pool's curve at the replica's own pace, as far as the two differ by more than chance.

    Replicas of a pool are alike, and what is measured of one is noisy: by its own curve alone, the one that happens to
    look fast would get the traffic. A replica that is really slower is soon far beyond `_CHANCE`, and believed.
    """
    apart = log(own.predict_ms(_USUAL_TOKENS) / of_pool.predict_ms(_USUAL_TOKENS))
    pace = exp(apart * apart**2 / (apart**2 + _CHANCE**2))
    curve = PrefillCurve()
    curve.base_ms = of_pool.base_ms * pace
    curve.ms_per_token = of_pool.ms_per_token * pace
    curve.ms_per_token2 = of_pool.ms_per_token2 * pace
    curve.observations, curve._errors = own.observations, own._errors
    return curve


def reload_ms(long_ms: float, chunk_tokens: int) -> float:
    """The published price of beginning another chunk where a prompt of `LONG_TOKENS` takes `long_ms` with this one."""
    return long_ms * _RELOAD / (1 + _RELOAD * (ceil(LONG_TOKENS / chunk_tokens) - 1))


def rechunked(curve: PrefillCurve, ran: int, runs: int) -> PrefillCurve:
    """What a curve that was learned with a chunk of `ran` tokens should be with one of `runs`: a prior, until measured.

    Each chunk reads the context before it again, so a token costs less the fewer chunks there are. With a smaller chunk
    the prior is the curve as it is: by a gloomy one the replica would get no traffic, and never be measured.
    """
    begun, left = ceil(LONG_TOKENS / ran), ceil(LONG_TOKENS / max(ran, runs))
    saved = reload_ms(curve.predict_ms(LONG_TOKENS), ran) * (begun - left) / LONG_TOKENS
    other = PrefillCurve()
    other.start_from(curve.base_ms, max(curve.ms_per_token - saved, curve.ms_per_token / 4), curve.ms_per_token2)
    other.observations = curve.observations
    return other


def best_known(curves: Sequence[PrefillCurve]) -> PrefillCurve:
    """The first curve that has seen enough, else the last: give the most particular first.

    A replica that was never measured borrows its pool's curve, a new pool the fleet's. Without that, the
    first replica to be measured as faster than the prior would keep all the traffic.
    """
    return next((curve for curve in curves if curve.observations >= ENOUGH), curves[-1])


def is_plain_text(prompt_bytes: int, prompt_tokens: int) -> bool:
    """Whether so many tokens can be so many bytes of text; not so with images, or with a stored conversation."""
    return prompt_tokens > 0 and _TEXT_RATIO[0] <= prompt_bytes / prompt_tokens <= _TEXT_RATIO[1]


class TokenRatio:
    """Bytes of canonical prompt per engine token, from `usage.prompt_tokens`; a recency-weighted ratio of sums."""

    def __init__(self, bytes_per_token: float = 4.0, prior_tokens: float = 200.0) -> None:
        self._learned = False
        self._bytes = bytes_per_token * prior_tokens
        self._tokens = prior_tokens

    @property
    def bytes_per_token(self) -> float:
        """The current estimate, above 0."""
        return self._bytes / self._tokens

    def start_from(self, bytes_per_token: float) -> None:
        """Take this as the prior, if nothing was learned yet."""
        if not self._learned and bytes_per_token > 0:
            self._bytes = bytes_per_token * self._tokens

    def observe(self, prompt_bytes: int, prompt_tokens: int) -> None:
        """Learn from one finished request; one that is not plain text (an image, a stored response) is left out."""
        if is_plain_text(prompt_bytes, prompt_tokens):
            self._learned = True
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

    def latest(self, count: int) -> list[tuple[int, float]]:
        """The families that were counted last, the latest at the end."""
        return list(islice(reversed(self._ratios.items()), count))[::-1]

    def start_from(self, ratios: Iterable[tuple[int, float]]) -> None:
        """Take these for families that were not counted yet."""
        for family, ratio in ratios:
            if ratio > 0 and len(self._ratios) < self._limit:
                self._ratios.setdefault(family, ratio)

    def observe(self, family: int | None, prompt_bytes: int, prompt_tokens: int) -> None:
        """Learn from one finished request."""
        if family is None or not is_plain_text(prompt_bytes, prompt_tokens):
            return
        self._ratios[family] = prompt_bytes / prompt_tokens
        self._ratios.move_to_end(family)
        if len(self._ratios) > self._limit:
            self._ratios.popitem(last=False)
