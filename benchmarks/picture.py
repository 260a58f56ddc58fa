"""The picture of a run: steps a second, and the time of the slowest hundredth, against the number of sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")  # Nothing here needs a screen.

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

# Okabe and Ito's colours, which people who see few colours tell apart.
OURS, GROUP, ECHO = "#0072B2", "#009E73", "#D55E00"
INK, FAINT = "#222222", "#DDDDDD"
Keys = Mapping[str, float]


def draw(keys: Mapping[str, Keys], subtitle: str, path: Path) -> None:
    """Draws what there is of ``steps`` and ``scale`` into a PNG.

    Args:
        keys: of each benchmark, by name.
        subtitle: on what it was measured.
        path: of the file.
    """
    steps, scale = keys.get("steps", {}), keys.get("scale", {})
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5.4), layout="constrained")
    _prepare(left, "steps a second")
    _line(left, _points(steps, "rate"), OURS, "session.step, a coroutine each")
    _line(left, _points(scale, "rate"), GROUP, "SessionGroup, 1024 of those open at a time")
    _line(left, _points(steps, "reference_rate"), ECHO, "bare grpc.aio unary echo")
    _say_ratios(left, steps)
    _prepare(right, "99th percentile of a call, ms")
    _line(right, _points(steps, "p99_ms"), OURS, "session.step")
    _line(right, _points(scale, "p99_ms"), GROUP, "SessionGroup, 1024 of those open at a time")
    _line(right, _points(steps, "reference_p99_ms"), ECHO, "bare grpc.aio unary echo")
    for axes in (left, right):
        axes.legend(frameon=False, loc="upper left", fontsize=9.5)
        # Room for the legend above the lines.
        low, high = axes.get_ylim()
        axes.set_ylim(low / (high / low) ** 0.06, high * (high / low) ** 0.3)
    figure.suptitle(f"CellServe, LSTM 128 → 128, float32\n{subtitle}", fontsize=11, color=INK, ha="left", x=0.01)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _points(keys: Keys, name: str) -> list[tuple[int, float]]:
    """The values of the keys ``name_N``, by N."""
    found = {int(key.removeprefix(f"{name}_")): value for key, value in keys.items() if _is_of(key, name)}
    return sorted(found.items())


def _is_of(key: str, name: str) -> bool:
    return key.startswith(f"{name}_") and key.removeprefix(f"{name}_").isdecimal()


def _prepare(axes: Axes, title: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel="sessions: stepped all at once, or for the group: open")
    axes.margins(x=0.07)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.grid(True, which="major", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 3)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(_short))
    axes.tick_params(colors=INK, length=0)


def _line(axes: Axes, points: Sequence[tuple[int, float]], colour: str, label: str) -> None:
    if points:
        sessions, values = zip(*points, strict=True)
        axes.plot(sessions, values, color=colour, label=label, marker="o", markersize=5, linewidth=2)


def _say_ratios(axes: Axes, keys: Keys) -> None:
    """Beside each of our points, where the line leaves room: how many times the echo that is."""
    ratios = dict(_points(keys, "ratio"))
    for sessions, rate in _points(keys, "rate"):
        if sessions in ratios:
            axes.annotate(
                f"{ratios[sessions]:.2g} x",
                (sessions, rate),
                xytext=(7, -12),
                textcoords="offset points",
                fontsize=9,
                color=OURS,
            )


def _short(value: float, _: Any) -> str:
    """1k, 10k, 1M; small numbers as they are."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"
