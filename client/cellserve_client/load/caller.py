"""One session of a load test, and another in its place when it has had its steps or was lost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

import numpy as np

from cellserve.errors import CellServeError, PartialRunError
from cellserve_client import aio
from cellserve_client.load.clock import LoadClock
from cellserve_client.load.distributions import Distribution
from cellserve_client.load.inputs import InputSource
from cellserve_client.load.plan import MAX_SEQUENCE_STEPS, MAX_SESSION_STEPS, SEQUENCE, STEP
from cellserve_client.load.recorder import Recorder, reason_of

CLOSE_TIMEOUT_S = 5.0
PAUSE_AFTER_ERROR_S = 0.05
# Requests that were under way when the test was stopped, and were waited for long enough.
CUT_OFF = "CUT_OFF"


class Traffic(NamedTuple):
    """What the sessions of one process have in common.

    Attributes:
        inputs: that they are stepped with.
        step_share: of single steps among the requests, 0 to 1.
        sequence_length: in steps.
        session_length: in steps; None: a session stays.
        timeout_s: of a request.
        opening: held while a session is opened, so that not all are opened at once.
    """

    inputs: InputSource
    step_share: float
    sequence_length: Distribution
    session_length: Distribution | None
    timeout_s: float
    opening: asyncio.Semaphore


class Caller:
    """Makes requests, one at a time.

    Args:
        model: where its steps go.
        traffic: what it sends.
        recorder: told of all that happens.
        clock: of the test.
        random: its own.
    """

    def __init__(
        self, model: aio.Model, traffic: Traffic, recorder: Recorder, clock: LoadClock, random: np.random.Generator
    ) -> None:
        self.random = random
        self._model = model
        self._traffic = traffic
        self._recorder = recorder
        self._clock = clock
        self._session: aio.Session | None = None
        self._place = 0
        self._steps_left = MAX_SESSION_STEPS

    async def open(self) -> bool:
        """Opens its session, unless it has one. False: it could not be had, and a moment has passed."""
        if self._session is not None:
            return True
        traffic = self._traffic
        try:
            async with traffic.opening:
                if self._clock.is_stopped:
                    return False
                self._session = await self._opened()
        except CellServeError as error:
            kind = STEP if traffic.step_share > 0 else SEQUENCE
            self._recorder.not_opened(kind, reason_of(error), self._clock.now())
            await self._clock.pause(PAUSE_AFTER_ERROR_S)
            return False
        self._recorder.opened()
        self._place = traffic.inputs.first(self.random)
        if traffic.session_length is not None:
            self._steps_left = traffic.session_length.draw_count(self.random, MAX_SESSION_STEPS)
        return True

    async def _opened(self) -> aio.Session:
        opening = asyncio.create_task(self._model.session(timeout_s=self._timeout_s()).open())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # Interrupted in between: what the server is making has to be deleted all the same, if it is made.
            with contextlib.suppress(CellServeError):
                await (await opening).close(timeout_s=CLOSE_TIMEOUT_S)
            raise

    async def request(self, due: float | None) -> bool:
        """Makes one request with its open session. False: it failed, and the session with it.

        Args:
            due: when it was to be sent, in the clock's seconds; None: now.
        """
        session, traffic = self._session, self._traffic
        assert session is not None, "it was opened"
        share = traffic.step_share
        kind = STEP if share >= 1 or (share > 0 and self.random.random() < share) else SEQUENCE
        steps = 1
        sent = self._clock.now()
        due = sent if due is None else due
        try:
            if kind is STEP:
                await session.step(traffic.inputs.step(self._place), timeout_s=self._timeout_s())
            else:
                steps = traffic.sequence_length.draw_count(self.random, MAX_SEQUENCE_STEPS)
                inputs = traffic.inputs.sequence(self._place, steps)
                await session.run(inputs, timeout_s=self._timeout_s())
        except CellServeError as error:
            applied = error.steps_applied if isinstance(error, PartialRunError) else 0
            self._recorder.failed(kind, reason_of(error), due, self._clock.now(), applied)
            await self.close()
            return False
        except asyncio.CancelledError:
            self._recorder.failed(kind, CUT_OFF, due, self._clock.now())
            raise
        self._recorder.answered(kind, steps, due, sent, self._clock.now())
        self._place += steps
        self._steps_left -= steps
        if self._steps_left <= 0:
            await self.close()
        return True

    async def close(self) -> None:
        """Deletes its session, if it has one."""
        session, self._session = self._session, None
        if session is None:
            return
        self._recorder.closed()
        try:
            await session.close(timeout_s=CLOSE_TIMEOUT_S)
        except CellServeError as error:
            self._recorder.trouble(error, self._clock.now())  # It will expire by itself.

    def _timeout_s(self) -> float:
        """What a request gets, so that the test ends when it should."""
        return min(self._traffic.timeout_s, self._clock.left_for_answers_s())
