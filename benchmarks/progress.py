"""A bar on stderr, where that is a terminal; nothing elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress:
    """How far a benchmark is. Use it in ``with``.

    Args:
        title: what stands before the bar.
    """

    def __init__(self, title: str) -> None:
        console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[what]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            # A thread that paints ten times a second would be measured with the client.
            auto_refresh=False,
        )
        self._task = self._bars.add_task(title, total=None, what="")

    def expect(self, steps: int) -> None:
        """Says how many advances there will be."""
        self._bars.update(self._task, total=steps)

    def advance(self, what: str) -> None:
        """One more is done, of that part."""
        self._bars.update(self._task, advance=1, what=what)
        self._bars.refresh()

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._bars.stop()
