"""Numbers and settings of load tests as people read them, in tables, on pages and on terminals."""

from __future__ import annotations

from math import floor, isfinite, log10
from typing import Any

NOTHING = "-"
DIGITS = 3


def count_text(value: float | None) -> str:
    """A whole number: ``1,234``."""
    return NOTHING if value is None else f"{value:,.0f}"


def figure_text(value: float | None) -> str:
    """A measurement with three digits, or all those before the point: ``0.0412``, ``4.12``, ``41.2``, ``4,123``."""
    if value is None or not isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    decimals = DIGITS - 1 - floor(log10(abs(value)))
    return f"{value:,.{min(max(decimals, 0), 6)}f}"


def milliseconds_text(value: float | None) -> str:
    """A latency with its unit: ``4.12 ms``."""
    return NOTHING if value is None else f"{figure_text(value)} ms"


def share_text(value: float | None) -> str:
    """A share from 0 to 1 in per cent: ``0.12 %``."""
    return NOTHING if value is None else f"{figure_text(value * 100)} %"


def seconds_text(value: float) -> str:
    """A duration: ``5.2 s``, ``2 min 5 s``."""
    if value < 120:
        return f"{value:.1f} s" if value % 1 >= 0.05 else f"{value:.0f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"


def ratio_text(value: float | None) -> str:
    """How many times as much: ``1.25x``."""
    return NOTHING if value is None else f"{value:.2f}x" if value < 100 else f"{value:,.0f}x"


def setting_text(value: Any) -> str:
    """A setting as it stands on pages and terminals."""
    if value is None or value == [] or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.10g}"
    if isinstance(value, list):
        return "; ".join(map(setting_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {setting_text(item)}" for name, item in value.items() if item is not None)
    return str(value)
