"""The screen: what is watched as tables and lines for a terminal; pure."""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway.routing.snapshot import ReplicaView, Snapshot
from gateway.serving.admin import GatewayView
from gateway.terminal.figures import NOTHING, Flow, Watched

SEED_HIT_RATE: Final = 0.55
"""What the published measurement of production traffic found, for comparison."""
_BARS: Final = "▁▂▃▄▅▆▇█"
_STATES: Final = {"up": "green", "draining": "yellow", "starting": "yellow", "down": "bold red"}
_BAR_WIDTH: Final = 40
_COLUMN_WIDTH: Final = 11
_STATE_WIDTH: Final = 10
_NO_FLOW: Final = Flow(0.0, NOTHING, ())


class _Column(NamedTuple):
    """A column of the replicas' table."""

    name: str
    shown: Callable[[ReplicaView, Flow], str]


_COLUMNS: Final = (
    _Column("req/s", lambda _, flow: f"{flow.requests_per_s:.1f}"),
    _Column("hit rate", lambda _, flow: _percent(flow.hit_rate)),
    _Column("TTFT p50", lambda _, flow: _ms(flow.ttft_s(0.5))),
    _Column("p99", lambda _, flow: _ms(flow.ttft_s(0.99))),
    _Column("in flight", lambda one, _: str(one.inflight + one.peers_inflight)),
    _Column("KV", lambda one, _: _percent(one.report.kv_usage)),
    _Column("waits", lambda one, _: _ms(one.wait_ms / 1000)),
    _Column("chunk", lambda one, _: _chunk(one)),
    _Column("blocks", lambda one, _: _short(one.index_blocks)),
    _Column("known by", lambda one, _: one.cache.source),
    _Column("off by", lambda one, _: _percent(one.curve_mape)),
)
"""The most wanted first."""


def screen(gateway: GatewayView, watched: Watched, url: str, width: int) -> RenderableType:
    """All of it, as of the latest snapshot, for so many characters a line."""
    snapshot, flow = watched.latest, watched.whole()
    parts: list[RenderableType] = [
        _headline(gateway, snapshot, url),
        _traffic(flow, watched),
        _waterfall(flow),
        _replicas(snapshot, watched.by_replica(), width),
    ]
    if any(one.depth or one.shed for one in snapshot.queue.priorities):
        parts.append(_queue(snapshot))
    parts += _warnings(gateway)
    return Group(*parts)


def _headline(gateway: GatewayView, snapshot: Snapshot, url: str) -> Text:
    up = sum(one.state == "up" for one in snapshot.replicas)
    text = Text("prefixgate ", style="bold")
    text.append(f"{gateway.version}  {url}  up {timedelta(seconds=int(gateway.uptime_s))}  ", style="default")
    text.append(f"policy {snapshot.policy}  ")
    text.append(f"{up}/{len(snapshot.replicas)} replicas", style="green" if up == len(snapshot.replicas) else "red")
    if len(gateway.workers) > 1:
        text.append(f"  {len(gateway.workers)} workers")
    return text


def _traffic(flow: Flow, watched: Watched) -> Text:
    text = Text(f"{flow.requests_per_s:.1f} req/s {curve(watched.rates)}  TTFT")
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        text.append(f" {name} ")
        text.append(_ms(flow.ttft_s(share)), style="bold")
    text.append(
        f"   {_short(flow.prompt_tokens_per_s)} prompt tok/s, {_short(flow.skipped_tokens_per_s)} not prefilled"
    )
    if flow.added.failed:
        text.append(f"   {flow.added.failed} failed", style="bold red")
    return text


def _waterfall(flow: Flow) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right", min_width=6)
    table.add_column(no_wrap=True, min_width=_BAR_WIDTH)
    added = flow.added
    rows = (
        ("available", added.available_tokens, "at the best replica"),
        ("routed", added.routed_tokens, "at the chosen one"),
        ("delivered", added.delivered_tokens, "the engines say"),
    )
    for name, tokens, about in rows:
        share = flow.share(tokens)
        table.add_row(_percent(share), bar(share, SEED_HIT_RATE), name, Text(about, style="dim"))
    return table


def _replicas(snapshot: Snapshot, flows: dict[str, Flow], width: int) -> Table:
    """As many columns as there is room for, the first ones first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    room = width - max([len(one.name) for one in snapshot.replicas] or [0]) - _STATE_WIDTH
    columns = [column for place, column in enumerate(_COLUMNS) if (place + 1) * _COLUMN_WIDTH <= room]
    for name in ("replica", "state"):
        table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column.name, justify="right", no_wrap=True)
    for one in snapshot.replicas:
        flow = flows.get(one.name, _NO_FLOW)
        state = Text(_state(one), style=_STATES.get(one.state, "default"))
        table.add_row(one.name, state, *(column.shown(one, flow) for column in columns))
    return table


def _state(replica: ReplicaView) -> str:
    state = replica.state if replica.breaker == "closed" else f"{replica.state}, breaker {replica.breaker}"
    return f"{state}: {replica.reason}" if replica.reason and replica.state == "down" else state


def _chunk(replica: ReplicaView) -> str:
    """What runs, and the wish where it differs."""
    actual, desired = replica.prefill_actual.chunk_tokens, replica.prefill_desired.chunk_tokens
    if desired is None or actual == desired:
        return "–" if actual is None else str(actual)
    return f"{'?' if actual is None else actual} → {desired}"


def _queue(snapshot: Snapshot) -> Text:
    text = Text("queue ", style="bold")
    for one in snapshot.queue.priorities:
        refused = sum(one.shed.values())
        text.append(f" {one.priority}: {one.depth} wait ({_short(one.waiting_tokens)} tokens), {refused} refused  ")
    return text


def _warnings(gateway: GatewayView) -> list[Text]:
    said = [f"{replica}: {sentence}" for replica, sentences in gateway.warnings.items() for sentence in sentences]
    return [Text(f"! {sentence}", style="yellow") for sentence in (*gateway.notices, *said)]


def bar(share: float | None, mark: float) -> Text:
    """A bar of a share, 0 to 1, with a mark at another one."""
    filled = round((share or 0.0) * _BAR_WIDTH)
    cells = ["█" if place < filled else "·" for place in range(_BAR_WIDTH)]
    at = min(round(mark * _BAR_WIDTH), _BAR_WIDTH - 1)
    text = Text("".join(cells[:at]))
    text.append("│", style="bold yellow")
    text.append("".join(cells[at + 1 :]))
    return text


def curve(values: Iterable[float | None]) -> str:
    """Values as a line of small bars, the largest full; nothing where there is none."""
    known: Sequence[float | None] = list(values)
    top = max((one for one in known if one is not None), default=0.0)
    if top <= 0:
        return " " * len(known)
    return "".join(" " if one is None else _BARS[round(one / top * (len(_BARS) - 1))] for one in known)


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:,.0f} ms"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _short(count: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return f"{count:.0f}"
