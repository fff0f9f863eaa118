"""How numbers and verdicts are said; pure."""

from collections.abc import Sequence

from gateway.experiments.report import Comparison, Interval, Measure, Scale
from gateway.experiments.terms import Terms


def amount(value: float, scale: Scale) -> str:
    """A change without its sign: "12.3 %" or "2.1 points"."""
    size = abs(value) * 100
    digits = 0 if size >= 100 else 1 if size >= 1 else 2
    return f"{round(size, digits):,g} {'%' if scale == 'relative' else 'points'}"


def signed(value: float, scale: Scale) -> str:
    """A change with its sign, a true minus."""
    return ("+" if value >= 0 else "\N{MINUS SIGN}") + amount(value, scale)


def span(low: float | None, high: float | None, scale: Scale) -> str:
    """An interval of changes, in words where it is open."""
    if low is not None and high is not None:
        return f"{signed(low, scale).split()[0]} to {signed(high, scale)}"
    if low is not None:
        return f"{signed(low, scale)} or more"
    return f"{signed(high, scale)} or less" if high is not None else "no bounds yet"


def units(count: int) -> str:
    """ "1 unit", "1,200 units"."""
    return f"{count:,} unit{'' if count == 1 else 's'}"


def about(count: int) -> int:
    """Two digits of it: more would pretend to know."""
    step: int = 10 ** max(len(str(count)) - 2, 0)
    return -(-count // step) * step


def listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def comparison_sentence(one: Comparison, title: str, lower_is_better: bool, terms: Terms) -> str:
    """The verdict of one comparison."""
    if one.change is None:
        return f"{one.arm}: not enough data on {title}: one of the arms has none."
    seen = f"{signed(one.change, one.scale)} against {one.against} ({span(one.low, one.high, one.scale)})"
    if one.verdict == "tie":
        tie = terms.tie_percent / 100 if one.scale == "relative" else terms.tie_points / 100
        return f"{one.arm}: tie within ±{amount(tie, one.scale)} in {title}: {seen}."
    if one.verdict == "unclear":
        more = "too few units to say how many more"
        if one.needed_units is not None:
            more = f"about {about(one.needed_units):,} more unit{'s' if one.needed_units > 1 else ''}"
        return f"{one.arm}: not enough data: {more}; {title} so far {seen}."
    way = "lower" if (one.verdict == "better") == lower_is_better else "higher"
    reach = span(one.low, one.high, one.scale)
    return (
        f"{one.arm}: {one.verdict} than {one.against} by {amount(one.change, one.scale)}: {title} is {way} ({reach})."
    )


def quantity(value: float | None, measure: Measure) -> str:
    """A figure with its unit of measure, an en dash where there is none."""
    if value is None:
        return "–"
    if measure == "seconds":
        return f"{value * 1000:,.3g} ms" if value < 1 else f"{value:,.3g} s"
    if measure == "share":
        return f"{value * 100:.3g} %"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def tokens_and_cached(prompt_tokens: Interval, cached_fraction: Interval) -> str:
    """A stratum: "4 to 8k, 25 to 50 % cached"."""
    low, high = prompt_tokens.low or 0.0, prompt_tokens.high
    length = f"{low / 1000:g}k or more" if high is None else f"{low / 1000:g} to {high / 1000:g}k"
    least, most = cached_fraction.low or 0.0, cached_fraction.high
    return f"{length}, {least * 100:g} to {100 if most is None else most * 100:g} % cached"
