"""Objectives: ``p99<20ms,errors<0.1%``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import NamedTuple

from cellserve.errors import FieldInvalidError
from cellserve_client.load.document import Slo, Term
from cellserve_client.load.latencies import Latencies

MAX_TERMS = 32
FORMS = "p99<20ms (any percentile; also mean and max; in us, ms or s), errors<0.1% and rate>500 (requests a second)"
_FORM = re.compile(
    r"(?P<what>p\d{1,2}(?:\.\d+)?|p100|mean|max|errors|rate)\s*(?P<sign><=|>=|<|>)\s*(?P<number>\d+(?:\.\d+)?)\s*"
    r"(?P<unit>us|ms|s|%|/s|)"
)
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Limit(NamedTuple):
    """One term.

    Attributes:
        term: as it was written.
        what: ``p99``, ``mean``, ``max``, ``errors`` or ``rate``.
        sign: ``<``, ``<=``, ``>`` or ``>=``.
        bound: in milliseconds, as a share from 0 to 1, or in requests a second.
    """

    term: str
    what: str
    sign: str
    bound: float


def parse_objective(text: str) -> tuple[Limit, ...]:
    """Reads terms with commas between them.

    Raises:
        FieldInvalidError: a term is of another form, or has a unit that does not go with it.
    """
    terms = [term.strip() for term in text.split(",")]
    if len(terms) > MAX_TERMS:
        raise FieldInvalidError(f"slo: expected at most {MAX_TERMS} terms; got {len(terms)}")
    return tuple(map(_limit, terms))


def _limit(term: str) -> Limit:
    found = _FORM.fullmatch(term)
    if found is not None:
        what, unit, number = found["what"], found["unit"], float(found["number"])
        # Without the sign 1 could be all requests, one of them, or 1 %; 0 is none by any reading.
        if what == "errors" and (unit == "%" or (unit == "" and number == 0)):
            return Limit(term, what, found["sign"], number / 100)
        if what == "rate" and unit in ("/s", ""):
            return Limit(term, what, found["sign"], number)
        if what not in ("errors", "rate") and unit in _MILLISECONDS:
            return Limit(term, what, found["sign"], number * _MILLISECONDS[unit])
    raise FieldInvalidError(f"slo: expected terms such as {FORMS}, with commas between; got {term!r}")


def judge(text: str, latencies: Latencies, errors_share: float, requests_per_second: float) -> Slo:
    """Whether an objective was held. A term on latencies is not held when no request was answered.

    Args:
        text: the objective.
        latencies: of all measured requests.
        errors_share: of the requests, 0 to 1.
        requests_per_second: answered.
    """

    def measured(what: str) -> float | None:
        if what == "errors":
            return errors_share
        if what == "rate":
            return requests_per_second
        if what == "mean":
            return latencies.mean_ms()
        return latencies.max_ms() if what == "max" else latencies.at_ms(float(what[1:]))

    terms = []
    for limit in parse_objective(text):
        value = measured(limit.what)
        held = value is not None and _SIGNS[limit.sign](value, limit.bound)
        terms.append(Term(limit.term, value, held))
    return Slo(text, tuple(terms), all(term.held for term in terms))
