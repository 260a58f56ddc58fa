"""What a benchmark hands back, and the targets that it is held against. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Cell = float | int | str


@dataclass
class Result:
    """What one benchmark found.

    Attributes:
        keys: the numbers of its last line.
        rows: its table for people; every row has the same columns.
        samples: every burst.
        notes: what one has to know to read the numbers, such as a part that was left out.
    """

    keys: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Cell]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """What a key should reach.

    Attributes:
        benchmark: whose key it is.
        key: which.
        way: the side of the bound that is wanted.
        bound: a number, or another key of the same benchmark.
        meaning: the key in words.
    """

    benchmark: str
    key: str
    way: Literal["at least", "at most"]
    bound: float | str
    meaning: str


TARGETS = (
    Target("steps", "ratio_256", "at least", 30.0, "steps a second at 256 callers, x the unary echo"),
    Target("steps", "server_cpu_ratio_256", "at least", 30.0, "server CPU of the echo, x ours a step"),
    Target("steps", "client_cpu_ratio_256", "at least", 30.0, "client CPU of the echo, x ours a step"),
    Target("group", "ratio", "at least", 0.6, "a group of 1024, x the cell in process"),
    Target("latency", "ratio_p50", "at most", 1.3, "p50 of a lone step, x the stream echo"),
    Target("unary", "ratio", "at least", 0.75, "plain Step calls, x the unary echo"),
    Target("engine", "lstm128_b256", "at most", 2.5, "a tick of 256 x 128, x its matrix product"),
    Target("engine", "lstm512_b256", "at most", 1.5, "a tick of 256 x 512, x its matrix product"),
    Target("scale", "rate_ratio", "at least", 0.8, "steps a second at a million open sessions, x a thousand"),
    Target("scale", "bytes_per_session", "at most", "bytes_allowed", "server memory a session, bytes"),
    Target("mixed", "p99_ratio", "at most", 4.0, "p99 beside long sequences, x alone"),
    Target("mixed", "sequences_ratio", "at least", 0.5, "sequences beside steppers, x alone"),
    Target("durability", "sqlite_sync", "at least", 0.6, "steps a second kept in SQLite, x bare commits"),
    Target("durability", "redis_sync", "at least", 0.6, "steps a second kept in Redis, x bare commits"),
    Target("durability", "sqlite_async", "at least", 0.8, "steps a second kept in SQLite later, x in memory"),
    Target("durability", "redis_async", "at least", 0.8, "steps a second kept in Redis later, x in memory"),
    Target("overload", "goodput_ratio", "at least", 0.9, "answers in time at 4 x what can be done, x the best"),
    Target("overload", "rss_growth", "at most", 1.1, "server memory at 4 x what can be done, x at 1 x"),
    Target("observability", "metrics_low", "at most", 1.03, "server CPU with metrics, x without (interval's low end)"),
    Target("observability", "tracing_off_low", "at most", 1.01, "with tracing off, x without tracing (low end)"),
    Target("observability", "inspector_low", "at most", 1.05, "a session inspected, x nobody looks (low end)"),
    Target("fairness", "ratio_p99", "at most", 2.0, "p99 of a tenant beside a greedy one, x alone"),
    Target("idle", "cpu_percent", "at most", 0.1, "server CPU with 10,000 idle sessions, % of a core"),
)


@dataclass(frozen=True)
class Verdict:
    """A target held against what was found.

    Attributes:
        target: which.
        value: what was found; None: the benchmark was not run, or did not get so far.
        bound: the target's bound as a number; None as for ``value``.
    """

    target: Target
    value: float | None
    bound: float | None

    @property
    def reached(self) -> bool | None:
        """Whether it is reached; None: not known."""
        if self.value is None or self.bound is None:
            return None
        return self.value >= self.bound if self.target.way == "at least" else self.value <= self.bound


def judge(keys: Mapping[str, Mapping[str, float]], targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """Holds the targets against the keys of each benchmark, by its name."""
    verdicts = []
    for target in targets:
        found = keys.get(target.benchmark, {})
        bound = found.get(target.bound) if isinstance(target.bound, str) else target.bound
        verdicts.append(Verdict(target, found.get(target.key), bound))
    return verdicts
