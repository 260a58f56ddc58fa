"""What the ticks ask of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve_server.engine.admission import check_alive, overload_error
from cellserve_server.engine.blocks import StepBlock
from cellserve_server.engine.runs import Run
from cellserve_server.engine.scheduler import Taken
from cellserve_server.engine.state_writer import StateWriter
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.session import Session

# Takes so many rows more for the same tick.
More: TypeAlias = Callable[[int], Sequence[Taken[Run | StepBlock]]]
# How often a tick takes more in the place of what it has refused, so that a long line of it holds nobody up.
MOST_REFILLS = 16


class Owner(Protocol):
    """Who is told how work ends: the engine."""

    def committed(self, run: Run, leaves: Sequence[Array]) -> None:
        """All steps of a run are computed, and are not its session's state yet."""
        ...

    def answer(self, run: Run, leaves: Sequence[Array]) -> None:
        """A run's step is its session's state."""
        ...

    def finish(self, run: Run, error: CellServeError | None) -> None:
        """A run is over."""
        ...

    def fail(self, run: Run, error: Exception) -> None:
        """A run met a bug of ours."""
        ...

    def bug(self, model: LoadedModel, error: Exception) -> CellServeError:
        """Logs a bug of ours; what its callers see of it."""
        ...

    def steps_over(self, block: StepBlock, model: LoadedModel, count: int, outcome: str) -> None:
        """Steps of a block are answered."""
        ...

    def refuse_step(self, block: StepBlock, model: LoadedModel, step: int, error: CellServeError | None) -> None:
        """A step of a block is not applied; no error: its session has ended."""
        ...

    def go_on(self, session: Session) -> None:
        """Lets what waits for a session begin."""
        ...

    def note_moved(self) -> None:
        """States in memory have moved on."""
        ...

    @property
    def writer(self) -> StateWriter | None:
        """Where states are written before steps are answered; None: nowhere."""
        ...


def still_wanted(run: Run, now: float, owner: Owner, least_s: float = 0.0) -> bool:
    """Whether somebody waits for a run, and will still when it is done; if not, it is over.

    Args:
        least_s: how much of its time has to be left.
    """
    try:
        check_alive(run, now)
        if run.deadline is not None and run.deadline - now < least_s:
            raise overload_error(now - run.ready, run.deadline - now)
    except CellServeError as error:
        owner.finish(run, error)
        return False
    return True
