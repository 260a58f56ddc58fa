"""Sessions of the blocking client."""

from __future__ import annotations

from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Protocol, TypeVar

import numpy.typing as npt

from cellserve.states import NestedState
from cellserve_client import sessions
from cellserve_client.arrays import Inputs, Outputs
from cellserve_client.blocking_steps import ThreadStep, TracedThreadStep
from cellserve_client.models import ModelInfo
from cellserve_client.pieces import OutputMode
from cellserve_client.portal import HandedOver
from cellserve_client.session_info import SessionInfo
from cellserve_client.stepping import TracedStepper

Result = TypeVar("Result")


class Connection(Protocol):
    """What runs the coroutines that the blocking client waits for: a ``Server``."""

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Runs a coroutine in the connection's own event loop and waits for its result."""
        ...

    def wait_for(self, call: HandedOver[Result]) -> Result:
        """Begins a call in the connection's own event loop and waits for its result."""
        ...


class Session:
    """A session: its state is kept on the server; see ``sessions.Session``. ``with`` deletes it in the end."""

    def __init__(self, connection: Connection, session: sessions.Session) -> None:
        # The connection is held, so that it lives as long as its sessions.
        self._connection = connection
        self._session = session
        self._thread_step = TracedThreadStep if isinstance(session.stepper, TracedStepper) else ThreadStep

    @property
    def model(self) -> ModelInfo:
        """The model version that it runs on."""
        return self._session.model

    @property
    def batch_size(self) -> int | None:
        """Its rows; None: one row without a batch dimension."""
        return self._session.batch_size

    @property
    def id(self) -> str:
        """Its id."""
        return self._session.id

    @property
    def uid(self) -> str:
        """The server's id of this life of it: new at creation, reset and set_state."""
        return self._session.uid

    @property
    def step_count(self) -> int:
        """The steps applied since creation or reset, as far as this client knows."""
        return self._session.step_count

    def step(self, inputs: Inputs, *, timeout_s: float | None = None) -> Outputs:
        """One step; see ``sessions.Session.step``. The steps of many threads go out together, in few messages."""
        stepper = self._session.stepper
        data = stepper.snapshot(inputs)
        if data is not None:
            return self._connection.wait_for(self._thread_step(stepper, data, stepper.deadline(timeout_s)))
        return self._connection.run(self._session.step(inputs, timeout_s=timeout_s))

    def run(
        self,
        sequence: Inputs,
        lengths: npt.ArrayLike | None = None,
        outputs: OutputMode = "all",
        *,
        timeout_s: float | None = None,
    ) -> Outputs:
        """Many steps; see ``sessions.Session.run``."""
        return self._connection.run(self._session.run(sequence, lengths, outputs, timeout_s=timeout_s))

    def state(self, *, timeout_s: float | None = None) -> NestedState:
        """Its state; see ``sessions.Session.state``."""
        return self._connection.run(self._session.state(timeout_s=timeout_s))

    def set_state(self, state: NestedState, *, step_count: int | None = None, timeout_s: float | None = None) -> None:
        """Replaces its state; see ``sessions.Session.set_state``."""
        self._connection.run(self._session.set_state(state, step_count=step_count, timeout_s=timeout_s))

    def reset(self, *, timeout_s: float | None = None) -> None:
        """Sets its state to zeros and its step count to 0."""
        self._connection.run(self._session.reset(timeout_s=timeout_s))

    def fork(self, session_id: str | None = None, *, timeout_s: float | None = None) -> Session:
        """Makes a second session with a copy of its state; see ``sessions.Session.fork``."""
        return Session(self._connection, self._connection.run(self._session.fork(session_id, timeout_s=timeout_s)))

    def refresh(self, *, timeout_s: float | None = None) -> SessionInfo:
        """Reads the session and takes over its uid and step count; see ``sessions.Session.refresh``."""
        return self._connection.run(self._session.refresh(timeout_s=timeout_s))

    def close(self, *, timeout_s: float | None = None) -> None:
        """Deletes it on the server; see ``sessions.Session.close``."""
        self._connection.run(self._session.close(timeout_s=timeout_s))

    def detach(self) -> str:
        """Leaves it on the server, for ``Server.open_session``. This object is done with. Returns its id."""
        return self._session.detach()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.run(self._session.__aexit__(kind, error, trace))
