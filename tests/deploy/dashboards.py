"""The dashboard's panels and queries, as tests need them."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from tests.tools import ROOT

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "cellserve.json"
# What Grafana puts in the place of its variables when all servers and models are chosen.
CHOSEN = {"$instance": ".*", "$model": ".*", "$__rate_interval": "5m"}


class Query(NamedTuple):
    """A query of a panel."""

    panel: str
    expression: str


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    read: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return read


def queries() -> list[Query]:
    """All queries of all panels."""
    return [Query(panel["title"], one["expr"]) for panel in dashboard()["panels"] for one in panel.get("targets", ())]


def label_queries() -> list[tuple[str, str]]:
    """Of the variables that have their values from labels: the series and the label."""
    found = [
        re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
        for variable in dashboard()["templating"]["list"]
        if variable["type"] == "query"
    ]
    return [(match[1], match[2]) for match in found if match]


def with_all_chosen(expression: str) -> str:
    """An expression as Grafana sends it."""
    for variable, value in CHOSEN.items():
        expression = expression.replace(variable, value)
    return expression
