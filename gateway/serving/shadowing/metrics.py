"""The Prometheus metrics of shadows; pure."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from gateway.serving.shadowing.tally import ShadowFigures


def shadow_metrics(shadows: Sequence[ShadowFigures]) -> Iterator[Metric]:
    """By shadow; without samples where there are none."""
    by = ("shadow",)
    requests = CounterMetricFamily(
        "prefixgate_shadow_requests", "Copies of requests, by what became of them", labels=("shadow", "outcome")
    )
    ttft = HistogramMetricFamily(
        "prefixgate_shadow_ttft_seconds", "Time from sending a copy to its first content byte", labels=by
    )
    inflight = GaugeMetricFamily("prefixgate_shadow_inflight", "Copies in flight", labels=by)
    texts = CounterMetricFamily(
        "prefixgate_shadow_answers", "Answers at temperature 0 beside their copy's", labels=("shadow", "result")
    )
    for one in shadows:
        for fate, count in one.counts.items():
            requests.add_metric((one.name, fate), count)
        ttft.add_metric((one.name,), one.ttft.buckets(), one.ttft.total)
        inflight.add_metric((one.name,), one.inflight)
        texts.add_metric((one.name, "same"), one.same)
        texts.add_metric((one.name, "differed"), one.differed)
    yield from (requests, ttft, inflight, texts)
