"""What a load test is to do."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from cellserve.errors import FieldInvalidError
from cellserve_client.connection import ConnectionSettings
from cellserve_client.load.distributions import Distribution, parse_distribution
from cellserve_client.load.document import Stage
from cellserve_client.load.json_fields import to_json
from cellserve_client.load.objective import parse_objective
from cellserve_client.load.stages import Level
from cellserve_client.server_metrics import checked_url
from cellserve_client.tls import settings_from

MAX_SESSIONS = 100_000
MAX_SECONDS = 86_400.0
MAX_RATE = 1_000_000.0
MAX_PROCESSES = 256
MAX_STAGES = 1000
MAX_METRICS_PAGES = 256
# A sequence is not longer, whatever its distribution draws.
MAX_SEQUENCE_STEPS = 100_000
MAX_SESSION_STEPS = 10**12

# The kinds of requests.
STEP = "step"
SEQUENCE = "sequence"

Arrivals = Literal["poisson", "constant"]
Transport = Literal["stream", "unary", "mixed"]


@dataclass(frozen=True)
class LoadPlan:
    """What to do. Without a rate it is a closed loop: each session sends when its last request is answered.

    Attributes:
        address: as ``connect`` takes it; or the settings of a connection, with TLS and a token.
        model: a model's name; None: the server's only one, beside those that clients defined.
        sessions: how many are open at once; in an open loop the pool that requests are sent to.
        seconds: how long is measured.
        warmup_s: how long requests are sent before.
        ramp_s: how long a change of the number of sessions, or of the rate, takes: the first one before the warm-up.
        stages: the measured time in parts, each of so many seconds and sessions or requests a second, in the place of
            ``seconds`` and of ``sessions`` or ``rate``. Empty: one.
        rate: requests a second: an open loop, in which requests are due by a schedule; None: a closed loop.
        arrivals: ``poisson``: at random moments, as many users come; ``constant``: evenly.
        max_sessions: in an open loop, to how many sessions the pool grows when all are busy; None: it does not.
        traffic: ``step``, ``sequence``, or ``mixed:0.9``: so large a share of single steps, sequences else.
        transport: of single steps: ``stream``: gathered in few messages; ``unary``: each a request of its own;
            ``mixed``: the one for every second session. Sequences are requests of their own.
        sequence_length: steps of a sequence: a distribution.
        session_length: steps after which a session is closed and another opened: a distribution; None: it stays.
        think_time: seconds between an answer and the session's next request, in a closed loop: a distribution.
        inputs: a file of inputs, ``.npy``, ``.npz`` or ``.csv``, played round by each session; None: random ones.
        processes: that send, of which each has its own connections; at most as many as sessions.
        timeout_s: of one request.
        seed: of inputs, arrivals and all that is drawn.
        slo: an objective, ``p99<20ms,errors<0.1%``; None: none.
        metrics: pages of the server's metrics. None: the usual one of a single address, if it is there; empty: none.

    Raises:
        FieldInvalidError: a value is out of its range, or two do not go together.
    """

    address: str | ConnectionSettings
    model: str | None = None
    sessions: int = 64
    seconds: float = 10.0
    warmup_s: float = 1.0
    ramp_s: float = 0.0
    stages: tuple[Stage, ...] = ()
    rate: float | None = None
    arrivals: Arrivals = "poisson"
    max_sessions: int | None = None
    traffic: str = "step"
    transport: Transport = "stream"
    sequence_length: str = "32"
    session_length: str | None = None
    think_time: str = "0"
    inputs: str | None = None
    processes: int = 1
    timeout_s: float = 30.0
    seed: int = 0
    slo: str | None = None
    metrics: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _within("sessions", self.sessions, 1, MAX_SESSIONS)
        _within("processes", self.processes, 1, min(MAX_PROCESSES, self.sessions))
        _within("warmup_s", self.warmup_s, 0, MAX_SECONDS)
        _within("ramp_s", self.ramp_s, 0, MAX_SECONDS)
        _above_0("timeout_s", self.timeout_s, MAX_SECONDS)
        _within("seed", self.seed, 0, 2**63 - 1)
        _one_of("arrivals", self.arrivals, get_args(Arrivals))
        _one_of("transport", self.transport, get_args(Transport))
        self._check_level()
        step_share(self.traffic)
        parse_distribution(self.sequence_length, "sequence_length")
        if self.session_length is not None:
            parse_distribution(self.session_length, "session_length")
        if not self.thinking.is_zero and self.is_open:
            raise FieldInvalidError("think_time: expected none with a rate, which says when requests are due")
        if self.slo is not None:
            parse_objective(self.slo)
        _within("metrics", len(self.metrics or ()), 0, MAX_METRICS_PAGES)
        for url in self.metrics or ():
            checked_url(url)

    def _check_level(self) -> None:
        _above_0("seconds", self.seconds, MAX_SECONDS)
        if self.rate is not None:
            _above_0("rate", self.rate, MAX_RATE)
        _within("stages", len(self.stages), 0, MAX_STAGES)
        if len({stage.rate is None for stage in self.stages}) > 1:
            raise FieldInvalidError("stages: expected all of them to be sessions, or all requests a second; got both")
        for stage in self.stages:
            _above_0("stages: seconds", stage.seconds, MAX_SECONDS)
            if stage.rate is not None:
                _above_0("stages: rate", stage.rate, MAX_RATE)
            elif self.rate is not None:
                raise FieldInvalidError("stages: expected requests a second, as 30s:500/s, since rate is given")
            else:
                _within("stages: sessions", stage.sessions or 0, self.processes, MAX_SESSIONS)
        if self.max_sessions is not None:
            if not self.is_open:
                raise FieldInvalidError("max_sessions: expected none without a rate; got one")
            _within("max_sessions", self.max_sessions, self.sessions, MAX_SESSIONS)

    @property
    def connection(self) -> ConnectionSettings:
        """How to connect."""
        if isinstance(self.address, str):
            return ConnectionSettings(self.address, timeout_s=self.timeout_s)
        return replace(self.address, timeout_s=self.timeout_s)

    @property
    def parts(self) -> tuple[Stage, ...]:
        """The measured time: its stages, or one."""
        if self.stages:
            return self.stages
        return (Stage(self.seconds, None if self.rate is not None else self.sessions, self.rate),)

    @property
    def is_open(self) -> bool:
        """Whether requests are due by a schedule."""
        return self.parts[0].rate is not None

    @property
    def peak_sessions(self) -> int:
        """How many sessions there may be at once."""
        if self.is_open:
            return self.max_sessions or self.sessions
        return max(stage.sessions or 0 for stage in self.parts)

    @property
    def level(self) -> Level:
        """Sessions or requests a second over time."""
        return Level(self.parts, self.ramp_s, self.warmup_s)

    @property
    def before_s(self) -> float:
        """How long requests are sent before any is measured."""
        return self.ramp_s + self.warmup_s

    @property
    def measured_s(self) -> float:
        """How long is measured."""
        return sum(stage.seconds for stage in self.parts)

    @property
    def thinking(self) -> Distribution:
        """Of the seconds between an answer and the next request."""
        return parse_distribution(self.think_time, "think_time")

    def settings(self) -> dict[str, Any]:
        """The fields by name, as JSON; of the connection what is no secret."""
        found = {field.name: to_json(getattr(self, field.name)) for field in fields(self) if field.name != "address"}
        connection = self.connection
        return {
            "address": connection.address,
            "tls": settings_from(connection.tls, os.environ) is not None,
            "pinned": connection.pinned,
            "proxied": connection.proxied,
            **found,
        }


def step_share(traffic: str) -> float:
    """The share of single steps among the requests: ``step``, ``sequence`` or ``mixed:0.9``.

    Raises:
        FieldInvalidError: another form.
    """
    if traffic in (STEP, SEQUENCE):
        return float(traffic == STEP)
    kind, _, text = traffic.partition(":")
    try:
        share = float(text) if kind == "mixed" else -1.0
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise FieldInvalidError(
            f"traffic: expected {STEP}, {SEQUENCE}, or mixed:SHARE with a share of steps from 0 to 1; got {traffic!r}"
        )
    return share


def _within(field: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise FieldInvalidError(f"{field}: expected {lowest:g} to {highest:g}; got {value!r}")


def _above_0(field: str, value: float, highest: float) -> None:
    if not 0 < value <= highest:
        raise FieldInvalidError(f"{field}: expected above 0, at most {highest:g}; got {value!r}")


def _one_of(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise FieldInvalidError(f"{field}: expected one of {', '.join(choices)}; got {value!r}")
