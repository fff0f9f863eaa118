"""The alerts as Prometheus reads them, and as people do; pure."""

from typing import Final

import yaml

from gateway.monitoring.alerts import Alert, alerts

RUNBOOK: Final = "deploy/docs/runbook.md"


def rules() -> str:
    """The rules as a file for Prometheus (`rule_files`)."""
    group = {
        "name": "prefixgate",
        "rules": [
            {
                "alert": one.name,
                "expr": one.expression,
                "for": one.holds,
                "labels": {"severity": one.severity},
                "annotations": {
                    "summary": one.summary,
                    "description": f"{one.meaning} {one.action}",
                    "runbook": f"{RUNBOOK}#{one.name.lower()}",
                },
            }
            for one in alerts()
        ],
    }
    head = "# Made by: prefixgate monitoring alerts\n"
    return head + yaml.safe_dump({"groups": [group]}, sort_keys=False, width=110, allow_unicode=True)


def runbook() -> str:
    """The same for people: what each alert means, and what to do."""
    parts = [
        "# Runbook\n\nWhat each alert of `deploy/prometheus/alerts.yaml` means, and what to do. Made by `prefixgate "
        "monitoring runbook`.\n"
    ]
    return "\n".join([*parts, *map(_entry, alerts())])


def _entry(one: Alert) -> str:
    return (
        f"## {one.name}\n\n**{one.severity}**, after {one.holds}: `{one.expression}`\n\n{one.meaning}\n\n"
        f"**Do:** {one.action}\n"
    )
