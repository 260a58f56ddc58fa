"""Garbage of all kinds for so long: ``python -m tests.fuzz --seconds 60`` (``make fuzz``).

Each target is a process of its own, so that none can take the others down; what it prints is shown. Those that a fuzzer
guides by coverage need atheris, and are left out without it. The last line is JSON: inputs in all, crashes, statuses
that garbage must not cause, hangs, and the largest growth of a server's memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

START_S = 90.0
"""What a target may take beyond its time: starting, and looking whether the server has let go of everything."""
ROUND_S = 25.0
"""What one round of the attacks on the ports takes, about."""
NEVER = ("INTERNAL", "UNKNOWN")


class Target(NamedTuple):
    """A program of this folder: its module, its arguments, and its part of the time."""

    module: str
    arguments: tuple[str, ...]
    share: float


TARGETS = (
    Target("servicers", (), 0.1),
    Target("servicers", ("--stored",), 0.1),
    Target("servicers", ("--guided", "messages"), 0.15),
    Target("servicers", ("--guided", "bytes"), 0.15),
    Target("wire", (), 0.2),
    Target("files", (), 0.15),
    Target("raw", (), 0.15),
)


def run(target: Target, seconds: float, seed: int) -> dict[str, Any]:
    """Runs a target; its report, or one that says that it crashed or hung."""
    name = " ".join((target.module, *target.arguments))
    own_s = seconds * target.share
    amount = ["--rounds", str(max(round(own_s / ROUND_S), 1))] if target.module == "raw" else ["--seconds", str(own_s)]
    command = [sys.executable, "-m", f"tests.fuzz.{target.module}", *target.arguments, *amount, "--seed", str(seed)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5 * own_s + START_S, check=False)
    except subprocess.TimeoutExpired:
        return {"target": name, "hung": True, "passed": False, "findings": ["it did not come to an end"]}
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"target"')]
    if not lines:
        what = f"it ended with {done.returncode}, without a report: {done.stderr[-2000:]}"
        return {"target": name, "crashed": True, "passed": False, "findings": [what]}
    report: dict[str, Any] = json.loads(lines[-1])
    return report


def summary(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All reports as one."""
    findings = [finding for report in reports for finding in report["findings"]]
    return {
        "inputs": sum(report.get("inputs_in_all", 0) for report in reports),
        "inputs_by_target": {report["target"]: report.get("inputs_in_all", 0) for report in reports},
        "crashes": sum(report.get("crashed", False) for report in reports),
        "internal": sum(report.get("endings", {}).get(code, 0) for report in reports for code in NEVER),
        "hangs": sum("no answer within" in finding for finding in findings)
        + sum(report.get("hung", False) for report in reports),
        "rss_growth_mib": max((report.get("rss_growth_mib", 0.0) for report in reports), default=0.0),
        "slowest_s": max((report.get("slowest_s", 0.0) for report in reports), default=0.0),
        "findings": findings,
        "passed": all(report["passed"] for report in reports),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    is_guided = importlib.util.find_spec("atheris") is not None
    reports = []
    for target in TARGETS:
        if "--guided" in target.arguments and not is_guided:
            print(f"left out, without atheris: {target.module} {' '.join(target.arguments)}", file=sys.stderr)
            continue
        reports.append(run(target, options.seconds, options.seed))
        print(json.dumps(reports[-1]), flush=True)
    document = summary(reports)
    print(json.dumps(document), flush=True)
    sys.exit(0 if document["passed"] else 1)


if __name__ == "__main__":
    main()
