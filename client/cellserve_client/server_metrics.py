"""What a server's page of metrics tells: one reading, and what happened between two. Needs the extra ``cli``."""

from __future__ import annotations

import math
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from cellserve.errors import FieldInvalidError, UnavailableError
from cellserve_client.address import Address

DEFAULT_PORT = 9464
DEFAULT_TIMEOUT_S = 2.0
MAX_PAGE_BYTES = 32 << 20

PROCESS_STARTED = "process_start_time_seconds"

# One series' labels, ordered by name.
Labels: TypeAlias = tuple[tuple[str, str], ...]
NO_LABELS: Mapping[str, str] = {}


class Snapshot(NamedTuple):
    """One reading of a page.

    Attributes:
        url: of the page.
        taken_at: when it was read, in the clock's seconds.
        series: values by the sample's name (``cellserve_steps_total``, ``cellserve_tick_rows_bucket``) and by labels.
    """

    url: str
    taken_at: float
    series: Mapping[str, Mapping[Labels, float]]

    def value(self, name: str, labels: Mapping[str, str] = NO_LABELS) -> float | None:
        """The sum of all series of a name that have these labels; None: there is none."""
        values = [value for own, value in self.series.get(name, {}).items() if labels.items() <= dict(own).items()]
        return sum(values) if values else None

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """The values of a name, summed for each value of a label."""
        return _by_label(self.series.get(name, {}), label)


class Change(NamedTuple):
    """What happened between two readings of one page.

    Counters began anew when their server did, and have grown by what they have: when its process is another one, or, on
    a page that does not tell of the process, when one is lower than before.

    Attributes:
        before, after: the readings.
    """

    before: Snapshot
    after: Snapshot

    @property
    def seconds(self) -> float:
        """That lie between."""
        return self.after.taken_at - self.before.taken_at

    @property
    def is_restart(self) -> bool:
        """Whether the second reading is of another process."""
        started = [page.value(PROCESS_STARTED) for page in (self.before, self.after)]
        return None not in started and started[0] != started[1]

    def increase(self, name: str, labels: Mapping[str, str] = NO_LABELS) -> float:
        """By how much a counter has grown, summed over all series that have these labels; 0 without any."""
        return sum(self._increases(name, labels).values())

    def increase_by_label(self, name: str, label: str) -> dict[str, float]:
        """By how much a counter has grown, for each value of a label."""
        return _by_label(self._increases(name, NO_LABELS), label)

    def rate(self, name: str, labels: Mapping[str, str] = NO_LABELS) -> float:
        """The same, a second; 0 when no time lies between."""
        return self.increase(name, labels) / self.seconds if self.seconds > 0 else 0.0

    def mean(self, histogram: str, labels: Mapping[str, str] = NO_LABELS) -> float | None:
        """The mean of what a histogram has observed, in its unit; None: nothing."""
        count = self.increase(f"{histogram}_count", labels)
        return self.increase(f"{histogram}_sum", labels) / count if count else None

    def quantile(self, histogram: str, share: float, labels: Mapping[str, str] = NO_LABELS) -> float | None:
        """The value below which a share of what a histogram has observed lies, as Prometheus estimates it.

        Within a bucket they count as evenly spread; for what is above the highest bound that bound is told.

        Args:
            share: 0 to 1.

        Returns:
            It, in the histogram's unit; None: nothing was observed.
        """
        by_bound = _by_label(self._increases(f"{histogram}_bucket", labels), "le")
        buckets = sorted((float(bound), count) for bound, count in by_bound.items())
        if not buckets or buckets[-1][1] <= 0:
            return None
        wanted = share * buckets[-1][1]
        lower, below = 0.0, 0.0
        for bound, count in buckets:
            if count >= wanted and count > below:
                return lower if math.isinf(bound) else lower + (bound - lower) * (wanted - below) / (count - below)
            lower, below = (lower if math.isinf(bound) else bound), count
        return lower

    def _increases(self, name: str, labels: Mapping[str, str]) -> dict[Labels, float]:
        before: Mapping[Labels, float] = {} if self.is_restart else self.before.series.get(name, {})
        found = {}
        for own, value in self.after.series.get(name, {}).items():
            if labels.items() <= dict(own).items():
                earlier = before.get(own, 0.0)
                found[own] = value - earlier if value >= earlier else value
        return found


def fetch(url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, clock: Callable[[], float] = time.monotonic) -> Snapshot:
    """Reads a page of metrics; blocks for as long.

    Raises:
        FieldInvalidError: it is no address of a page.
        UnavailableError: there is none, or something else is there.
    """
    request = urllib.request.Request(checked_url(url))
    # A proxy cannot reach this machine's own addresses.
    direct = Address(urlsplit(url).hostname or "", 0).is_loopback
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if direct else []))
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            page: bytes = answer.read(MAX_PAGE_BYTES + 1)
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UnavailableError(f"metrics: {url} cannot be read: {reason}") from error
    taken_at = clock()
    if len(page) > MAX_PAGE_BYTES:
        raise UnavailableError(f"metrics: {url} has more than the {MAX_PAGE_BYTES} bytes that are read")
    series: defaultdict[str, dict[Labels, float]] = defaultdict(dict)
    try:
        for family in text_string_to_metric_families(page.decode("utf-8")):
            for sample in family.samples:
                series[sample.name][tuple(sorted(sample.labels.items()))] = float(sample.value)
    except ValueError as error:
        raise UnavailableError(f"metrics: {url} is no page of Prometheus metrics: {error}") from error
    return Snapshot(url, taken_at, dict(series))


def checked_url(url: str) -> str:
    """The URL.

    Raises:
        FieldInvalidError: it is not one of ``http`` or ``https`` with a host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FieldInvalidError(f"metrics: expected a URL such as http://localhost:{DEFAULT_PORT}/metrics; got {url!r}")
    return url


def default_url(address: Address) -> str:
    """Where a server's page is unless it was told otherwise."""
    return f"http://{address.host}:{DEFAULT_PORT}/metrics"


def _by_label(series: Mapping[Labels, float], label: str) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for own, value in series.items():
        labels = dict(own)
        if label in labels:
            found[labels[label]] += value
    return dict(found)
