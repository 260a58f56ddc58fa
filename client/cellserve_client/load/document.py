"""What a load test gave: the document that is printed, kept as JSON, compared, and made a page of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cellserve.errors import FieldInvalidError
from cellserve_client.load import json_fields

SCHEMA = "cellserve-load/1"


@dataclass(frozen=True)
class Latency:
    """Latencies in milliseconds, to three digits; all None without any request that was answered.

    Attributes:
        min, mean, p50, p90, p99, p999, p9999, max: by percentile; ``p99.9`` and ``p99.99`` in JSON.
    """

    min: float | None
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None = field(metadata={json_fields.JSON_NAME: "p99.9"})
    p9999: float | None = field(metadata={json_fields.JSON_NAME: "p99.99"})
    max: float | None


@dataclass(frozen=True)
class Target:
    """What was tested.

    Attributes:
        address: the server's, as it was given.
        model: ``models/{model}/versions/{version}``.
    """

    address: str
    model: str


@dataclass(frozen=True)
class Totals:
    """Counts of the measured time, and what they come to a second.

    Attributes:
        requests: that were answered: a step each, or a sequence.
        steps: in them.
        failed: requests that were not answered, or found no session to be sent to.
        steps_per_second, requests_per_second: answered.
        offered_per_second: requests that the schedule asked for, in an open loop; None in a closed one.
        sessions_opened: in the whole test, warm-up included.
        steps_with_warmup: all steps that the server has answered to this test, measured or not.
    """

    requests: int
    steps: int
    failed: int
    steps_per_second: float
    requests_per_second: float
    offered_per_second: float | None
    sessions_opened: int
    steps_with_warmup: int


@dataclass(frozen=True)
class Kind:
    """The requests of one kind, ``step`` or ``sequence``, in the measured time.

    Attributes:
        requests, steps, failed: as in ``Totals``.
        latency_ms: as in the document.
        percentiles: as in the document.
    """

    requests: int
    steps: int
    failed: int
    latency_ms: Latency
    percentiles: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True)
class Second:
    """One second of the measured time.

    Attributes:
        second: from 0; answers count in the second in which they came.
        steps, requests: answered. The last second may be shorter.
        errors: failures, those of opening and closing sessions included.
        p50_ms, p99_ms, max_ms: of the answers of this second; None without any.
        sessions: open at its end.
        offered_per_second: requests that the schedule asked for; None in a closed loop.
    """

    second: int
    steps: int
    requests: int
    errors: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    sessions: int
    offered_per_second: float | None


@dataclass(frozen=True)
class ServerSecond:
    """What the server's metrics told about one second, or about the time since they were last read.

    Attributes:
        second: of the measured time, from 0.
        steps_per_second: that were committed, of all its clients.
        rows_per_tick: on the average; None: there was no tick.
        queue_runs: that waited when it was read.
        sessions: open when it was read.
        tick_ms: how long a tick took on the average; None: there was no tick.
    """

    second: int
    steps_per_second: float
    rows_per_tick: float | None
    queue_runs: float
    sessions: float
    tick_ms: float | None


@dataclass(frozen=True)
class ServerMetrics:
    """What the server's metrics told; of several servers the sum.

    Attributes:
        urls: where they were read.
        steps_delta: by how much ``cellserve_steps_total`` grew in the whole test, warm-up and all other clients
            included; None: it could not be read in the end.
        timeline: of the measured time.
    """

    urls: tuple[str, ...]
    steps_delta: int | None
    timeline: tuple[ServerSecond, ...]


@dataclass(frozen=True)
class Client:
    """How the load tester itself fared.

    Attributes:
        processes: that sent.
        busiest_cpu_share: of one core, by the busiest of them, in the measured time.
        loop_lag_p99_ms: how late the event loop came to what was due, in the worst process.
        is_limit: whether the client, not the server, is likely to have limited the test.
        warning: that in words, and what to do; None when it is not.
    """

    processes: int
    busiest_cpu_share: float
    loop_lag_p99_ms: float
    is_limit: bool
    warning: str | None


@dataclass(frozen=True)
class Stage:
    """A part of the measured time.

    Attributes:
        seconds: its length.
        sessions: that it had at its end, in a closed loop; else None.
        rate: requests a second at its end, in an open loop; else None.
    """

    seconds: float
    sessions: int | None
    rate: float | None


@dataclass(frozen=True)
class Term:
    """One term of an objective.

    Attributes:
        term: as it was written, such as ``p99<20ms``.
        measured: in the term's unit: milliseconds, a share from 0 to 1, or requests a second; None: nothing to measure.
        held: whether it was.
    """

    term: str
    measured: float | None
    held: bool


@dataclass(frozen=True)
class Slo:
    """The objective of a test, and whether it was held: every term of it."""

    text: str
    terms: tuple[Term, ...]
    held: bool


@dataclass(frozen=True)
class Trial:
    """One trial of the search for the highest rate.

    Attributes:
        rate: that was asked for, requests a second.
        held: whether the objective was.
        steps_per_second: answered.
        latency_ms: of it.
        errors_share: from 0 to 1.
        client_is_limit: whether the client, not the server, is likely to have limited it.
    """

    rate: float
    held: bool
    steps_per_second: float
    latency_ms: Latency
    errors_share: float
    client_is_limit: bool = False


@dataclass(frozen=True)
class FindMax:
    """The search for the highest rate that holds the objective.

    Attributes:
        best_rate: requests a second; None: no trial held it.
        trials: in their order.
    """

    best_rate: float | None
    trials: tuple[Trial, ...]

    @property
    def client_is_limit(self) -> bool:
        """Whether the client, not the server, may be why no higher rate was held."""
        missed = [trial for trial in self.trials if not trial.held]
        return bool(missed) and min(missed, key=lambda trial: trial.rate).client_is_limit


@dataclass(frozen=True)
class LoadDocument:
    """The result of a load test. Of a search for the highest rate: that of its best trial, else of its last.

    Attributes:
        settings: the plan's fields by name, as JSON.
        server: what was tested.
        started: when the measuring began, ISO 8601 with the offset.
        seconds: measured, without the warm-up.
        mode: ``closed``: each session sends when its last request is answered; ``open``: by a schedule.
        totals: counts and rates.
        latency_ms: from when a request was to be sent by the schedule, in an open loop, or was sent, in a closed one,
            to its answer.
        service_ms: from when it was really sent.
        percentiles: ``[percentile, milliseconds, requests up to it]``, closer and closer to 100.
        histogram: of the latencies in microseconds, in the base64 text of HdrHistogram's V2 encoding.
        by_kind: ``step`` and ``sequence``, as far as there were any.
        timeline: the measured seconds.
        errors: failures by reason, warm-up and the closing of sessions included.
        server_metrics: None when they were not read.
        client: how the load tester fared.
        stages: the measured time in parts; one without ``--stage``.
        slo: None when there was none.
        find_max: None when nothing was searched.
        failure: why the test counts as failed, in words; None when it passed.
        schema: of this document.
    """

    settings: dict[str, Any]
    server: Target
    started: str
    seconds: float
    mode: str
    totals: Totals
    latency_ms: Latency
    service_ms: Latency
    percentiles: tuple[tuple[float, float, int], ...]
    histogram: str
    by_kind: dict[str, Kind]
    timeline: tuple[Second, ...]
    errors: dict[str, int]
    server_metrics: ServerMetrics | None
    client: Client
    stages: tuple[Stage, ...]
    slo: Slo | None = None
    find_max: FindMax | None = None
    failure: str | None = None
    schema: str = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """For ``json.dumps``, or for other programs."""
        return {"schema": self.schema} | {
            name: value for name, value in json_fields.to_json(self).items() if name != "schema"
        }

    @classmethod
    def from_json(cls, document: Any) -> LoadDocument:
        """Reads what ``to_json`` has made.

        Raises:
            FieldInvalidError: it is no such document, or one of another schema; the message names the field.
        """
        schema = document.get("schema") if isinstance(document, dict) else None
        if schema != SCHEMA:
            raise FieldInvalidError(f"document.schema: expected {SCHEMA!r}, a load test's JSON; got {schema!r}")
        return json_fields.from_json(cls, document, "document")
