"""Alert rules for Prometheus: what is worth waking somebody for, and what to do then; pure."""

from dataclasses import dataclass
from typing import Final

from gateway.monitoring.catalogue import unknown_names


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule. `holds` is how long its expression must hold; `summary` and `action` are sentences."""

    name: str
    expression: str
    holds: str
    severity: str
    summary: str
    meaning: str
    action: str

    def __post_init__(self) -> None:
        unknown = unknown_names(self.expression)
        if unknown:
            raise ValueError(f"{self.name} asks for metrics that do not exist: {', '.join(unknown)}")


def _share(part: str, whole: str, window: str = "10m", by: str = "") -> str:
    """One counter's growth over another's."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped}(rate({part}[{window}])) / sum{grouped}(rate({whole}[{window}]))"


_DELIVERED: Final = 'prefixgate_cached_tokens_total{kind="delivered"}'
_TRAFFIC: Final = "sum(rate(prefixgate_prompt_tokens_total[1h])) > 1000"


def alerts() -> tuple[Alert, ...]:
    """All rules, by what they are about, the most urgent first."""
    return (*_failing(), *_slow(), *_cold(), *_itself())


def _failing() -> tuple[Alert, ...]:
    """Requests fail, or will soon."""
    return (
        Alert(
            "PrefixgateNoReplica",
            "sum by (model) (prefixgate_replica_up) == 0",
            "1m",
            "critical",
            "No replica of {{ $labels.model }} answers",
            "Requests for the model are refused with 503 after the time that `[retry] wait_s` lets them wait.",
            "Look at `reason` of its replicas (`/api/snapshot`, dashboard) and at the engines' own logs. Replicas that "
            "moved are added with `POST /api/replicas`, without a restart.",
        ),
        Alert(
            "PrefixgateReplicaDown",
            "prefixgate_replica_up == 0",
            "2m",
            "warning",
            "{{ $labels.replica }} does not answer",
            "The others take its traffic, and their caches grow cold for what it held.",
            "Restart the engine. If it is to stay away, `DELETE /api/replicas/NAME`, so that nobody waits for it.",
        ),
        Alert(
            "PrefixgateErrors",
            _share('prefixgate_requests_total{outcome=~"engine_failed|timed_out"}', "prefixgate_requests_total", "5m")
            + " > 0.02",
            "5m",
            "critical",
            "{{ $value | humanizePercentage }} of requests fail",
            "Engines fail or time out, and no other replica could take the requests over.",
            'By replica: `sum by (replica) (rate(prefixgate_requests_total{outcome=~"engine_failed|timed_out"}[5m]))`. '
            "Drain one that is alone in it. If it is all of them, look at `[timeouts]` and at what changed.",
        ),
        Alert(
            "PrefixgateBreakerOpen",
            "prefixgate_breaker_state == 2",
            "2m",
            "warning",
            "{{ $labels.replica }} fails requests and is left alone",
            "It answers its health check, and fails what it is asked.",
            "Read the engine's log. It is tried again by itself, ever less often; `resume` does not hurry it.",
        ),
        Alert(
            "PrefixgateStreamsBreak",
            'sum by (replica) (rate(prefixgate_continuations_total{outcome!~"continued|complete"}[10m])) > 0.01',
            "10m",
            "warning",
            "Streams of {{ $labels.replica }} break and cannot go on elsewhere",
            "Clients see an error frame in the middle of an answer.",
            "The `outcome` says why (tools, reasoning, n > 1 …). The cause is the engine that dies: see its log.",
        ),
        Alert(
            "PrefixgateRetries",
            _share("prefixgate_retries_total", "prefixgate_requests_total", by="replica") + " > 0.1",
            "10m",
            "warning",
            "{{ $value | humanizePercentage }} of requests to {{ $labels.replica }} are tried again elsewhere",
            "Users see no failure yet, only longer waits; the budget (`[retry] budget_share`) bounds it.",
            "`reason` of `prefixgate_retries_total` says whether it is the network, overload or the engine.",
        ),
    )


def _slow() -> tuple[Alert, ...]:
    """Requests wait."""
    return (
        Alert(
            "PrefixgateShedding",
            "sum by (reason, priority) (rate(prefixgate_shed_total[5m])) > 0",
            "5m",
            "warning",
            "Requests ({{ $labels.priority }}) are refused: {{ $labels.reason }}",
            "More comes in than the engines can serve in time. Clients get 429 with a measured `Retry-After`.",
            "Add replicas, or move batch work away (`x-priority: batch`). The tenants' shares are in "
            "`prefixgate_tenant_tokens_total`.",
        ),
        Alert(
            "PrefixgateSlowFirstToken",
            "histogram_quantile(0.99, sum by (le, model) (rate(prefixgate_ttft_seconds_bucket[10m]))) > 30",
            "10m",
            "warning",
            "One in a hundred first tokens of {{ $labels.model }} takes over {{ $value | humanizeDuration }}",
            "Long prompts wait, in the gateway's queue or in the engines'.",
            "Compare `prefixgate_held_seconds` (waited here) with `prefixgate_ttft_seconds`. A hit rate that fell "
            "shows the same picture: see PrefixgateHitRateFell.",
        ),
        Alert(
            "PrefixgateKvFull",
            "prefixgate_replica_kv_usage > 0.95",
            "10m",
            "warning",
            "The KV cache of {{ $labels.replica }} is {{ $value | humanizePercentage }} full of running requests",
            "The engine preempts or queues, and evicts prefixes that would be hit.",
            "Fewer requests at a time, a smaller prefill chunk (which leaves more KV), or another replica.",
        ),
    )


