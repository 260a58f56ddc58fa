"""A server's metrics page, read as Prometheus reads it, and the document that lists what is on it."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from tests.tools import ROOT

DOCUMENT = ROOT / "docs" / "metrics.md"
TIMEOUT_S = 20.0


class Series(NamedTuple):
    """One line of a page."""

    name: str
    labels: Mapping[str, str]
    value: float


class Family(NamedTuple):
    """A metric with all its series; a histogram's buckets, sum and count are together.

    Attributes:
        kind: ``counter``, ``gauge`` or ``histogram``.
        labels: the names of its labels, but for a bucket's end.
        series: them.
    """

    kind: str
    labels: frozenset[str]
    series: list[Series]


def read_page(url: str) -> dict[str, Family]:
    """The metrics of a page by name, counters with ``_total``. When each was made is left out."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        text = answer.read().decode()
    page = {}
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created") and family.type == "gauge":
            continue
        series = [
            Series(sample.name, sample.labels, sample.value)
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]
        labels = frozenset(label for one in series for label in one.labels) - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        page[name] = Family(family.type, labels, series)
    return page


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of every metric of the document, by name."""
    rows = re.findall(r"^\| `([a-z_]+)` \| (\w+) \|([^|]*)\|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    found = {name: (kind, frozenset(filter(None, labels.strip().split(", ")))) for name, kind, labels in rows}
    assert len(found) == len(rows), "a metric stands there twice"
    return found
