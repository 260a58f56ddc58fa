"""Broken and ill-willed clients at the ports of a server process: ``python -m tests.fuzz.raw``.

Every attack is run in turn, ``--rounds`` times; after each the server has to serve others, in time and right, and at
the end it has to have let go of all that it held. The last line is JSON.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence

from tests.fuzz import http2_attacks, http_attacks
from tests.fuzz.http2_attacks import Attack
from tests.fuzz.reports import Report
from tests.fuzz.sockets import Port
from tests.fuzz.victim import Victim, victim


def attack(target: Victim, port: Port, attacks: Sequence[Attack], report: Report, seed: int) -> None:
    """Runs some attacks on a port, and looks after each how the server is."""
    for each in attacks:
        began = time.monotonic()
        tried = each(port, random.Random(seed))
        report.inputs[each.__name__] = report.inputs.get(each.__name__, 0) + tried
        if wrong := target.is_unharmed():
            report.findings.append(f"{each.__name__}: {wrong}")
            return
        report.slowest_s = max(report.slowest_s, round(time.monotonic() - began, 3))


def run(rounds: int, seed: int) -> Report:
    """Runs all attacks so many times on a server of their own."""
    report = Report("raw bytes at the ports")
    with victim() as target:
        for number in range(rounds):
            attack(target, target.port, http2_attacks.ATTACKS, report, seed + number)
            attack(target, target.page_port, http_attacks.ATTACKS, report, seed + number)
            if report.findings:
                break
        target.complete(report)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = run(options.rounds, options.seed)
    print(report.line())
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
