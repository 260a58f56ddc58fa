"""Lengths and times that vary: ``5``, ``uniform:1,10``, ``exponential:5``, ``lognormal:3,1``, ``poisson:20``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cellserve.errors import FieldInvalidError

# Each kind with what its numbers are.
KINDS = {
    "uniform": ("LOW", "HIGH"),
    "exponential": ("MEAN",),
    "lognormal": ("MEDIAN", "SIGMA"),
    "poisson": ("MEAN",),
}
FORMS = "NUMBER, " + ", ".join(f"{kind}:{','.join(names)}" for kind, names in KINDS.items())
FIXED = "fixed"
# numpy draws a Poisson number from means up to about this.
LARGEST = 1e9
# The exponential of more than about 709 is beyond a float's range.
LARGEST_LOGARITHM = 700.0


@dataclass(frozen=True)
class Distribution:
    """What numbers are drawn from; none of them is negative.

    Attributes:
        kind: one of ``KINDS``, or ``fixed``.
        numbers: its parameters. A lognormal one has its median and the standard deviation of the logarithm.
    """

    kind: str
    numbers: tuple[float, ...]

    @property
    def is_zero(self) -> bool:
        """Whether it gives 0 and nothing else."""
        return self.kind == FIXED and self.numbers == (0.0,)

    def draw(self, random: np.random.Generator) -> float:
        """One number, 0 or above."""
        first, *rest = self.numbers
        if self.kind == "uniform":
            return float(random.uniform(first, rest[0]))
        if self.kind == "exponential":
            return float(random.exponential(first))
        if self.kind == "lognormal":
            return first * math.exp(min(rest[0] * random.standard_normal(), LARGEST_LOGARITHM))
        if self.kind == "poisson":
            return float(random.poisson(first))
        return first

    def draw_count(self, random: np.random.Generator, highest: int) -> int:
        """One whole number, 1 to the highest: those beyond become these."""
        return int(min(max(round(min(self.draw(random), highest)), 1), highest))


def parse_distribution(text: str, field: str) -> Distribution:
    """Reads one of the forms.

    Args:
        field: what it is called in messages.

    Raises:
        FieldInvalidError: another form, a number below 0, or bounds in the wrong order.
    """
    kind, colon, rest = text.strip().partition(":")
    if not colon:
        kind, rest = FIXED, kind
    names = KINDS.get(kind, ("NUMBER",))
    try:
        numbers = tuple(float(part) for part in rest.split(","))
    except ValueError:
        numbers = ()
    if (
        (kind not in KINDS and kind != FIXED)
        or len(numbers) != len(names)
        or not all(0 <= number <= LARGEST for number in numbers)
        or (kind == "uniform" and numbers[0] > numbers[1])
    ):
        raise FieldInvalidError(f"{field}: expected {FORMS}, with numbers from 0 to {LARGEST:g}; got {text!r}")
    return Distribution(kind, numbers)
