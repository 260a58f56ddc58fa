"""``python -m deploy.audit FILE``: whether vulnerabilities are known of the packages that a requirements file pins.

pip-audit asks the vulnerability service. Where that, or the package index in front of it, knows nothing of a package,
pip-audit leaves it out and is content; here that is a failure, since nothing is known then.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHOWN = 5
TIMEOUT_S = 20


@dataclass
class Audit:
    """What came of it.

    Attributes:
        known: packages that the service knows, without vulnerabilities or with some.
        unknown: those of which nothing could be learned.
        vulnerable: each vulnerability in a line: package, version, its id, and in which versions it is mended.
    """

    known: int = 0
    unknown: list[str] = field(default_factory=list)
    vulnerable: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether everything is known, and nothing bad."""
        return self.known > 0 and not self.unknown and not self.vulnerable


def read_report(report: dict[str, Any]) -> Audit:
    """Reads pip-audit's JSON."""
    audit = Audit()
    for package in report["dependencies"]:
        if "skip_reason" in package:
            audit.unknown.append(package["name"])
            continue
        audit.known += 1
        for found in package["vulns"]:
            mended = ", ".join(found["fix_versions"]) or "no version yet"
            name = " ".join([found["id"], *found.get("aliases", ())])
            audit.vulnerable.append(f"{package['name']} {package['version']}: {name}, mended in {mended}")
    return audit


def tell(audit: Audit) -> list[str]:
    """The outcome in lines."""
    lines = [f"vulnerable: {line}" for line in audit.vulnerable]
    if audit.unknown:
        shown = ", ".join(audit.unknown[:SHOWN]) + (", ..." if len(audit.unknown) > SHOWN else "")
        lines.append(
            f"not audited: {len(audit.unknown)} packages ({shown}): the vulnerability service cannot be reached from "
            "here, or knows nothing of them; run this where the Python Package Index itself can be reached"
        )
    lines.append(f"{audit.known} packages audited, {len(audit.vulnerable)} vulnerabilities")
    return lines


def main() -> int:
    """Returns the exit code: 0 only if every package could be looked up, and has no known vulnerability."""
    parser = argparse.ArgumentParser(prog="python -m deploy.audit", description=__doc__)
    parser.add_argument("file", type=Path, help="a requirements file with pins")
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(parser.parse_args().file), "--no-deps"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", str(TIMEOUT_S)]
    result = subprocess.run(command, capture_output=True, text=True)
    try:
        audit = read_report(json.loads(result.stdout))
    except json.JSONDecodeError:
        reason = result.stderr.strip().rpartition("\n")[2]
        print(f"not audited: the vulnerability service did not answer: {reason}", file=sys.stderr)
        return 1
    for line in tell(audit):
        print(line, file=sys.stdout if audit.passed else sys.stderr)
    return 0 if audit.passed else 1


if __name__ == "__main__":
    sys.exit(main())
