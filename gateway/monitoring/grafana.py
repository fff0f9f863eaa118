"""The Grafana dashboard as its JSON model (schema 39, Grafana 10 and later); pure.

Source of the model: Grafana's documentation, "Dashboard JSON model".
"""

import json
from typing import Any, Final

from gateway.monitoring.panels import Panel, Row, rows

UID: Final = "prefixgate"
_HEIGHT: Final = 8
_COLUMNS: Final = 24
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}


def dashboard() -> str:
    """The dashboard as JSON, to be imported or provisioned."""
    model = {
        "uid": UID,
        "title": "prefixgate",
        "tags": ["llm", "prefixgate"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), *(_variable(label) for label in ("model", "pool", "replica"))]},
        "panels": _panels(),
    }
    return json.dumps(model, indent=1, ensure_ascii=False) + "\n"


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(label: str) -> dict[str, Any]:
    """A choice of values of a label; all of them at first."""
    query = f"label_values(prefixgate_replica_up, {label})"
    return {
        "name": label,
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    y = 0
    for row in rows():
        made.append({"id": len(made) + 1, "type": "row", "title": row.title, "gridPos": _place(0, y, _COLUMNS, 1)})
        y = _fill(made, row, y + 1)
    return made


def _fill(made: list[dict[str, Any]], row: Row, y: int) -> int:
    """Add the panels of a row from left to right; where the next row begins."""
    x = 0
    for panel in row.panels:
        if x + panel.width > _COLUMNS:
            x, y = 0, y + _HEIGHT
        made.append(_panel(panel, len(made) + 1, x, y))
        x += panel.width
    return y + _HEIGHT


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    custom: dict[str, Any] = {"fillOpacity": 15, "lineWidth": 1, "showPoints": "never"}
    if panel.stacked:
        custom["stacking"] = {"mode": "normal"}
    defaults: dict[str, Any] = {"unit": panel.unit, "custom": custom}
    if panel.line is not None:
        custom["thresholdsStyle"] = {"mode": "dashed"}
        steps = [{"color": "transparent", "value": None}, {"color": "orange", "value": panel.line}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": _place(x, y, panel.width, _HEIGHT),
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
            }
            for place, query in enumerate(panel.queries)
        ],
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}
