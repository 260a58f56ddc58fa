"""The alert rules, as tests need them."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML

from tests.tools import ROOT

RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"


def rules() -> list[dict[str, Any]]:
    """All rules of all groups, in their order."""
    return [rule for group in YAML(typ="safe").load(RULES)["groups"] for rule in group["rules"]]
