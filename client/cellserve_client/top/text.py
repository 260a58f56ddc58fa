"""Numbers as people read them at a glance, and bars of letters."""

from __future__ import annotations

from collections.abc import Iterable

UNKNOWN = "-"
BARS = "▁▂▃▄▅▆▇█"
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
# The parts of a length of time, in seconds: two of them are told.
_SPANS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
# From here on a number's fraction is not worth the room.
_WHOLE_FROM = 100.0


def rate(value: float | None) -> str:
    """A number a second, or any other number of which small ones have a fraction."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value >= _WHOLE_FROM or value == 0 else f"{value:,.1f}"


def count(value: int | None) -> str:
    """A number of things."""
    return UNKNOWN if value is None else f"{value:,}"


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds."""
    if seconds is None:
        return UNKNOWN
    value = seconds * 1e3
    return f"{value:,.0f} ms" if value >= _WHOLE_FROM else f"{value:.3g} ms"


def size(value: int | None) -> str:
    """Bytes."""
    if value is None:
        return UNKNOWN
    scaled, unit = float(value), 0
    while scaled >= 1024 and unit < len(_BYTES) - 1:
        scaled, unit = scaled / 1024, unit + 1
    return f"{scaled:.0f} {_BYTES[unit]}" if unit == 0 or scaled >= _WHOLE_FROM else f"{scaled:.1f} {_BYTES[unit]}"


def span(seconds: float | None) -> str:
    """A length of time: ``4.2s``, ``3m20s``, ``5h04m``, ``2d11h``."""
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f}s"
    left = round(seconds)
    if left < 60:
        return f"{left}s"
    index = next(index for index, (length, _) in enumerate(_SPANS) if left >= length)
    (long, long_unit), (short, short_unit) = _SPANS[index : index + 2]
    return f"{left // long}{long_unit}{left % long // short:02}{short_unit}"


def bars(values: Iterable[float], width: int) -> str:
    """The last of these values as letters, from 0 to the greatest of them; 0 is a blank."""
    shown = list(values)[-width:]
    greatest = max(shown, default=0.0)
    if greatest <= 0:
        return " " * len(shown)
    last = len(BARS) - 1
    return "".join(BARS[min(int(value / greatest * len(BARS)), last)] if value > 0 else " " for value in shown)
