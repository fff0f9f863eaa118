"""What a changed configuration changes at run time, and what only a restart does; pure.

A setting that is not named here needs a restart: it stays as it is, and the answer to a reload says so.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from gateway.config.file import Config
from gateway.config.pools import PoolConfig

LIVE: Final[dict[str, frozenset[str] | None]] = {
    "server": frozenset({"drain_s", "drain_notice_s"}),
    "routing": frozenset({"policy", "hold_ms", "max_attempts"}),
    "timeouts": None,
    "polling": None,
    "experiments": None,
    "shadows": None,
    "queue": None,
    "retry": None,
}
"""Tables, and which of their settings apply at once; None: all of them."""
LIVE_IN_POOLS: Final = frozenset(
    {"replicas", "discovery", "prefill", "gpus_per_replica", "pinned_only", "usd_per_gpu_hour", "warm_families"}
)


class Changes(NamedTuple):
    """`config` is what applies now; `changed` and `needs_restart` name settings as `table.setting`."""

    config: Config
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


def changes(now: Config, wanted: Config) -> Changes:
    """What becomes of a configuration when the file says `wanted`. Pools that are new or gone are not listed."""
    changed: list[str] = []
    later: list[str] = []
    tables: dict[str, Any] = {"pools": [_pool(now, pool, changed, later) for pool in wanted.pools]}
    for table in Config.__struct_fields__:
        old, new = getattr(now, table), getattr(wanted, table)
        if table == "pools" or old == new:
            continue
        live = LIVE.get(table, frozenset())
        if table == "tenants" and old and new:  # from none to some, and back, is another kind of gateway
            live = None
        if live is None:
            changed += _differing(table, old, new)
            tables[table] = new
            continue
        changed += [name for name in _differing(table, old, new) if name.partition(".")[2] in live]
        later += [name for name in _differing(table, old, new) if name.partition(".")[2] not in live]
        if live and isinstance(old, msgspec.Struct):
            tables[table] = msgspec.structs.replace(old, **{name: getattr(new, name) for name in live})
    return Changes(msgspec.structs.replace(now, **tables), tuple(changed), tuple(later))


def _pool(now: Config, wanted: PoolConfig, changed: list[str], later: list[str]) -> PoolConfig:
    old = next((pool for pool in now.pools if pool.name == wanted.name), None)
    if old is None:
        return wanted
    for name in _differing(f"pools.{wanted.name}", old, wanted):
        (changed if name.rpartition(".")[2] in LIVE_IN_POOLS else later).append(name)
    return msgspec.structs.replace(old, **{name: getattr(wanted, name) for name in LIVE_IN_POOLS})


def _differing(table: str, old: Any, new: Any) -> Iterator[str]:
    if not isinstance(old, msgspec.Struct):
        yield table
        return
    for name in old.__struct_fields__:
        if getattr(old, name) != getattr(new, name):
            yield f"{table}.{name}"
