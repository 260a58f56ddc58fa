"""One session on the screen: what the server tells of it, its rate over time, and its state in numbers."""

from __future__ import annotations

from collections import deque
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Footer, Static

from cellserve_client.top.history import COURSE_LENGTH, SHORTEST_S
from cellserve_client.top.live_table import LiveTable
from cellserve_client.top.tables import state_table
from cellserve_client.top.text import UNKNOWN, bars, count, rate, span
from cellserve_client.top.watch import SessionDetail

COURSE_WIDTH = 60
LABEL_WIDTH = 12


class DetailScreen(Screen[None]):
    """Shows one session, as often as it is read.

    Args:
        address: of the server that has it.
        session_id: its id.
    """

    CSS = """
    #about, #trouble { height: auto; padding: 0 1; }
    #trouble { color: $text-warning; }
    #state { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,backspace", "app.pop_screen", "Back", key_display="Esc"),
        Binding("p", "app.pause", "Pause"),
        Binding("space", "app.read", "Read now"),
    ]

    def __init__(self, address: str, session_id: str) -> None:
        super().__init__()
        self.address = address
        self.session_id = session_id
        self._course: deque[float] = deque(maxlen=COURSE_LENGTH)
        self._before: SessionDetail | None = None

    def compose(self) -> ComposeResult:
        """The parts of the screen from its top to its bottom."""
        yield Static(id="about", markup=False)
        yield Static(id="trouble", markup=False)
        yield LiveTable(id="state")
        yield Footer()

    def show_trouble(self, message: str) -> None:
        """The session could not be read; what was read before stays."""
        self.query_one("#trouble", Static).update(message)

    def show(self, detail: SessionDetail) -> None:
        """The session was read."""
        self._note_rate(detail)
        self.query_one("#trouble", Static).update("")
        self.query_one("#about", Static).update(Text("\n").join(self._lines(detail)))
        self.query_one("#state", LiveTable).show(state_table(detail.parts))

    def _note_rate(self, detail: SessionDetail) -> None:
        before = self._before
        if before is None or before.info.uid != detail.info.uid:  # Another life has a course of its own.
            self._course.clear()
            self._before = detail
        elif detail.time - before.time >= SHORTEST_S:
            self._course.append((detail.info.step_count - before.info.step_count) / (detail.time - before.time))
            self._before = detail

    def _lines(self, detail: SessionDetail) -> list[Text]:
        info = detail.info
        age_s = max(detail.time - info.create_time.timestamp(), 0.0)
        idle_s = max(detail.time - info.last_used_time.timestamp(), 0.0)
        left_s = max(info.expire_time.timestamp() - detail.time, 0.0)
        fields = (
            ("session", f"{info.id}   uid {info.uid}   on {self.address}"),
            ("model", f"{info.model.removeprefix('models/')}   {detail.model.description}".rstrip()),
            ("layers", " ".join(", ".join(detail.model.layers).split())),
            ("rows", UNKNOWN if info.batch_size is None else count(info.batch_size)),
            ("steps", count(info.step_count)),
            ("made", f"{info.create_time.isoformat(timespec='seconds')}, {span(age_s)} ago"),
            ("used", f"{span(idle_s)} ago; goes in {span(left_s)} unless it is used (ttl {span(info.ttl_s)})"),
        )
        lines = [Text.assemble((f"{name:{LABEL_WIDTH}}", "bold"), value) for name, value in fields]
        now = self._course[-1] if self._course else None
        course = (bars(self._course, COURSE_WIDTH), "green")
        return [*lines, Text.assemble((f"{'steps/s':{LABEL_WIDTH}}", "bold"), f"{rate(now)}  ", course)]
