"""The deployment files, as the programs that they are for read them (make test-deploy)."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from patience import until
from processes import prefixgate
from prometheus import prometheus_over

from engines.launch.drop_in import drop_in
from engines.launch.launcher import LaunchSpec
from gateway.config import parse
from gateway.monitoring.alerts import alerts
from gateway.monitoring.panels import rows

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = str(DEPLOY / "helm" / "prefixgate")
TOKEN = ("--set", "secret.PREFIXGATE_ADMIN_TOKEN=secret")
TOOLS = Path(os.environ.get("DEPLOY_TOOLS", ROOT / ".deploy")).resolve() / "bin"


def tool(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOOLS / name), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        check=False,
    )


def objects(*settings: str) -> dict[tuple[str, str], Any]:
    rendered = tool("helm", "template", "r", CHART, *TOKEN, *settings)
    assert rendered.returncode == 0, rendered.stderr
    made = [one for one in yaml.safe_load_all(rendered.stdout) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in made}


def test_the_chart_lints() -> None:
    linted = tool("helm", "lint", "--strict", CHART, *TOKEN)
    assert linted.returncode == 0, linted.stdout


def test_the_chart_renders_a_gateway_that_would_start() -> None:
    made = objects()
    text = made["ConfigMap", "r-prefixgate"]["data"]["gateway.toml"]
    config = parse(text)
    pod = made["Deployment", "r-prefixgate"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (config.server.host, config.server.port, config.server.admin) == ("0.0.0.0", ports["http"], ports["admin"])
    assert pod["terminationGracePeriodSeconds"] > config.server.drain_s + config.server.drain_notice_s
    secret = container["envFrom"][0]["secretRef"]["name"]
    assert config.server.admin_token_env in made["Secret", secret]["stringData"]
    assert config.state.redis_url == "redis://prefixgate-redis:6379/0"
    assert ("Service", "prefixgate-redis") in made
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}


def test_the_charts_services_meet_its_pods() -> None:
    made = objects()
    labels = made["Deployment", "r-prefixgate"]["spec"]["template"]["metadata"]["labels"]
    for name in ("r-prefixgate", "r-prefixgate-admin"):
        assert made["Service", name]["spec"]["selector"].items() <= labels.items()
    assert made["PodDisruptionBudget", "r-prefixgate"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    subject = made["RoleBinding", "r-prefixgate"]["subjects"][0]
    assert ("ServiceAccount", subject["name"]) in made


def test_the_chart_without_a_server_table_and_with_everything() -> None:
    made = objects(
        *("--set", 'config=[[pools]]\nname = "p"\nengine = "vllm"\nreplicas = ["http://e:1"]'),
        *("--set", "autoscaling.enabled=true,redis.enabled=false,podAnnotations.a=b,monitoring.labels.release=prom"),
        *("--set", "monitoring.serviceMonitor=true,monitoring.rules=true,monitoring.dashboard=true"),
    )
    assert parse(made["ConfigMap", "r-prefixgate"]["data"]["gateway.toml"]).server.host == "0.0.0.0"
    assert "replicas" not in made["Deployment", "r-prefixgate"]["spec"]
    assert ("HorizontalPodAutoscaler", "r-prefixgate") in made
    assert ("Deployment", "prefixgate-redis") not in made
    assert len(made["PrometheusRule", "r-prefixgate"]["spec"]["groups"][0]["rules"]) == len(alerts())
    board = made["ConfigMap", "r-prefixgate-dashboard"]["data"]["prefixgate.json"]
    assert json.loads(board)["uid"] == "prefixgate"


def test_the_chart_wants_a_token() -> None:
    refused = tool("helm", "template", "r", CHART)
    assert refused.returncode != 0
    assert "give a value to secret.PREFIXGATE_ADMIN_TOKEN, or name an existingSecret" in refused.stderr
    assert objects("--set", "existingSecret=mine").keys().isdisjoint({("Secret", "r-prefixgate")})


def test_prometheus_takes_the_rules() -> None:
    checked = tool("promtool", "check", "rules", str(DEPLOY / "prometheus" / "alerts.yaml"))
    assert checked.returncode == 0, checked.stderr
    assert f"{len(alerts())} rules found" in checked.stdout


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """Prometheus' own tests of rules: a replica that is down, one model without any, errors, refusals, drift."""
    tested = tmp_path / "tests.yaml"
    shutil.copy(Path(__file__).parent / "alerts_test.yaml", tested)
    shutil.copy(DEPLOY / "prometheus" / "alerts.yaml", tmp_path / "alerts.yaml")
    ran = tool("promtool", "test", "rules", str(tested))
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(("profile", "service"), [("simulated", "vllm-2"), ("real", "real-vllm")])
def test_compose_reads_its_file(tmp_path: Path, profile: str, service: str) -> None:
    """With Debian's docker-compose, which does not know the key `name` yet."""
    folder = DEPLOY / "compose"
    older = tmp_path / "compose.yaml"
    text = (folder / "compose.yaml").read_text(encoding="utf-8")
    older.write_text(re.sub(r"^name: .*\n", "", text, flags=re.MULTILINE))
    arguments = ("--project-directory", str(folder), "-f", str(older), "config")
    read = tool("docker-compose", *arguments, COMPOSE_PROFILES=profile, PREFIXGATE_CONFIG=f"{profile}.toml")
    assert read.returncode == 0, read.stderr
    services = yaml.safe_load(read.stdout)["services"]
    assert service in services
    mounted = services["gateway-1"]["volumes"][0].split(":")[0]
    assert tomllib.loads(Path(mounted).read_text(encoding="utf-8"))["pools"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
@pytest.mark.parametrize("name", ["prefixgate.service", "prefixgate-engines@.service", "vllm@.service"])
def test_systemd_takes_the_unit(tmp_path: Path, name: str) -> None:
    unit = (DEPLOY / "systemd" / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(unit.replace("/opt/prefixgate/bin/prefixgate", "/bin/true"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / name.replace("@", "@pool"))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert verified.returncode == 0, verified.stderr
    assert name.partition(".")[0] not in verified.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_takes_the_drop_in_of_an_engine(tmp_path: Path) -> None:
    """Also one with words that need every kind of quoting."""
    shutil.copy(DEPLOY / "systemd" / "vllm@.service", tmp_path)
    folder = tmp_path / "vllm@v-0.service.d"
    folder.mkdir()
    words = {"model": 'a "50%" $HOME\\x;y', "env": {"A": 'b "c" %d $e'}}
    spec = LaunchSpec(name="v-0", dialect="vllm", host="127.0.0.1", port=1, directory="/tmp", **words)  # type: ignore[arg-type]
    (folder / "90-prefixgate.conf").write_text(drop_in(spec))
    command = ["systemd-analyze", "verify", str(tmp_path / "vllm@v-0.service")]
    verified = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert verified.returncode == 0, verified.stderr
    assert "vllm@" not in verified.stderr


def test_every_query_runs_on_a_gateway_that_prometheus_scrapes(tmp_path: Path) -> None:
    """Dashboard and alerts, on a real Prometheus, after some traffic; the dashboard's main panels show figures."""
    rules = DEPLOY / "prometheus" / "alerts.yaml"
    with (
        prefixgate("engine", "simulate", "--speed", "50") as (_, engine),
        prefixgate("serve", "--vllm", engine[0], "--port", "0") as (_, urls),
        prometheus_over(TOOLS / "prometheus", urls[1], rules, tmp_path) as prometheus,
        httpx.Client(trust_env=False, timeout=20) as client,
    ):
        until(lambda: client.get(f"{urls[0]}/ready").status_code == 200)
        prompt = {"role": "user", "content": "hello " * 3000}
        asked = {"model": "deepseek-v4-flash", "messages": [prompt], "stream": True, "max_tokens": 4}

        def counted() -> bool:
            """Ask once more; is there something to draw a rate from?"""
            assert client.post(f"{urls[0]}/v1/chat/completions", json=asked).status_code == 200
            return _value(client, prometheus, "sum(rate(prefixgate_requests_total[30s]))") > 0

        until(counted)
        queries = [query.expression for row in rows() for panel in row.panels for query in panel.queries]
        shown = [query for query in queries if _result(client, prometheus, _filled(query))]
        for one in alerts():
            _result(client, prometheus, one.expression)
        known = client.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"][0]["rules"]
    assert len(known) == len(alerts())
    for metric in ("cached_tokens_total", "ttft_seconds_bucket", "requests_total", "replica_up", "overhead_seconds"):
        assert any(metric in query for query in shown), metric


def _filled(query: str) -> str:
    """What Grafana puts in."""
    query = query.replace("$__rate_interval", "30s")
    return re.sub(r'"\$(model|pool|replica)"', '".*"', query)


def _value(client: httpx.Client, url: str, query: str) -> float:
    found = _result(client, url, query)
    return float(found[0]["value"][1]) if found else 0.0


def _result(client: httpx.Client, url: str, query: str) -> list[Any]:
    answer = client.get(f"{url}/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    found: list[Any] = answer["data"]["result"]
    return found
