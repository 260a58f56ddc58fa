"""Sessions in a closed loop: each sends its next step when the last one is answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cellserve.errors import CellServeError, FieldInvalidError, ModelNotFoundError
from cellserve.specs import ArraySpec
from cellserve.tensors import Array
from cellserve_client import aio
from cellserve_client.arrays import Inputs
from cellserve_client.load.report import LoadReport, Recorder, report_of
from cellserve_client.models import ModelInfo

MAX_SESSIONS = 100_000
MAX_SECONDS = 86_400.0
INPUTS_PER_SESSION = 16
PAUSE_AFTER_ERROR_S = 0.05
PROGRESS_INTERVAL_S = 0.25
OPENING_AT_ONCE = 64
CLOSE_TIMEOUT_S = 5.0
# How long the answers of the last steps are waited for: a server that is lost would be asked again for much longer.
LAST_ANSWERS_S = 5.0


@dataclass(frozen=True)
class LoadPlan:
    """What to do.

    Attributes:
        address: as ``connect`` takes it.
        model: a model's name; None: the server's only one, beside those that clients defined.
        sessions: how many are stepped at once.
        seconds: how long is measured.
        warmup_s: how long they are stepped before.
        timeout_s: of one step.
        seed: of the inputs.

    Raises:
        FieldInvalidError: a number is out of its range.
    """

    address: str
    model: str | None = None
    sessions: int = 64
    seconds: float = 10.0
    warmup_s: float = 1.0
    timeout_s: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.sessions <= MAX_SESSIONS:
            raise FieldInvalidError(f"sessions: expected 1 to {MAX_SESSIONS}; got {self.sessions}")
        if not 0 < self.seconds <= MAX_SECONDS:
            raise FieldInvalidError(f"seconds: expected above 0, at most {MAX_SECONDS:g}; got {self.seconds}")
        if not 0 <= self.warmup_s <= MAX_SECONDS:
            raise FieldInvalidError(f"warmup_s: expected 0 to {MAX_SECONDS:g}; got {self.warmup_s}")


@dataclass(frozen=True)
class Progress:
    """How far a test is.

    Attributes:
        seconds: since it began, the warm-up included.
        steps_per_second: since the last report.
        steps: measured so far.
        errors: so far.
    """

    seconds: float
    steps_per_second: float
    steps: int
    errors: int


async def run_load(plan: LoadPlan, on_progress: Callable[[Progress], None]) -> LoadReport:
    """Runs a test to its end. Sessions that it made are deleted, as far as the server still answers.

    Args:
        on_progress: called a few times a second.

    Raises:
        CellServeError: the test could not begin: no server, no such model. Later failures are counted.
    """
    async with aio.connect(plan.address, timeout_s=plan.timeout_s) as server:
        model = await _choose_model(server, plan.model)
        test = _Test(plan, model)
        began = time.monotonic()
        test.measure_from, test.end = began + plan.warmup_s, began + plan.warmup_s + plan.seconds
        reporting = asyncio.create_task(_report(test, began, on_progress))
        try:
            # A group waits for all its tasks, even when it is interrupted: they delete their sessions.
            async with asyncio.TaskGroup() as group:
                for index in range(plan.sessions):
                    group.create_task(test.loop(index))
        finally:
            reporting.cancel()
        seconds = test.stepped_until - test.measure_from
        return report_of(plan.address, model.info.resource_name, plan.sessions, seconds, test.recorder, test.end)


async def _choose_model(server: aio.Server, name: str | None) -> aio.Model:
    """The model that was asked for, or the only one that can be stepped; those that clients defined count only when
    the operator has put none there.

    Raises:
        ModelNotFoundError: there is no such model, or none or several to choose from.
    """
    if name is not None:
        return await server.model(name)
    usable = [
        info
        for info in await server.models()
        if info.state == "READY" and info.steppable and "SESSION" in info.capabilities
    ]
    names = {info.name for info in usable if not info.defined} or {info.name for info in usable}
    if len(names) != 1:
        choice = f"there are {', '.join(sorted(names))}" if names else "the server has none that can be stepped"
        raise ModelNotFoundError(f"model: say which one; {choice}")
    return await server.model(names.pop())


async def _report(test: _Test, began: float, on_progress: Callable[[Progress], None]) -> None:
    last, last_steps = began, 0
    while True:
        await asyncio.sleep(PROGRESS_INTERVAL_S)
        now, steps = time.monotonic(), test.all_steps
        rate = (steps - last_steps) / (now - last)
        on_progress(Progress(now - began, rate, test.recorder.steps, test.recorder.errors.total()))
        last, last_steps = now, steps


class _Test:
    """A test under way."""

    def __init__(self, plan: LoadPlan, model: aio.Model) -> None:
        self.recorder = Recorder()
        self.all_steps = 0
        self.measure_from = 0.0
        self.end = 0.0
        self.stepped_until = 0.0
        self._plan = plan
        self._model = model
        self._opening = asyncio.Semaphore(OPENING_AT_ONCE)

    async def loop(self, index: int) -> None:
        """One session from its beginning to its end, and another one in its place should it be lost."""
        inputs = random_inputs(self._model.info, INPUTS_PER_SESSION, np.random.default_rng([self._plan.seed, index]))
        while time.monotonic() < self.end:
            try:
                async with self._opening:
                    session = await self._open()
            except CellServeError as error:
                await self._failed(error)
                continue
            try:
                await self._step_until_lost(session, inputs)
            finally:
                self.stepped_until = time.monotonic()
                await self._close(session)
        self.stepped_until = max(self.stepped_until, self.end)

    async def _open(self) -> aio.Session:
        opening = asyncio.create_task(self._model.session(timeout_s=self._timeout_s()).open())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # Interrupted in between: what the server is making has to be deleted all the same, if it is made.
            with contextlib.suppress(CellServeError):
                await self._close(await opening)
            raise

    async def _step_until_lost(self, session: aio.Session, inputs: list[Inputs]) -> None:
        count = 0
        while (began := time.monotonic()) < self.end:
            try:
                await session.step(inputs[count % len(inputs)], timeout_s=self._timeout_s())
            except CellServeError as error:
                await self._failed(error)
                return
            count += 1
            self.all_steps += 1
            answered = time.monotonic()
            self.recorder.last_answer = answered
            if began >= self.measure_from:
                self.recorder.step(answered - began)

    def _timeout_s(self) -> float:
        """What a request gets, so that the test ends when it should."""
        return min(self._plan.timeout_s, max(self.end - time.monotonic(), 0.0) + LAST_ANSWERS_S)

    async def _failed(self, error: CellServeError) -> None:
        """Counts a failure; the pause keeps a server that refuses at once from being asked in a tight loop."""
        self.recorder.error(error)
        if time.monotonic() >= self.measure_from:
            self.recorder.failed_steps += 1
        await asyncio.sleep(min(PAUSE_AFTER_ERROR_S, max(self.end - time.monotonic(), 0.0)))

    async def _close(self, session: aio.Session) -> None:
        try:
            await session.close(timeout_s=CLOSE_TIMEOUT_S)
        except CellServeError as error:
            self.recorder.error(error)  # It will expire by itself.


def random_inputs(info: ModelInfo, count: int, random: np.random.Generator) -> list[Inputs]:
    """So many inputs of one step: normal numbers, or ids where the model takes ids."""

    def draw(spec: ArraySpec) -> Array:
        if spec.dtype.kind == "i":
            ids: Array = random.integers(0, info.vocabulary_size or 1, spec.shape, dtype=spec.dtype.type)
            return np.asarray(ids, spec.dtype)
        return np.asarray(random.standard_normal(spec.shape), spec.dtype)

    if len(info.inputs) == 1:
        return [draw(info.inputs[0]) for _ in range(count)]
    return [{spec.name: draw(spec) for spec in info.inputs} for _ in range(count)]
