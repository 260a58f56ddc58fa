"""The alert rules: Prometheus takes them, each fires when it should and not when it should not, and has a runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.deploy.alert_rules import RULES, rules
from tests.programs import require_program
from tests.tools import ROOT

CASES = RULES.with_name("alerts_test.yml")
RUNBOOKS = ROOT / "docs" / "alerts.md"
SEVERITIES = {"critical", "warning"}


@pytest.mark.parametrize("check", [("check", "rules", RULES), ("test", "rules", CASES)], ids=["rules", "cases"])
def test_promtool_is_content(check: tuple[str, str, Path]) -> None:
    result = subprocess.run([require_program("promtool"), *check], capture_output=True, text=True, cwd=RULES.parent)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = {case["name"]: case for case in YAML(typ="safe").load(CASES)["tests"]}
    assert list(cases) == [rule["alert"] for rule in rules()]
    for name, case in cases.items():
        early, late = case["promql_expr_test"]
        assert all(f'"{name}"' in test["expr"] for test in (early, late)), name
        assert early["exp_samples"] == [], name
        servers = set(re.findall(r'instance="([^"]+)"', " ".join(series["series"] for series in case["input_series"])))
        fire = set(re.findall(r'instance="([^"]+)"', " ".join(sample["labels"] for sample in late["exp_samples"])))
        assert fire < servers, f"{name}: one fires, and one beside it does not"
        assert fire


def test_every_alert_says_what_is_wrong_and_has_a_runbook() -> None:
    headings = re.findall(r"^## (\w+)\n\n\*(\w+)\.\*", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == [(rule["alert"], rule["labels"]["severity"]) for rule in rules()]
    assert {severity for _, severity in headings} == SEVERITIES
    for rule in rules():
        annotations = rule["annotations"]
        assert set(annotations) == {"summary", "description", "runbook"}
        assert "{{ $labels.instance }}" in annotations["summary"]
        assert annotations["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"
