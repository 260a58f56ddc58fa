"""The vulnerability check: what is not known is not well."""

from __future__ import annotations

from typing import Any

from deploy.audit import read_report, tell

GOOD: dict[str, Any] = {"name": "numpy", "version": "2.0", "vulns": []}
BAD: dict[str, Any] = {
    "name": "urllib3",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-2020-1", "aliases": ["CVE-2020-2"], "fix_versions": ["1.1"], "description": "Bad."}],
}
UNKNOWN: dict[str, Any] = {"name": "grpcio", "skip_reason": "Dependency not found on PyPI and could not be audited"}


def test_all_is_known_and_well() -> None:
    audit = read_report({"dependencies": [GOOD, GOOD], "fixes": []})
    assert audit.passed
    assert tell(audit) == ["2 packages audited, 0 vulnerabilities"]


def test_a_vulnerability_fails_and_is_named() -> None:
    audit = read_report({"dependencies": [GOOD, BAD], "fixes": []})
    assert not audit.passed
    assert tell(audit)[0] == "vulnerable: urllib3 1.0: PYSEC-2020-1 CVE-2020-2, mended in 1.1"


def test_what_is_not_known_fails_too() -> None:
    audit = read_report({"dependencies": [GOOD, *[UNKNOWN] * 7], "fixes": []})
    assert not audit.passed
    first, last = tell(audit)
    assert first.startswith("not audited: 7 packages (grpcio, grpcio, grpcio, grpcio, grpcio, ...)")
    assert last == "1 packages audited, 0 vulnerabilities"
    assert not read_report({"dependencies": []}).passed
