"""The seconds of a load test as CSV, for spreadsheets and data frames."""

from __future__ import annotations

import csv
from pathlib import Path

from cellserve_client.load.document import LoadDocument, Second, ServerSecond

COLUMNS = (
    "second_s",
    "steps",
    "requests",
    "errors",
    "p50_ms",
    "p99_ms",
    "max_ms",
    "sessions",
    "offered_requests_per_second",
    "server_steps_per_second",
    "server_rows_per_tick",
    "server_queue_runs",
    "server_sessions",
    "server_tick_ms",
)


def write_csv(document: LoadDocument, path: Path) -> None:
    """Writes one row a second of the measured time under a row of ``COLUMNS``, whose names end in their units.

    A cell is empty where there is nothing: no answer in that second, a closed loop, no metrics of the server. What the
    whole test gave, its percentiles among it, is in the JSON alone.

    Raises:
        OSError: the file cannot be written.
    """
    metrics = document.server_metrics
    servers = {second.second: second for second in metrics.timeline} if metrics is not None else {}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(_row(second, servers.get(second.second)) for second in document.timeline)


def _row(second: Second, server: ServerSecond | None) -> list[float | None]:
    own = [
        second.second,
        second.steps,
        second.requests,
        second.errors,
        second.p50_ms,
        second.p99_ms,
        second.max_ms,
        second.sessions,
        second.offered_per_second,
    ]
    if server is None:
        return [*own, None, None, None, None, None]
    return [*own, server.steps_per_second, server.rows_per_tick, server.queue_runs, server.sessions, server.tick_ms]
