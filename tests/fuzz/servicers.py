"""Calls of the servicers in this process: of seeded choices, or of a fuzzer's bytes, until the time is over.

``python -m tests.fuzz.servicers --seconds 60`` takes seeded choices; with ``--guided messages`` or ``--guided bytes``
atheris looks for inputs that reach code which none before has reached (``make fuzz`` has it in an environment of its
own). The first makes requests of the fuzzer's choices, the second takes its bytes for requests as they are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog

SEPARATOR = b"\xfe\xff\xfe"
SEEDS_PER_METHOD = 10
MAX_INPUT_BYTES = 4096
HUNG_S = 60


class Trial:
    """Makes calls and keeps count.

    Args:
        folder: an empty one.
        target: what it is called in the report.
        seconds: how long it is to take.
        is_stored: whether sessions are in a store.
    """

    def __init__(self, folder: Path, target: str, seconds: float, *, is_stored: bool = False) -> None:
        # Here, so that they come in instrumented where a fuzzer wants them so.
        from tests.fuzz.in_process import Served
        from tests.fuzz.readings import reading_of
        from tests.fuzz.reports import Report

        self._reading_of = reading_of
        self.report = Report(target)
        self.served = Served(asyncio.new_event_loop(), folder, is_stored=is_stored)
        self.methods = list(self.served.methods.values())
        self._began = time.monotonic()
        self._seconds = seconds
        self._early: Any = None

    @property
    def is_over(self) -> bool:
        """Whether the time is over, or something was found."""
        return time.monotonic() - self._began > self._seconds or bool(self.report.findings)

    def call(self, path: str, requests: Sequence[bytes]) -> None:
        """Makes a call; what it finds is noted, with what leads to it."""
        from tests.fuzz.in_process import Finding

        if self._early is None and time.monotonic() - self._began > self._seconds / 10:
            self._early = self._reading_of(os.getpid())
        try:
            self.served.call(self.served.methods[path], requests)
        except Finding as error:
            self.report.findings.append(f"{error}; {line_of(path, requests)}")

    def finish(self) -> None:
        """Completes the report and stops the server."""
        from tests.fuzz.reports import GROWTH_MIB, MIB

        late, report = self._reading_of(os.getpid()), self.report
        if self._early is not None:
            report.rss_growth_mib = round((late.rss_bytes - self._early.rss_bytes) / MIB, 1)
            report.files_left = late.files - self._early.files
        if report.rss_growth_mib > GROWTH_MIB:
            report.findings.append(f"the process has grown by {report.rss_growth_mib} MiB")
        if report.files_left > 0:
            report.findings.append(f"{report.files_left} files were left open")
        report.inputs = dict(sorted(self.served.calls.items()))
        report.endings = dict(self.served.endings.most_common())
        report.slowest_s = round(self.served.slowest_s, 3)
        self.served.close()


def line_of(path: str, requests: Sequence[bytes]) -> str:
    """A call as a line of the corpus."""
    return json.dumps({"path": path, "requests": [request.hex() for request in requests]})


def call_of(line: str) -> tuple[str, list[bytes]]:
    """A line of the corpus as a call."""
    entry = json.loads(line)
    return entry["path"], [bytes.fromhex(text) for text in entry["requests"]]


def run_seeded(trial: Trial, seed: int) -> None:
    """Makes calls of seeded choices until the time is over."""
    from tests.fuzz.messages import Maker

    maker = Maker(random.Random(seed))
    while not trial.is_over:
        call = maker.call(trial.methods)
        trial.call(call.path, call.requests)


def run_guided(trial: Trial, how: str, folder: Path, seed: int) -> None:
    """Has atheris make calls until the time is over; ends the process."""
    import atheris  # It is for this alone, and not everywhere.

    from tests.fuzz.messages import ByteChoices, Maker

    def of_choices(data: bytes) -> None:
        call = Maker(ByteChoices(data)).call(trial.methods)
        trial.call(call.path, call.requests)

    def of_bytes(data: bytes) -> None:
        number, requests = data[0] if data else 0, data[1:].split(SEPARATOR)
        trial.call(trial.methods[number % len(trial.methods)].path, requests)

    take: Callable[[bytes], None] = of_choices if how == "messages" else of_bytes

    def take_until_over(data: bytes) -> None:
        if trial.is_over:
            end(trial)
        take(data)

    arguments = [sys.argv[0], str(folder), f"-seed={seed}", f"-max_len={MAX_INPUT_BYTES}", "-verbosity=0"]
    arguments.append(f"-artifact_prefix={folder}/")
    # Only for what does not come back at all: what takes too long, or too much, is found out here.
    limits = [f"-timeout={HUNG_S}", "-rss_limit_mb=0"]
    atheris.Setup([*arguments, *limits], take_until_over, enable_python_coverage=True)
    atheris.Fuzz()


def end(trial: Trial) -> None:
    """Prints the report and ends the process, out of whatever is under way."""
    trial.finish()
    print(trial.report.line(), flush=True)
    os._exit(0 if trial.report.passed else 1)


def write_seeds(trial: Trial, folder: Path, seed: int) -> None:
    """Puts requests of every method, nearly right ones, where a fuzzer begins."""
    from tests.fuzz.messages import Maker

    maker = Maker(random.Random(seed))
    for number, method in enumerate(trial.methods):
        for copy in range(SEEDS_PER_METHOD):
            call = maker.call([method])
            data = bytes([number]) + SEPARATOR.join(call.requests)
            (folder / f"{number}-{copy}").write_bytes(data[:MAX_INPUT_BYTES])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", choices=["messages", "bytes"])
    parser.add_argument("--stored", action="store_true", help="with a store behind the server")
    options = parser.parse_args()
    beside = ", stored" if options.stored else ""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory() as models, tempfile.TemporaryDirectory() as seeds:
        if options.guided is None:
            trial = Trial(Path(models), f"servicers, seeded{beside}", options.seconds, is_stored=options.stored)
            run_seeded(trial, options.seed)
            end(trial)
        import atheris

        with atheris.instrument_imports(include=["cellserve", "cellserve_server"]):
            name = f"servicers, guided {options.guided}{beside}"
            trial = Trial(Path(models), name, options.seconds, is_stored=options.stored)
        write_seeds(trial, Path(seeds), options.seed)
        run_guided(trial, options.guided, Path(seeds), options.seed)


if __name__ == "__main__":
    main()
