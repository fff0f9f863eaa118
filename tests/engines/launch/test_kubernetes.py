"""The Kubernetes launcher against an API server with pods that come and go."""

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fake_cluster import FakeCluster, fake_cluster

from engines.kubernetes_api import KubernetesApi
from engines.launch import kubernetes
from engines.launch.kubernetes import KubernetesLauncher
from engines.launch.launcher import LaunchError, LaunchSpec, ProcessState
from engines.launch.workload import Place
from engines.registry import dialect
from engines.reports import PrefillSettings

SPEC = LaunchSpec(name="v-1", dialect="vllm", model="m", host="0.0.0.0", port=8000, prefill=PrefillSettings(16384))
COMMAND = list(dialect("vllm").launch_command(SPEC).words)
PODS = {f"v-{number}": Place("StatefulSet", "vllm", f"vllm-{number}", "engine") for number in range(3)}
DEPLOYMENTS = {f"v-{number}": Place("Deployment", f"vllm-{number}", "", "engine") for number in range(3)}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setattr(kubernetes, "_LOOK_S", 0.001)
    cluster = FakeCluster()
    cluster.add("statefulsets/vllm", 3)
    for number in range(3):
        cluster.add(f"deployments/vllm-{number}", 1)
    return cluster


@pytest.fixture
async def api(cluster: FakeCluster, tmp_path: Path) -> AsyncIterator[KubernetesApi]:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "namespace").write_text("models\n")
    async with fake_cluster(cluster) as server:
        api = KubernetesApi(server.url, None, str(tmp_path / "token"), "")
        yield api
        await api.close()


async def test_one_pod_of_a_stateful_set_is_changed_and_the_others_stay(
    cluster: FakeCluster, api: KubernetesApi
) -> None:
    uids = {name: pod["metadata"]["uid"] for name, pod in cluster.pods.items()}
    launcher = KubernetesLauncher(api, PODS, 5)
    await launcher.restart(SPEC)
    assert cluster.calls == ["PATCH statefulsets/vllm", "DELETE pods/vllm-1"]
    assert cluster.command("vllm-1") == COMMAND
    changed = {name for name, pod in cluster.pods.items() if pod["metadata"]["uid"] != uids[name]}
    assert changed == {"vllm-1"}
    assert cluster.command("vllm-0") == ["old"]
    assert cluster.pods["vllm-1"]["spec"]["containers"][0] == {"name": "proxy", "args": ["-v"]}
    view = await launcher.view("v-1")
    assert (view.state, list(view.command)) == (ProcessState.RUNNING, COMMAND)
    await launcher.restart(dataclasses.replace(SPEC, name="v-2"))
    assert cluster.command("vllm-2") == COMMAND
    await launcher.start(SPEC)  # it runs so
    assert cluster.calls[2:] == ["PATCH statefulsets/vllm", "DELETE pods/vllm-2"]
    await launcher.start(dataclasses.replace(SPEC, name="v-0"))
    assert cluster.command("vllm-0") == COMMAND
    assert {request.headers["authorization"] for request in cluster.seen} == {"Bearer secret"}


async def test_a_deployment_replaces_its_pod(cluster: FakeCluster, api: KubernetesApi) -> None:
    launcher = KubernetesLauncher(api, DEPLOYMENTS, 5)
    for _ in range(2):  # a second restart is one, although the command is the same
        before = cluster.pods["vllm-1-abc0"]["metadata"]["uid"]
        await launcher.restart(SPEC)
        assert cluster.pods["vllm-1-abc0"]["metadata"]["uid"] != before
    assert cluster.command("vllm-1-abc0") == COMMAND
    assert cluster.command("vllm-0-abc0") == ["old"]
    assert cluster.calls == ["PATCH deployments/vllm-1"] * 2
    assert cluster.workloads["deployments/vllm-1"]["spec"]["strategy"] == {"type": "Recreate"}
    assert (await launcher.view("v-1")).state is ProcessState.RUNNING


ENDED = "it ended with status 1 (Error); its last words: CUDA out of memory"
CRASHED = {"terminated": {"exitCode": 1, "reason": "Error", "message": "loading\nCUDA out of memory\n"}}


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        ({"state": {"running": {}}, "ready": False}, ProcessState.STARTING, ""),
        (
            {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, "lastState": CRASHED},
            ProcessState.BACKOFF,
            f"CrashLoopBackOff: back-off 10s; {ENDED}",
        ),
        ({"state": {"waiting": {"reason": "ContainerCreating"}}}, ProcessState.STARTING, "ContainerCreating"),
        (
            {"state": CRASHED},
            ProcessState.BACKOFF,
            "it ended with status 1 (Error); its last words: CUDA out of memory",
        ),
        (None, ProcessState.STARTING, "pod is Pending"),
    ],
)
async def test_views(
    cluster: FakeCluster, api: KubernetesApi, status: dict[str, Any] | None, state: ProcessState, reason: str
) -> None:
    statuses = None if status is None else [{"name": "engine", "restartCount": 4, **status}]
    cluster.pods["vllm-1"]["status"] = {"phase": "Pending", "containerStatuses": statuses}
    view = await KubernetesLauncher(api, PODS, 5).view("v-1")
    assert (view.state, view.reason) == (state, reason)
    assert view.restarts == (0 if status is None else 4)
    del cluster.pods["vllm-1"]
    view = await KubernetesLauncher(api, PODS, 5).view("v-1")
    assert (view.state, view.reason) == (ProcessState.STOPPED, "StatefulSet vllm has no pod for it")


async def test_what_goes_wrong_is_one_sentence_without_the_token(cluster: FakeCluster, api: KubernetesApi) -> None:
    launcher = KubernetesLauncher(api, PODS, 0.05)
    with pytest.raises(LaunchError, match="v-9 has no pod that is known"):
        await launcher.view("v-9")
    with pytest.raises(LaunchError, match="scale it down with `kubectl scale statefulset/vllm`"):
        await launcher.stop("v-1")
    cluster.refuses["PATCH"] = 403
    with pytest.raises(LaunchError, match=r"PATCH statefulsets/vllm: .* 403 \(may the service account patch stateful"):
        await launcher.restart(SPEC)
    cluster.refuses["PATCH"] = 422
    with pytest.raises(LaunchError, match="answered 422: the server says no") as caught:
        await launcher.restart(SPEC)
    assert "secret" not in str(caught.value)
    assert cluster.command("vllm-1") == ["old"]
    cluster.refuses.clear()
    cluster.looks = 10_000
    with pytest.raises(LaunchError, match=r"the pod of v-1 is not gone after 0\.05 s"):
        await launcher.restart(SPEC)
    cluster.workloads.clear()
    with pytest.raises(LaunchError, match="answered 404: deployments/vllm-1 not found"):
        await KubernetesLauncher(api, DEPLOYMENTS, 1).restart(SPEC)
