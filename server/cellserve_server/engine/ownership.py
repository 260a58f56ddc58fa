"""Before a run is refused for its step number: is the session still here, or has another replica taken it unasked?

A replica that lost a session without knowing, because it did not answer in time, has an old copy of it. What it would
apply the store refuses; but what it says of the session's step count is not to be believed before it has looked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from cellserve.errors import CellServeError
from cellserve_server.engine.runs import Run
from cellserve_server.sessions.session import Session


class Ownership:
    """Looks at the store before runs are refused.

    Args:
        confirm: takes those of some sessions out of memory that another replica has; raises ``CellServeError`` when
            that is not known.
        finish: answers a run.
        fail: answers a run that met a bug of ours.
    """

    def __init__(
        self,
        confirm: Callable[[Sequence[Session]], Awaitable[None]],
        finish: Callable[[Run, CellServeError], None],
        fail: Callable[[Run, Exception], None],
    ) -> None:
        self._confirm = confirm
        self._finish = finish
        self._fail = fail
        self._looking: set[asyncio.Task[None]] = set()

    def refuse(self, run: Run, session: Session, error: CellServeError) -> None:
        """Answers a run with this error, unless its session has moved, or it is not known. It is busy meanwhile."""
        session.occupy(run)
        task = asyncio.get_running_loop().create_task(self._refuse(run, session, error), name="cellserve-ownership")
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def stop(self) -> None:
        """Gives up what is under way."""
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)

    async def _refuse(self, run: Run, session: Session, error: CellServeError) -> None:
        try:
            await self._confirm([session])
        except CellServeError as unknown:
            error = unknown
        except Exception as bug:  # Logged, and answered under an id: the session would be busy for ever otherwise.
            self._fail(run, bug)
            return
        # A session that has left memory has refused the run under way on it.
        self._finish(run, run.refusal or error)
