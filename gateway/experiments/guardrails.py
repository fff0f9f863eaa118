"""Which arm is to be stopped, and why; pure, and cheap enough to be asked every few seconds."""

from gateway.experiments.always_valid import contrast
from gateway.experiments.comparing import comparable_interval, finite, shown
from gateway.experiments.metrics import METRICS, estimate
from gateway.experiments.observations import Observations
from gateway.experiments.report import Breach
from gateway.experiments.sample import Sample, samples
from gateway.experiments.terms import Terms
from gateway.experiments.words import amount


def guardrail_breaches(observations: Observations, terms: Terms) -> tuple[Breach, ...]:
    """The arms that are surely worse than the control by more than their guardrails allow.

    That is: the always-valid interval lies wholly beyond the limit. All guardrails together stop an arm that is within
    its limits with a chance of at most `alpha`, ever, however often they are asked.
    """
    return breaches(samples(observations, terms), terms)


def breaches(arms: tuple[Sample, ...], terms: Terms) -> tuple[Breach, ...]:
    """The same of arms that have been taken apart."""
    control = next((arm for arm in arms if arm.terms.name == terms.against), None)
    if control is None:
        return ()
    limits = (("error_rate", terms.guardrails.error_rate), ("ttft_p50", terms.guardrails.ttft_regression))
    alpha = terms.alpha / max(len(limits) * (len(arms) - 1), 1)
    tried = [arm for arm in arms if arm is not control and arm.units >= terms.guardrails.minimum_units]
    found = [_breach(arm, control, metric, limit, alpha) for arm in tried for metric, limit in limits]
    return tuple(one for one in found if one is not None)


def _breach(arm: Sample, control: Sample, name: str, limit: float, alpha: float) -> Breach | None:
    metric = METRICS[name]
    scale = metric.scale or "points"
    between = contrast(scale, estimate(arm, name), estimate(control, name))
    if between is None:
        return None
    low = finite(shown(scale, comparable_interval(between, alpha)[0]))
    if low is None or low <= limit:
        return None
    change = shown(scale, between.change)
    sentence = (
        f"{arm.terms.name} is to be stopped: its {metric.title} is higher than that of {control.terms.name} by "
        f"{amount(change, scale)}, and by {amount(low, scale)} at the least; the guardrail is {amount(limit, scale)}."
    )
    return Breach(arm.terms.name, name, change, low, limit, sentence)
