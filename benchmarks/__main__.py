"""All benchmarks, one after the other: ``python -m benchmarks [--only NAME ...] [--quick] [--output FOLDER]``.

Each runs in a process of its own, as ``python -m benchmarks.NAME``. Then come a table of the targets, the results as
JSON, and a picture.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.command import INTERRUPTED
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.picture import draw
from benchmarks.processes import blas_environment, end, take_sigterm_as_interrupt
from benchmarks.results import Result, judge
from benchmarks.tables import table_of, verdict_table, wide_console

NAMES = (
    "steps",
    "group",
    "latency",
    "unary",
    "engine",
    "sequence",
    "scale",
    "mixed",
    "overload",
    "idle",
    "durability",
    "observability",
    "fairness",
)
BENCHMARK_TIMEOUT_S = 300.0
FAILED = 1


def main() -> int:
    """Runs what was asked for. Returns 1 when a benchmark failed, else 0, whatever was reached."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="a minute: whether it works, not how fast it is")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="a folder")
    options = parser.parse_args()
    take_sigterm_as_interrupt()
    console = wide_console()
    when = datetime.now(UTC)
    # Read before anything runs: its load average tells whether the machine was quiet.
    report: dict[str, Any] = {
        "time": when.isoformat(timespec="seconds"),
        "quick": options.quick,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "benchmarks": {},
    }
    began = time.monotonic()
    failed = []
    for name in options.only:
        try:
            details = run_alone(name, options.quick)
        except KeyboardInterrupt:
            console.print("interrupted", style="red")
            return INTERRUPTED
        if details is None:
            failed.append(name)
            console.print(f"{name} failed", style="red")
            continue
        report["benchmarks"][name] = details
        parts = {key: details[key] for key in ("keys", "rows", "samples", "notes")}
        console.print(table_of(f"{name} ({details['seconds']:.0f} s)", Result(**parts)))
    report["seconds"] = round(time.monotonic() - began, 1)
    finish(report, options.output, when.strftime("%Y%m%d-%H%M%S"), console)
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="red")
    return FAILED if failed else 0


def run_alone(name: str, quick: bool) -> dict[str, Any] | None:
    """Runs one benchmark in a process of its own. None: it failed; why is on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "details.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--details", str(path), *(["--quick"] if quick else [])]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True, env=blas_environment())
        try:
            process.wait(BENCHMARK_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            print(f"{name}: not done within {BENCHMARK_TIMEOUT_S:g} s", file=sys.stderr)
        finally:
            if process.poll() is None:
                end(process)
        if process.returncode != 0 or not path.exists():
            return None
        details: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return details


def finish(report: dict[str, Any], folder: Path, stem: str, console: Console) -> None:
    """Prints the targets, writes the results and the picture."""
    keys = {name: details["keys"] for name, details in report["benchmarks"].items()}
    verdicts = judge(keys)
    report["targets"] = [
        {**asdict(verdict.target), "value": verdict.value, "reached": verdict.reached} for verdict in verdicts
    ]
    console.print(verdict_table(verdicts))
    if report["quick"]:
        console.print("A quick run says whether the benchmarks work, not how fast CellServe is.", style="yellow")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(report, indent=1), encoding="utf-8")
    written: Sequence[Path] = [path]
    if "steps" in keys or "scale" in keys:
        machine, versions = report["machine"], report["versions"]
        libraries = f"grpcio {versions['grpcio']}, numpy {versions['numpy']}"
        subtitle = f"{machine['processor']}, {machine['cores']} cores for client and server; {libraries}"
        draw(keys, subtitle, path.with_suffix(".png"))
        written = [path, path.with_suffix(".png")]
    console.print(f"{report['seconds']:.0f} s; wrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    sys.exit(main())
