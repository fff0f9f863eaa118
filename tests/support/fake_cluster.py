"""A Kubernetes API server with workloads and pods that behave as their controllers make them."""

import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fake_engine import FakeEngine, Request, fake_engine, response

Json = dict[str, Any]


@dataclass
class FakeCluster:
    """`looks` is how often a pod that is to go is still seen. `calls` are the changes that were asked for."""

    workloads: dict[str, Json] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)
    looks: int = 1
    refuses: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    seen: list[Request] = field(default_factory=list)
    _going: dict[str, int] = field(default_factory=dict)
    _born: int = 0

    def add(self, path: str, replicas: int) -> None:
        """`statefulsets/NAME` or `deployments/NAME`, whose container is called engine, beside another one."""
        name = path.partition("/")[2]
        strategy = "updateStrategy" if path.startswith("stateful") else "strategy"
        containers = [{"name": "proxy", "args": ["-v"]}, {"name": "engine", "args": ["old"], "env": []}]
        template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}
        self.workloads[path] = {
            "metadata": {"name": name, "generation": 1},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": template,
                strategy: {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            },
        }
        for number in range(replicas):
            self._bear(path, f"{name}-{number}" if strategy == "updateStrategy" else f"{name}-abc{number}")

    def _bear(self, path: str, pod: str) -> None:
        """A new pod as the workload says now."""
        self._born += 1
        template = copy.deepcopy(self.workloads[path]["spec"]["template"])
        status = {"name": "engine", "ready": True, "restartCount": 0, "state": {"running": {"startedAt": "now"}}}
        self.pods[pod] = {
            "metadata": {"name": pod, "uid": f"uid-{self._born}", "labels": template["metadata"]["labels"]},
            "spec": template["spec"],
            "status": {"phase": "Running", "containerStatuses": [status]},
            "of": path,
        }

    def command(self, pod: str) -> list[str]:
        """What the engine of a pod runs."""
        [engine] = [one for one in self.pods[pod]["spec"]["containers"] if one["name"] == "engine"]
        return [*engine.get("command", []), *engine.get("args", [])]

    async def answer(self, request: Request, writer: Any) -> None:
        """One call."""
        self.seen.append(request)
        url = urlsplit(request.target)
        path = url.path.partition("/namespaces/models/")[2]
        if request.method != "GET":
            self.calls.append(f"{request.method} {path}")
        status, body = self._do(request, path, parse_qs(url.query).get("labelSelector", [""])[0])
        writer.write(response(json.dumps(body).encode(), status))

    def _do(self, request: Request, path: str, selector: str) -> tuple[int, Json]:
        if request.method in self.refuses:
            return self.refuses[request.method], {"kind": "Status", "message": "the server says no"}
        if path == "pods":
            self._advance()
            chosen = [pod for pod in self.pods.values() if f"app={pod['metadata']['labels']['app']}" == selector]
            return 200, {"items": chosen}
        if path.startswith("pods/"):
            self._advance()
            return self._pod(request.method, path.removeprefix("pods/"))
        if path not in self.workloads:
            return 404, {"kind": "Status", "message": f"{path} not found"}
        if request.method == "PATCH":
            assert request.headers["content-type"] == "application/strategic-merge-patch+json"
            self._patch(path, json.loads(request.body))
        return 200, self.workloads[path]

    def _pod(self, method: str, name: str) -> tuple[int, Json]:
        if name not in self.pods:
            return 404, {"kind": "Status", "message": f'pods "{name}" not found'}
        if method == "DELETE":
            self._going[name] = self.looks
        return 200, self.pods[name]

    def _patch(self, path: str, patch: Json) -> None:
        spec = self.workloads[path]["spec"]
        for strategy in {"strategy", "updateStrategy"} & set(patch["spec"]):
            spec[strategy] = {name: value for name, value in patch["spec"][strategy].items() if value is not None}
        for container in patch["spec"]["template"]["spec"]["containers"]:
            [there] = [one for one in spec["template"]["spec"]["containers"] if one["name"] == container["name"]]
            there.update(container)
        spec["template"]["metadata"].update(patch["spec"]["template"].get("metadata", {}))
        on_delete = spec.get("updateStrategy", {}).get("type") == "OnDelete"
        if not on_delete:  # the controller replaces all pods
            self._going.update({name: self.looks for name, pod in self.pods.items() if pod["of"] == path})

    def _advance(self) -> None:
        """Time goes on with each look."""
        for name, left in list(self._going.items()):
            self._going[name] = left - 1
            if left <= 0:
                del self._going[name]
                self._bear(self.pods.pop(name)["of"], name)


@asynccontextmanager
async def fake_cluster(cluster: FakeCluster) -> AsyncIterator[FakeEngine]:
    """Serve it; the URL is the engine's."""
    async with fake_engine(cluster.answer) as server:
        yield server
