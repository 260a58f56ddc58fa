"""The live screen of `cellserve top`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.timer import Timer
from textual.widgets import DataTable, Footer, Input, Static

from cellserve.errors import CellServeError
from cellserve_client.session_info import SORTS
from cellserve_client.top.detail_screen import DetailScreen
from cellserve_client.top.figures import DEFINED, Figures
from cellserve_client.top.history import History
from cellserve_client.top.live_table import LiveTable
from cellserve_client.top.reading import Asked
from cellserve_client.top.tables import models_table, replicas_table, sessions_table
from cellserve_client.top.text import bars, rate
from cellserve_client.top.watch import SessionDetail, Watch

# Beyond ten seconds the server forgets what it has seen of its sessions' rates.
INTERVALS_S = (0.5, 1.0, 2.0, 5.0, 10.0)
COURSE_WIDTH = 60
# What keys do that concerns the tables only.
OF_TABLES = ("sort", "reverse", "filter", "close_filter")


class TopApp(App[None]):
    """Servers, their models and their most active sessions, read again and again.

    Args:
        watch: the servers.
        asked: for which sessions, at first.
        interval_s: between two readings, in seconds.
        is_paused: whether it waits for a key before it reads a second time.

    Attributes:
        figures: what is shown; None: nothing was read yet.
        asked: for which sessions it asks now.
        is_paused: whether it reads only when it is told to.
    """

    TITLE = "cellserve top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary, #order, #notes { height: auto; padding: 0 1; }
    #notes { color: $text-warning; }
    #replicas, #models { height: auto; max-height: 25%; }
    #sessions { height: 1fr; }
    LiveTable { scrollbar-size: 0 1; }
    #filter { height: 1; border: none; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("escape", "close_filter", show=False),
        Binding("p", "pause", "Pause"),
        Binding("space", "read", "Read now"),
        Binding("plus,equals_sign", "interval(1)", "Slower", key_display="+"),
        Binding("minus", "interval(-1)", "Faster", key_display="-"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, watch: Watch, asked: Asked, *, interval_s: float = 1.0, is_paused: bool = False) -> None:
        super().__init__()
        self.figures: Figures | None = None
        self.asked = asked
        self.is_paused = is_paused
        self._watch = watch
        self._interval_s = interval_s
        self._history = History()
        self._reading = asyncio.Lock()
        self._is_pending = False
        self._timer: Timer | None = None

    def compose(self) -> ComposeResult:
        """The parts of the screen from its top to its bottom."""
        yield Static(id="summary", markup=False)
        yield LiveTable(id="replicas", with_cursor=False)
        yield LiveTable(id="models")
        yield Static(id="order", markup=False)
        yield Input(id="filter", placeholder="a part of sessions' ids; Enter to ask for it, Escape to leave it")
        yield LiveTable(id="sessions")
        yield Static(id="notes", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begins to read."""
        self.action_close_filter()
        self._set_timer()
        self.action_read()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Whether a key means something now: over the tables lies a session, when one is open."""
        return action not in OF_TABLES or not isinstance(self.screen, DetailScreen)

    # --- reading -----------------------------------------------------------------------------------------------------

    def action_read(self) -> None:
        """Reads once, now or when the reading under way is over."""
        if not self._is_pending:
            self._is_pending = True
            self.run_worker(self._read())

    async def _read(self) -> None:
        async with self._reading:
            self._is_pending = False
            self.figures = self._history.figures(await asyncio.to_thread(self._watch.read, self.asked))
            self._show(self.figures)
            if isinstance(self.screen, DetailScreen) and self.screen.is_mounted:
                await self._read_detail(self.screen)

    async def _read_detail(self, screen: DetailScreen) -> None:
        read: SessionDetail | str
        try:
            read = await asyncio.to_thread(self._watch.detail, screen.address, screen.session_id)
        except CellServeError as error:
            read = error.message
        if self.screen is not screen:
            return  # It was left meanwhile.
        if isinstance(read, str):
            screen.show_trouble(read)
        else:
            screen.show(read)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_interval(self._interval_s, self._on_timer, pause=self.is_paused)

    def _on_timer(self) -> None:
        if not self._reading.locked():
            self.action_read()

    # --- showing -----------------------------------------------------------------------------------------------------

    def _show(self, figures: Figures) -> None:
        main = self.screen_stack[0]
        main.query_one("#replicas", LiveTable).show(replicas_table(figures.replicas))
        main.query_one("#models", LiveTable).show(models_table(figures.models))
        main.query_one("#sessions", LiveTable).show(sessions_table(figures, self.asked))
        main.query_one("#notes", Static).update("\n".join(figures.notes))
        self._show_words(figures)

    def _show_words(self, figures: Figures) -> None:
        main = self.screen_stack[0]
        pace = "paused" if self.is_paused else f"every {self._interval_s:g} s"
        summary = Text.assemble(
            ("cellserve top", "bold"),
            f"   {rate(figures.steps_per_second)} steps/s  ",
            (bars(self._history.course, COURSE_WIDTH), "green"),
            f"   {pace}",
        )
        main.query_one("#summary", Static).update(summary)
        known = [replica.sessions for replica in figures.replicas if replica.sessions is not None]
        shown = f"{len(figures.sessions)} of {sum(known):,}" if known else str(len(figures.sessions))
        order = f"sessions by {self.asked.sort}, the {_first_word(self.asked)} first: {shown}"
        chosen = [f"model {self.asked.model}"] if self.asked.model else []
        chosen += [f'ids with "{self.asked.id_contains}"'] if self.asked.id_contains else []
        main.query_one("#order", Static).update("   ".join([order, *chosen]))

    # --- keys --------------------------------------------------------------------------------------------------------

    def action_sort(self) -> None:
        """Sorts by the next that there is."""
        names = list(SORTS)
        self._ask(replace(self.asked, sort=names[(names.index(self.asked.sort) + 1) % len(names)], reverse=False))

    def action_reverse(self) -> None:
        """The other way round."""
        self._ask(replace(self.asked, reverse=not self.asked.reverse))

    def action_filter(self) -> None:
        """Asks for a part of ids."""
        line = self.query_one("#filter", Input)
        line.value = self.asked.id_contains
        line.display = True
        line.focus()

    def action_pause(self) -> None:
        """Stops reading, or goes on."""
        self.is_paused = not self.is_paused
        self._set_timer()
        self._say_again()

    def action_interval(self, by: int) -> None:
        """Reads more seldom, or more often."""
        slower = [each for each in INTERVALS_S if each > self._interval_s]
        faster = [each for each in INTERVALS_S if each < self._interval_s]
        if by > 0 and slower:
            self._interval_s = slower[0]
        elif by < 0 and faster:
            self._interval_s = faster[-1]
        self._set_timer()
        self._say_again()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The filter was typed."""
        self.action_close_filter()
        self._ask(replace(self.asked, id_contains=event.value.strip()))

    def action_close_filter(self) -> None:
        """Leaves the filter as it was."""
        self.query_one("#filter").display = False
        self.query_one("#sessions").focus()

    async def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter on a session opens it; on a model it chooses its sessions, or all again."""
        figures = self.figures
        if figures is None:
            return
        if event.data_table.id == "sessions" and event.cursor_row < len(figures.sessions):
            session = figures.sessions[event.cursor_row]
            await self.push_screen(DetailScreen(session.replica, session.id))
            self.action_read()
        elif event.data_table.id == "models" and event.cursor_row < len(figures.models):
            name = figures.models[event.cursor_row].name
            if name == DEFINED:
                self.notify("The models that clients define share this line; --model NAME chooses one of them.")
                return
            self._ask(replace(self.asked, model=None if self.asked.model == name else name))

    def _ask(self, asked: Asked) -> None:
        self.asked = asked
        self._say_again()
        self.action_read()

    def _say_again(self) -> None:
        if self.figures is not None:
            self._show_words(self.figures)


def _first_word(asked: Asked) -> str:
    words = ("latest", "earliest") if asked.sort in ("used", "created") else ("most", "least")
    return words[asked.reverse]
