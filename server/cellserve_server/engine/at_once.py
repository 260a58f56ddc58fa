"""Single steps that are done as they come, without a tick."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cellserve.tensors import Array
from cellserve_server.config import ServerConfig
from cellserve_server.engine.observing import LoneStep, TickObserver
from cellserve_server.metrics import EngineMetrics
from cellserve_server.sessions.lanes import Lane
from cellserve_server.sessions.seats import ENGAGED, FLAGS, LIFE, RUN_ID, STEP_COUNT
from cellserve_server.sessions.session import TWO_TO_64, LastRun, Session
from cellserve_server.tick_times import TickTimes


class StepsAtOnce:
    """Does plain next steps that take no time worth sharing.

    Where nobody else waits a tick would be of this step alone, and scheduling it would take longer than the step.

    Args:
        config: the limit of such a step.
        metrics: told of it as of a tick.
        observers: told of it.
        clock: the engine's.
    """

    def __init__(
        self,
        config: ServerConfig,
        metrics: EngineMetrics,
        observers: Sequence[TickObserver],
        clock: Callable[[], float],
    ) -> None:
        self._at_once_s = config.at_once_us / 1e6
        self._metrics = metrics
        self._observers = observers
        self._clock = clock

    def step(
        self,
        lane: Lane,
        session: Session,
        life: int,
        inputs: Sequence[Array],
        expected_step: int | None,
        run_id: int,
    ) -> tuple[int, list[Array]] | None:
        """A step of a session of a lane here and now, if it is short and all is as it should be.

        Args:
            life: the life that is meant.
            inputs: one ``[rows, ...]`` for each input of the model; checked before.
            expected_step, run_id: as of ``Run``.

        Returns:
            The step count after it, and one ``[rows, ...]`` for each output. None: this step has to go the ordinary
            way, which also says what is wrong with it if something is; nothing has moved.
        """
        predicted_s = lane.predicted_seconds(session.rows)
        if predicted_s is None or predicted_s > self._at_once_s or session.ended:
            return None
        now = self._clock()
        words, base = session.seats.words, session.base
        step_count = words[base + STEP_COUNT]
        is_plain = (
            words[base + LIFE] == life
            and not words[base + FLAGS] & ENGAGED
            and session.expire_time > now
            and (expected_step is None or expected_step == step_count)
            and (not run_id or run_id != words[base + RUN_ID] % TWO_TO_64)
        )
        if not is_plain:
            return None
        times = TickTimes(None)
        try:
            outputs, leaves = lane.model.network.step(inputs, session.read_state())
        except Exception:  # A bug of ours: the ordinary way meets it again, and tells of it.
            return None
        times.note_computed()
        digest = int(lane.model.input_digests.of_steps(inputs, session.rows)[0]) if run_id else 0
        session.move(leaves, LastRun(run_id, step_count, 1, digest) if run_id else None, 1)
        session.renew(now)
        times.note_scattered()
        self._metrics.tick(lane.label, session.rows, times)
        self._metrics.steps(lane.label, 1)
        self._metrics.runs_done(lane.label, "ok", 1, times.seconds, is_step=True)
        if self._observers:
            done = LoneStep(lane, session, outputs, leaves, times)
            for observer in self._observers:
                observer.step_answered(done)
        return step_count + 1, outputs
