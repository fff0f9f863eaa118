"""`[pools.launch]`: what it makes of each replica, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from engines.launch.launcher import LaunchSpec
from engines.reports import PrefillSettings
from gateway.config import Config, ConfigError, build, load
from gateway.config.launch_specs import launch_spec

ROOT = Path(__file__).parent.parent


def pool(name: str = "v", engine: str = "vllm", ports: tuple[int, ...] = (8000, 8001), **more: Any) -> dict[str, Any]:
    replicas = [f"http://127.0.0.1:{port}" for port in ports]
    launch = {"kind": "local", **more.pop("launch", {})}
    return {"name": name, "engine": engine, "model": "m", "replicas": replicas, "launch": launch, **more}


def specs(config: Config, *, guest: bool = False) -> list[LaunchSpec]:
    return [launch_spec(pool, one.name, one.url, guest=guest) for pool in config.pools for one in pool.spec().replicas]


def test_the_example_is_the_published_fleet() -> None:
    first, second, third, _ = specs(load(ROOT / "deploy" / "engines.toml"))
    assert (first.model, first.served_name, first.tensor_parallel) == ("./dsv4-w4a8", "deepseek-v4-flash", 2)
    assert first.confidential
    assert not third.confidential
    assert [one.gpus for one in (first, second, third)] == [(0, 1), (2, 3), (4, 5)]
    assert (third.dialect, third.port, third.prefill) == ("sglang", 30000, PrefillSettings(16384))


def test_a_replica_gets_what_its_pool_says() -> None:
    launch = {
        "model_path": "/models/m",
        "program": ["/opt/vllm", "serve"],
        "flags": ["--trust-remote-code"],
        "without": ["--enable-per-request-metrics"],
        "env": {"VLLM_API_KEY_FILE": "x"},
        "directory": "/srv",
        "host": "0.0.0.0",
        "tensor_parallel": 4,
    }
    config = build({"pools": [pool(gpus_per_replica=2, launch=launch, prefill={"chunk_tokens": 4096})]})
    assert specs(config)[1] == LaunchSpec(
        name="v-1",
        dialect="vllm",
        model="/models/m",
        served_name="m",
        host="0.0.0.0",
        port=8001,
        prefill=PrefillSettings(4096),
        tensor_parallel=4,
        gpus=(2, 3),
        event_ports=(9001, 10001),
        directory="/srv",
        program=("/opt/vllm", "serve"),
        flags=("--trust-remote-code",),
        without=("--enable-per-request-metrics",),
        env={"VLLM_API_KEY_FILE": "x"},
    )


@pytest.mark.parametrize(
    ("launch", "guest", "confidential"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"confidential": False}, True, False),
        ({"confidential": True}, False, True),
        ({"kind": "external"}, True, False),  # this host says nothing of theirs
    ],
)
def test_confidential_guests(launch: dict[str, Any], guest: bool, confidential: bool) -> None:
    assert specs(build({"pools": [pool(launch=launch)]}), guest=guest)[0].confidential is confidential


@pytest.mark.parametrize(
    ("events", "port", "ports"),
    [
        ({}, 30000, (31000, 32000)),
        ({}, 65000, (64000, 63000)),
        ({"port": 5557, "replay_port": 5600}, 8000, (5557, 5600)),
        ({"port": 5557, "ranks": 2}, 8000, (5557, 5559)),
        ({"mode": "off"}, 8000, None),
    ],
)
def test_event_ports(events: dict[str, Any], port: int, ports: tuple[int, int] | None) -> None:
    [spec] = specs(build({"pools": [pool(ports=(port,), events=events)]}))
    assert spec.event_ports == ports


@pytest.mark.parametrize(
    ("gpus", "expected"), [(None, [(0, 1), (2, 3)]), ([], [(), ()]), ([[3], [1, 2]], [(3,), (1, 2)])]
)
def test_gpus(gpus: list[list[int]] | None, expected: list[tuple[int, ...]]) -> None:
    launch = {} if gpus is None else {"gpus": gpus}
    assert [one.gpus for one in specs(build({"pools": [pool(gpus_per_replica=2, launch=launch)]}))] == expected


def test_pods_have_their_own_hosts() -> None:
    workload = {"workload": "vllm", "container": "engine"}
    replicas = ["http://vllm-0.vllm:8000", "http://vllm-1.vllm:8000"]
    config = build(
        {"pools": [{**pool(), "replicas": replicas, "launch": {"kind": "kubernetes", "kubernetes": workload}}]}
    )
    assert [(one.host, one.gpus, one.event_ports) for one in specs(config)] == [("0.0.0.0", (), (9000, 10000))] * 2


def test_without_it_all_is_as_ever() -> None:
    config = build({"pools": [{"name": "v", "engine": "vllm", "replicas": ["http://h"]}]})
    assert config.pools[0].launch.kind == "external"
    with pytest.raises(ConfigError, match=r"pool `v`: say what its engines load: model or launch\.model_path"):
        specs(config)


POD = {"workload": "vllm", "container": "engine"}


@pytest.mark.parametrize(
    ("pools", "sentence"),
    [
        ([pool(launch={"kind": "locla"})], "launch.kind `locla` is not known; did you mean `local`?"),
        ([pool(launch={"gpu": []})], "unknown key `gpu` in [pools.launch]; did you mean `gpus`?"),
        ([pool(launch={"gpus": [[0]]})], "launch.gpus has 1 lists for 2 replicas"),
        ([pool(launch={"gpus": [[0], [0]]})], "launch.gpus has device 0 twice"),
        ([pool(launch={"gpus": [[0], []]})], "launch.gpus has an empty list"),
        ([pool(launch={"gpus": [[0], [-1]]})], "-1 is no device"),
        ([pool(launch={"tensor_parallel": 0})], "launch.tensor_parallel must be at least 1"),
        ([pool(launch={"env": {"A=B": "x"}})], "'A=B' is no name of a variable"),
        ([pool(launch={"program": [""]})], "launch.program must begin with a program"),
        ([pool(launch={"stop_s": 0})], "launch.stop_s must be above 0"),
        ([pool(launch={"log_bytes": 1})], "launch.log_bytes must be at least 4096"),
        ([pool(launch={"restart": {"tries": 0}})], "launch.restart.tries must be at least 1"),
        ([pool(launch={"restart": {"backoff_s": 90}})], "backoff_s must be above 0, and most_backoff_s no less"),
        ([pool(launch={"flags": ["--port", "1"]})], "launch.flags must not have --port: replicas and [pools.prefill]"),
        ([pool(launch={"flags": ["--max-num-batched-tokens=1"]})], "launch.flags must not have --max-num-batched-tok"),
        ([pool(ports=()) | {"discovery": {"dns": "h:1"}}], "a local launch needs its replicas listed"),
        ([pool(events={"port": 5557})], "v-0 and v-1 would both use port 5557: give them ports further apart"),
        ([pool(events={"ranks": 2})], "v-0 and v-1 would both use port 9001"),
        ([pool(), pool("w", ports=(9000,), launch={"gpus": []})], "v-0 and w-0 would both use port 9000"),
        (
            [pool(), pool("w", "sglang", ports=(30000,))],
            "v-0 and w-0 would both have GPU 0: say launch.gpus",
        ),
        ([pool(launch={"kind": "systemd", "systemd": {"unit": "v.service"}})], "must say {name} or {number}"),
        (
            [pool(launch={"kind": "systemd", "systemd": {"unit": "{name}"}})],
            "unit must end with .service",
        ),
        (
            [pool(launch={"kind": "systemd", "systemd": {"unit": "{name}{x}.service"}})],
            "may say {engine}, {pool}",
        ),
        ([pool(launch={"kind": "systemd", "directory": "srv"})], "launch.directory must be an absolute path"),
        ([pool(launch={"kind": "kubernetes"})], "say kubernetes = {workload"),
        (
            [pool(launch={"kind": "kubernetes", "kubernetes": POD})],
            "its host must be the pod's name",
        ),
        (
            [pool(launch={"kind": "kubernetes", "kubernetes": {**POD, "kind": "Deployment"}})],
            "launch.kubernetes.workload must say {name}, {number} or {host}",
        ),
        (
            [pool(launch={"kind": "kubernetes", "kubernetes": {**POD, "kind": "DaemonSet"}})],
            "launch.kubernetes.kind `DaemonSet` is not known",
        ),
        (
            [pool(launch={"kind": "kubernetes", "kubernetes": {**POD, "workload": "{number}"}})],
            "launch.kubernetes.workload is one StatefulSet: it takes no {…}",
        ),
    ],
)
def test_mistakes_are_named(pools: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build({"pools": pools})
    assert sentence in str(caught.value)
