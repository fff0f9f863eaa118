"""From a pool and one of its replicas to what a launcher is told, and whether all of them go together; pure."""

from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from engines.launch.command import grouped
from engines.launch.launcher import EventPorts, LaunchSpec
from engines.registry import DIALECTS
from engines.reports import PrefillSettings
from gateway.config.launch import EXTERNAL, KUBERNETES
from gateway.config.pools import PoolConfig
from gateway.config.section import ConfigError, require

_EVENTS_BEYOND: Final = 1000
"""From a replica's port to that of its KV events, and from there to that of their replay."""
_EVERY_PREFILL: Final = PrefillSettings(1, 1, 1, mixed_chunk=True)


def launch_spec(pool: PoolConfig, name: str, url: str, *, guest: bool) -> LaunchSpec:
    """The replica as the configuration has it. `guest`: this host is a confidential-computing guest.

    Raises ConfigError where the pool does not say what to load.
    """
    launch, parts = pool.launch, urlsplit(url)
    model = launch.model_path or pool.model
    if model is None:
        raise ConfigError(f"pool `{pool.name}`: say what its engines load: model or launch.model_path")
    confidential = launch.is_here and guest if launch.confidential is None else launch.confidential
    return LaunchSpec(
        name=name,
        dialect=pool.engine,
        model=model,
        host=launch.host or ("0.0.0.0" if launch.kind == KUBERNETES else parts.hostname or ""),  # noqa: S104 - in a pod
        port=_port(url),
        served_name=pool.model,
        prefill=pool.prefill.settings(),
        tensor_parallel=launch.tensor_parallel or pool.gpus_per_replica,
        gpus=_gpus(pool, url),
        event_ports=event_ports(pool, url),
        event_topic=pool.events.topic,
        directory=launch.directory,
        program=tuple(launch.program),
        flags=tuple(launch.flags),
        without=tuple(launch.without),
        env=dict(launch.env),
        confidential=confidential,
    )


def _gpus(pool: PoolConfig, url: str) -> tuple[int, ...]:
    """Devices are given to replicas that the file lists, on this host; elsewhere all of the machine's are theirs."""
    urls, launch = [one.rstrip("/") for one in pool.replicas], pool.launch
    if not launch.is_here or launch.gpus == [] or url.rstrip("/") not in urls:
        return ()
    number = urls.index(url.rstrip("/"))
    if launch.gpus is not None:
        return tuple(launch.gpus[number])
    first = number * pool.gpus_per_replica
    return tuple(range(first, first + pool.gpus_per_replica))


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def event_ports(pool: PoolConfig, url: str) -> EventPorts | None:
    """Those of [pools.events], or some that follow from the replica's own: so no two of a host are the same."""
    events, port = pool.events, _port(url)
    if events.mode == "off":
        return None
    if events.port is not None:
        return events.port, events.replay_port or events.port + events.ranks
    beyond = _EVENTS_BEYOND if port + 2 * _EVENTS_BEYOND + events.ranks <= 65536 else -_EVENTS_BEYOND
    return port + beyond, port + 2 * beyond


def check_launches(pools: Sequence[PoolConfig]) -> None:
    """Whether each pool can be launched, and all of them on one host together. Raises ConfigError."""
    ports: dict[tuple[str, int], str] = {}
    devices: dict[int, str] = {}
    for pool in (one for one in pools if one.launch.kind != EXTERNAL):
        _check_pool(pool)
        for number, url in enumerate(pool.replicas):
            name = f"{pool.name}-{number}"
            spec = launch_spec(pool, name, url, guest=False)
            if not pool.launch.is_here:
                continue
            for port in _ports(spec, pool.events.ranks):
                other = ports.setdefault(("", port), name)
                remedy = "give them ports further apart, or [pools.events] of their own"
                require(other == name, f"{other} and {name} would both use port {port}: {remedy}")
            for device in spec.gpus:
                other = devices.setdefault(device, name)
                remedy = "say launch.gpus ([] leaves all devices visible)"
                require(other == name, f"{other} and {name} would both have GPU {device}: {remedy}")


def _check_pool(pool: PoolConfig) -> None:
    where, launch = f"pool `{pool.name}`", pool.launch
    listed = bool(pool.replicas) and pool.discovery is None
    reason = "replicas that are discovered come and go by somebody else's word"
    require(listed, f"{where}: a {launch.kind} launch needs its replicas listed: {reason}")
    ours = {"--host", "--port", *_names(DIALECTS[pool.engine].launch_flags(_EVERY_PREFILL))}
    for flag in _names(launch.flags):
        require(flag not in ours, f"{where}: launch.flags must not have {flag}: replicas and [pools.prefill] say that")
    if launch.kubernetes is not None and launch.kubernetes.kind == "StatefulSet" and launch.kind == KUBERNETES:
        for url in pool.replicas:
            pod = (urlsplit(url).hostname or "").partition(".")[0]
            first, _, ordinal = pod.rpartition("-")
            good = first == launch.kubernetes.workload and ordinal.isdecimal()
            need = f"the first label of its host must be the pod's name, {launch.kubernetes.workload}-0 and so on"
            require(good, f"{where}: {url}: {need}")


def _ports(spec: LaunchSpec, ranks: int) -> Iterator[int]:
    yield spec.port
    for first in spec.event_ports or ():
        yield from range(first, first + ranks)


def _names(flags: Sequence[str]) -> list[str]:
    return [group[0].partition("=")[0] for group in grouped(flags) if group[0].startswith("--")]
