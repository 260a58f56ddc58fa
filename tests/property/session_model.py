"""What sessions are, in a few lines of plain Python: the model that the server is held against."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
UNITS = 3
DEPTH = 2
TTL_S = 100.0


@dataclass(frozen=True)
class Weights:
    """Of a BasicRNNCell."""

    kernel: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


def step(weights: Weights, state: Vector, inputs: npt.NDArray[np.float32]) -> Vector:
    """``h' = tanh([x, h] kernel + bias)``, in double precision."""
    return np.asarray(np.tanh(np.concatenate([inputs, state]) @ weights.kernel + weights.bias), np.float64)


@dataclass(frozen=True)
class RunRequest:
    """A run as its caller made it: one step, or a sequence."""

    name: str
    uid: str
    inputs: bytes  # float32 [steps, DEPTH]
    expected_step: int | None
    run_id: int

    @property
    def frames(self) -> npt.NDArray[np.float32]:
        return np.frombuffer(self.inputs, np.float32).reshape(-1, DEPTH)


@dataclass
class SessionModel:
    """A session in one life."""

    uid: str
    expire_time: float
    state: Vector = field(default_factory=lambda: np.zeros(UNITS))
    step_count: int = 0
    last_run: tuple[int, int, bytes] | None = None  # run_id, first step, inputs
    before_last_run: Vector = field(default_factory=lambda: np.zeros(UNITS))


@dataclass
class World:
    """All sessions, by name."""

    weights: Weights
    now: float
    sessions: dict[str, SessionModel] = field(default_factory=dict)

    def living(self, name: str, uid: str = "") -> SessionModel | None:
        """The session, unless it is not there, has expired, or has another uid."""
        session = self.sessions.get(name)
        if session is not None and session.expire_time <= self.now:
            del self.sessions[name]
            session = None
        if session is None or (uid and uid != session.uid):
            return None
        return session

    def create(self, name: str, uid: str) -> SessionModel:
        self.sessions[name] = SessionModel(uid, self.now + TTL_S)
        return self.sessions[name]

    def begin_life(self, name: str, uid: str, state: Vector, step_count: int) -> None:
        self.sessions[name] = SessionModel(uid, self.now + TTL_S, state, step_count)

    def run(self, request: RunRequest) -> tuple[str, npt.NDArray[np.float64]]:
        """What the server should say: a word, and the outputs ``[steps, UNITS]`` where there are any."""
        nothing = np.empty((0, UNITS))
        session = self.living(request.name, request.uid)
        if session is None:
            return "NOT_FOUND", nothing
        if session.last_run is not None and request.run_id == session.last_run[0]:
            first = session.last_run[1] if request.expected_step is None else request.expected_step
            if (request.run_id, first, request.inputs) != session.last_run:
                return "ABORTED", nothing
            session.expire_time = self.now + TTL_S
            return "REPLAYED", self._outputs(session.before_last_run, request)
        if request.expected_step is not None and request.expected_step != session.step_count:
            return "ABORTED", nothing
        outputs = self._outputs(session.state, request)
        session.last_run = (request.run_id, session.step_count, request.inputs)
        session.before_last_run = session.state
        session.state = outputs[-1]
        session.step_count += len(outputs)
        session.expire_time = self.now + TTL_S
        return "OK", outputs

    def _outputs(self, state: Vector, request: RunRequest) -> npt.NDArray[np.float64]:
        outputs = []
        for frame in request.frames:
            state = step(self.weights, state, frame)
            outputs.append(state)
        return np.stack(outputs)
