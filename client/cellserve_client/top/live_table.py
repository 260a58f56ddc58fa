"""A table on the screen that is filled again and again, and stays where it was scrolled to."""

from __future__ import annotations

from rich.text import Text
from textual.coordinate import Coordinate
from textual.widgets import DataTable

from cellserve_client.top.tables import TableText


class LiveTable(DataTable[Text]):
    """Shows a ``TableText``."""

    def __init__(self, *, id: str, with_cursor: bool = True) -> None:
        super().__init__(id=id, cursor_type="row" if with_cursor else "none", zebra_stripes=True)
        self.can_focus = with_cursor
        self._shown = TableText((), 0, [])
        self._widths: list[int] = []

    def show(self, table: TableText) -> None:
        """Puts these rows in the place of those that are there."""
        before = self._shown
        self._shown = table
        if table.columns != before.columns:
            self.clear(columns=True)
            self._widths = [len(name) for name in table.columns]
            for index, name in enumerate(table.columns):
                self.add_column(_cell(name, index < table.words))
        # Cell by cell, and only those that differ: who clears a table has it scroll to its top.
        for number, row in enumerate(table.rows):
            if number == self.row_count:
                self._widths = [max(width, len(text)) for width, text in zip(self._widths, row, strict=True)]
                self.add_row(*(_cell(text, index < table.words) for index, text in enumerate(row)))
                continue
            for index, text in enumerate(row):
                if text != before.rows[number][index]:
                    self._update(number, index, text)
        while self.row_count > len(table.rows):
            self.remove_row(self.ordered_rows[-1].key)

    def _update(self, row: int, column: int, text: str) -> None:
        # To have a column measured takes looking at all of it: only when it has to be wider, and never narrower.
        is_wider = len(text) > self._widths[column]
        self._widths[column] = max(self._widths[column], len(text))
        self.update_cell_at(Coordinate(row, column), _cell(text, column < self._shown.words), update_width=is_wider)


def _cell(text: str, is_word: bool) -> Text:
    # As a Text, for what stands in brackets is markup elsewhere, and so do addresses.
    return Text(text, justify="left" if is_word else "right", no_wrap=True)