def _cold() -> tuple[Alert, ...]:
    """What is cached is lost, or not known."""
    return (
        Alert(
            "PrefixgateHitRateFell",
            f"({_share(_DELIVERED, 'prefixgate_prompt_tokens_total', '1h')}) < 0.7 * "
            "(sum(increase(" + _DELIVERED + "[1h] offset 1d)) / sum(increase(prefixgate_prompt_tokens_total[1h] offset "
            f"1d))) and {_TRAFFIC}",
            "30m",
            "warning",
            "The hit rate is {{ $value | humanizePercentage }}, less than 70 % of yesterday's at this hour",
            "Prompts changed (a timestamp at their beginning is enough), caches were emptied, or routing scatters "
            "them.",
            "The waterfall says where it is lost: available fell: the prompts, see the dashboard's prompt linter; "
            "routed fell: replicas too busy or gone; delivered fell: the engines drop what they had.",
        ),
        Alert(
            "PrefixgateIndexLoss",
            _share(
                'prefixgate_lost_cached_tokens_total{reason="index"}', "prefixgate_prompt_tokens_total", by="replica"
            )
            + " > 0.1",
            "15m",
            "warning",
            "{{ $labels.replica }} lacks {{ $value | humanizePercentage }} of the tokens that it was chosen for",
            "Predictions of its cache are wrong: KV events are missing, or the engine evicts more than it can say.",
            "`prefixgate check` names missing flags. `prefixgate_cache_events_live` must be 1 where events are "
            "published; on small caches raise the engine's KV memory.",
        ),
        Alert(
            "PrefixgateCacheBroken",
            "prefixgate_cache_broken == 1",
            "5m",
            "warning",
            "The prefix cache of {{ $labels.replica }} seems not to work",
            "Prompts that were just served there are not cached any more, so it is routed by load alone.",
            "See whether prefix caching is on (`prefixgate check`), and whether its KV cache holds one prompt at all.",
        ),
        Alert(
            "PrefixgateEventsMissing",
            "rate(prefixgate_cache_event_losses_total[15m]) > 0",
            "15m",
            "warning",
            "KV events of {{ $labels.replica }} are lost again and again",
            "What it holds is guessed until the next complete picture.",
            "Give the engine a replay endpoint, or a larger buffer; look at `prefixgate_cache_event_gaps_total`.",
        ),
        Alert(
            "PrefixgatePredictionsOff",
            "prefixgate_ttft_curve_mape > 0.5 and prefixgate_ttft_curve_observations > 100",
            "30m",
            "info",
            "Prefill times of {{ $labels.replica }} are predicted {{ $value | humanizePercentage }} off",
            "Others use the GPUs, or the engine's speed changes: routing by predicted time is then little better than "
            "by hits.",
            "See what else runs there; `prefixgate_ttft_curve_bias` says in which direction.",
        ),
        Alert(
            "PrefixgateChunkDrift",
            'prefixgate_prefill_chunk_tokens{kind="actual"} != ignoring (kind) '
            'prefixgate_prefill_chunk_tokens{kind="desired"}',
            "15m",
            "info",
            "{{ $labels.replica }} runs with another prefill chunk than the configuration wishes",
            "Somebody started it with other flags, or a change has not been applied.",
            "`prefixgate engine apply`, or correct `[pools.prefill]`.",
        ),
    )


def _itself() -> tuple[Alert, ...]:
    """The gateway's own troubles."""
    return (
        Alert(
            "PrefixgateWorkerRestarts",
            "increase(prefixgate_worker_restarts_total[15m]) > 1",
            "0m",
            "warning",
            "Processes of the gateway end by themselves",
            "Each takes its requests with it.",
            "Its log has the reason (memory limits of the container are a common one).",
        ),
        Alert(
            "PrefixgateSharingDown",
            "prefixgate_sharing_up == 0",
            "5m",
            "warning",
            "The gateway has lost Redis, or its other processes",
            "Every gateway goes by what it sees itself: hits are missed, nothing fails.",
            "See that Redis runs and is reached; `/ready` has the reason.",
        ),
        Alert(
            "PrefixgateObservationsLost",
            'rate(prefixgate_experiment_observations_total{result!="written"}[10m]) > 0',
            "10m",
            "info",
            "Observations of experiments are {{ $labels.result }}",
            "Reports have less to go by, and may lack one kind of requests more than another; traffic is not affected.",
            "A full or slow disk under `[state] path`.",
        ),
        Alert(
            "PrefixgateJournalFails",
            'rate(prefixgate_journal_lines_total{result!="written"}[10m]) > 0',
            "10m",
            "info",
            "Lines of the journal are {{ $labels.result }}",
            "The record of requests has holes; traffic is not affected.",
            "A full or slow disk.",
        ),
    )
