"""The deployment files say what is: made from the metrics, loaded by the configuration, no path that is not there."""

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import load
from gateway.monitoring.alerts import Alert, alerts
from gateway.monitoring.catalogue import catalogue, unknown_names
from gateway.monitoring.grafana import dashboard
from gateway.monitoring.panels import rows
from gateway.monitoring.rules import rules, runbook
from gateway.serving.access import LEAST_CHARACTERS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MADE = {
    "grafana/prefixgate.json": dashboard,
    "prometheus/alerts.yaml": rules,
    "docs/runbook.md": runbook,
    "helm/prefixgate/files/prefixgate.json": dashboard,
    "helm/prefixgate/files/alerts.yaml": rules,
}


@pytest.mark.parametrize("path", MADE)
def test_what_is_made_is_up_to_date(path: str) -> None:
    """`make monitoring` makes them anew."""
    assert (DEPLOY / path).read_text(encoding="utf-8") == MADE[path]()


def test_the_catalogue_is_of_the_contract() -> None:
    kinds = {family.name: family.kind for family in catalogue()}
    assert kinds["prefixgate_ttft_seconds"] == "histogram"
    assert kinds["prefixgate_cached_tokens"] == "counter"
    assert kinds["prefixgate_replica_up"] == "gauge"
    assert all(family.documentation for family in catalogue())


def test_a_query_for_what_does_not_exist_is_refused() -> None:
    assert unknown_names("rate(prefixgate_requests_total[5m]) / prefixgate_replica_up") == []
    assert unknown_names("prefixgate_requests + prefixgate_ttft_seconds") == [
        "prefixgate_requests",
        "prefixgate_ttft_seconds",
    ]
    with pytest.raises(ValueError, match="prefixgate_nothing"):
        Alert("Any", "prefixgate_nothing > 1", "1m", "info", "s", "m", "a")


def test_alerts_say_what_they_mean() -> None:
    named = [one.name for one in alerts()]
    assert len(named) == len(set(named)) > 15
    for one in alerts():
        assert one.severity in ("critical", "warning", "info")
        assert re.fullmatch(r"\d+[mh]", one.holds)
        assert one.meaning.endswith(".")
        assert one.action.endswith(".")


def test_panels_have_room() -> None:
    assert all(0 < panel.width <= 24 and panel.queries for row in rows() for panel in row.panels)


def _yaml(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text(encoding="utf-8"))


def test_compose_names_files_and_hosts_that_are_there() -> None:
    services = _yaml("compose/compose.yaml")["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0].replace("${PREFIXGATE_CONFIG}", "simulated.toml")
            assert source.startswith("${MODELS") or (DEPLOY / "compose" / source).exists(), source
    for file in ("simulated.toml", "real.toml"):
        config = load(DEPLOY / "compose" / file)
        hosts = [re.sub(r"https?://([^:]+):.*", r"\1", url) for pool in config.pools for url in pool.replicas]
        assert set(hosts) <= set(services)
        assert config.server.admin_token_env is not None
        token = services["gateway-1"]["environment"][config.server.admin_token_env]
        assert len(token.split(":-")[1]) > LEAST_CHARACTERS
    targets = _yaml("compose/prometheus.yaml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert {target.split(":")[0] for target in targets} == {"gateway-1", "gateway-2"}


def test_the_image_has_what_it_copies() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    names = [name for names in copied for name in names]
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    assert len(names) == 5
    for name in names:
        assert (ROOT / name).exists()
        assert f"!{name}\n" in allowed
    assert re.search(r"^USER 10001$", text, re.MULTILINE)


def test_the_unit_starts_and_reloads_the_gateway() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "prefixgate.service", encoding="utf-8")
    service = unit["Service"]
    assert service["ExecStart"].split()[1:3] == ["serve", "--config"]
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["NoNewPrivileges"] == "yes"


def test_the_charts_configuration_needs_no_listening_address() -> None:
    values = _yaml("helm/prefixgate/values.yaml")
    assert not re.search(r"^\s*(host|port|admin_port)\s*=", values["config"], re.MULTILINE)
    assert values["terminationGracePeriodSeconds"] > 70  # drain_notice_s + drain_s there
