"""The command line of one benchmark: ``python -m benchmarks.NAME [--quick] [--details FILE]``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from threadpoolctl import threadpool_limits

from benchmarks.processes import BLAS_THREADS, take_sigterm_as_interrupt
from benchmarks.progress import Progress
from benchmarks.results import Result
from benchmarks.tables import table_of, wide_console

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# What shells say of a program that Ctrl-C ended.
INTERRUPTED = 130
PlanT = TypeVar("PlanT", bound="DataclassInstance")


def run(
    name: str, measure: Callable[[PlanT, Progress], Coroutine[Any, Any, Result]], full: PlanT, quick: PlanT
) -> None:
    """Runs a benchmark alone: a table for people, then one JSON object as the last line.

    Args:
        name: the benchmark's.
        measure: does the work.
        full, quick: dataclasses: how much is measured, and how much with ``--quick``.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--quick", action="store_true", help="less of everything: whether it works, not how fast it is")
    parser.add_argument("--details", type=Path, help="write settings and every sample to this file, as JSON")
    options = parser.parse_args()
    plan = quick if options.quick else full
    take_sigterm_as_interrupt()
    load_before, began = os.getloadavg(), time.monotonic()
    try:
        with threadpool_limits(BLAS_THREADS), Progress(name) as progress:
            result = asyncio.run(measure(plan, progress))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    if options.details is not None:
        details = {
            "settings": {**asdict(plan), "blas_threads": BLAS_THREADS},
            "seconds": round(time.monotonic() - began, 1),
            "load_average_before": load_before,
            **asdict(result),
        }
        options.details.write_text(json.dumps(details), encoding="utf-8")
    wide_console().print(table_of(name, result))
    print(json.dumps({"benchmark": name, "quick": options.quick, **rounded(result.keys), "notes": result.notes}))


def rounded(keys: dict[str, float]) -> dict[str, float]:
    """Six digits are more than any of these numbers has."""
    return {key: float(f"{value:.6g}") for key, value in keys.items()}
