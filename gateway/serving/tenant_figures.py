"""What is shown and measured of tenants, of one process or of several together; pure."""

from collections.abc import Iterator, Sequence

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from gateway.tenancy.tenancy import Tenancy


class TenantView(msgspec.Struct, frozen=True):
    """One tenant: requests let in, refused by limit and in flight, and tokens of those that have ended."""

    name: str
    admitted: int
    refused: dict[str, int]
    inflight: int
    tokens: int

    def counted(self) -> "TenantView":
        """What remains of it after its process has ended."""
        return msgspec.structs.replace(self, inflight=0)


def tenant_views(tenancy: Tenancy) -> tuple[TenantView, ...]:
    """As of now."""
    return tuple(
        TenantView(
            one.name, one.admitted, {str(limit): n for limit, n in one.refused.items()}, one.inflight, one.tokens
        )
        for one in tenancy
    )


def merged_tenants(parts: Sequence[tuple[TenantView, ...]]) -> tuple[TenantView, ...]:
    """Of several processes together."""
    merged: dict[str, TenantView] = {}
    for view in (one for part in parts for one in part):
        before = merged.get(view.name)
        if before is None:
            merged[view.name] = view
            continue
        merged[view.name] = TenantView(
            view.name,
            before.admitted + view.admitted,
            {name: before.refused.get(name, 0) + count for name, count in view.refused.items()},
            before.inflight + view.inflight,
            before.tokens + view.tokens,
        )
    return tuple(merged.values())


def tenant_metrics(tenants: Sequence[TenantView]) -> Iterator[Metric]:
    """By tenant; nothing where there are none."""
    if not tenants:
        return
    admitted = CounterMetricFamily(
        "prefixgate_tenant_requests", "Requests of a tenant that were within its limits", labels=("tenant",)
    )
    refused = CounterMetricFamily(
        "prefixgate_tenant_refused", "Requests beyond a limit of their tenant", labels=("tenant", "limit")
    )
    tokens = CounterMetricFamily(
        "prefixgate_tenant_tokens", "Prompt and output tokens of a tenant's ended requests", labels=("tenant",)
    )
    inflight = GaugeMetricFamily("prefixgate_tenant_inflight", "Requests of a tenant in flight", labels=("tenant",))
    for one in tenants:
        admitted.add_metric((one.name,), one.admitted)
        tokens.add_metric((one.name,), one.tokens)
        inflight.add_metric((one.name,), one.inflight)
        for limit, count in one.refused.items():
            refused.add_metric((one.name, limit), count)
    yield from (admitted, refused, tokens, inflight)
