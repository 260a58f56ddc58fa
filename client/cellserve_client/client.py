"""The blocking client: a thin layer over the one for asyncio, which runs in a background thread of each connection.

Everything here may be called from any thread; every call waits for its answer, and KeyboardInterrupt cancels it. What
the calls mean, and what they raise, is said at the coroutines of the same names.
"""

from __future__ import annotations

import weakref
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

import numpy.typing as npt

from cellserve.cells import CellDescription
from cellserve.states import NestedState
from cellserve_client import aio, sessions
from cellserve_client.arrays import Inputs, Outputs
from cellserve_client.blocking_cells import Cell, Model, RemoteCell
from cellserve_client.definitions import Weights
from cellserve_client.models import ModelInfo
from cellserve_client.pieces import OutputMode
from cellserve_client.portal import Portal
from cellserve_client.retry import RetryPolicy
from cellserve_client.session_info import SessionInfo
from cellserve_client.transport import DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_TIMEOUT_S

__all__ = ["Cell", "Model", "Server", "Session", "connect"]

Result = TypeVar("Result")


def connect(
    address: str,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    retry: RetryPolicy | None = None,
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
) -> Server:
    """Names a server; see ``aio.connect``. Nothing is sent before the first request."""
    return Server(aio.connect(address, timeout_s=timeout_s, retry=retry, max_message_bytes=max_message_bytes))


class Server:
    """A connection to a server; see ``aio.Server``. ``with`` closes it, and so does the end of the program.

    It has a thread of its own and does not survive a fork: connect after it.
    """

    def __init__(self, server: aio.Server) -> None:
        self._server = server
        self._portal = Portal(f"cellserve {server.address}", server.close)
        self._finalizer = weakref.finalize(self, self._portal.stop)

    @property
    def address(self) -> str:
        """Where it is: ``host:port``."""
        return self._server.address

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Runs a coroutine in the connection's own event loop and waits for its result."""
        return self._portal.run(coroutine)

    def cell(
        self,
        description: CellDescription,
        seed: int | None = None,
        weights: Weights | None = None,
        *,
        dtype: npt.DTypeLike | None = None,
        input_size: int | None = None,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Cell:
        """A cell that the server computes; see ``aio.Server.cell``."""
        making = self._server.cell(
            description, seed, weights, dtype=dtype, input_size=input_size, ttl_s=ttl_s, timeout_s=timeout_s
        )
        return Cell(self, self.run(making))

    def model(self, name: str, *, version: int | None = None, timeout_s: float | None = None) -> Model:
        """A model that the server has; see ``aio.Server.model``."""
        return Model(self, self.run(self._server.model(name, version=version, timeout_s=timeout_s)))

    def model_info(self, name: str, *, version: int | None = None, timeout_s: float | None = None) -> ModelInfo:
        """What the server tells about a model; see ``aio.Server.model_info``."""
        return self.run(self._server.model_info(name, version=version, timeout_s=timeout_s))

    def session(
        self,
        model: str | RemoteCell,
        *,
        session_id: str | None = None,
        batch_size: int | None = None,
        ttl_s: float | None = None,
        initial_state: NestedState | None = None,
        timeout_s: float | None = None,
    ) -> Session:
        """Makes a session; ``with`` deletes it in the end. See ``aio.Server.session``."""
        opening = self._server.session(
            model.remote if isinstance(model, RemoteCell) else model,
            session_id=session_id,
            batch_size=batch_size,
            ttl_s=ttl_s,
            initial_state=initial_state,
            timeout_s=timeout_s,
        )
        return Session(self, self.run(opening.open()))

    def open_session(self, session_id: str, *, timeout_s: float | None = None) -> Session:
        """Attaches to a session that is there; see ``aio.Server.open_session``."""
        return Session(self, self.run(self._server.open_session(session_id, timeout_s=timeout_s)))

    def session_info(self, session_id: str, *, timeout_s: float | None = None) -> SessionInfo:
        """What the server tells about a session; see ``aio.Server.session_info``."""
        return self.run(self._server.session_info(session_id, timeout_s=timeout_s))

    def models(self, *, timeout_s: float | None = None) -> list[ModelInfo]:
        """All models; see ``aio.Server.models``."""
        return self.run(self._server.models(timeout_s=timeout_s))

    def sessions(
        self, *, model: str | None = None, limit: int | None = None, timeout_s: float | None = None
    ) -> list[SessionInfo]:
        """The sessions, ordered by id; see ``aio.Server.sessions``."""
        return self.run(self._server.sessions(model=model, limit=limit, timeout_s=timeout_s))

    def delete_session(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Ends a session; see ``aio.Server.delete_session``."""
        self.run(self._server.delete_session(session_id, timeout_s=timeout_s))

    def close(self) -> None:
        """Closes the connection; what is under way is cancelled. Sessions stay on the server."""
        self._finalizer()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Session:
    """A session: its state is kept on the server; see ``sessions.Session``. ``with`` deletes it in the end."""

    def __init__(self, server: Server, session: sessions.Session) -> None:
        self._server = server
        self._session = session

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
        """One step; see ``sessions.Session.step``."""
        return self._server.run(self._session.step(inputs, timeout_s=timeout_s))

    def run(
        self,
        sequence: Inputs,
        lengths: npt.ArrayLike | None = None,
        outputs: OutputMode = "all",
        *,
        timeout_s: float | None = None,
    ) -> Outputs:
        """Many steps; see ``sessions.Session.run``."""
        return self._server.run(self._session.run(sequence, lengths, outputs, timeout_s=timeout_s))

    def state(self, *, timeout_s: float | None = None) -> NestedState:
        """Its state; see ``sessions.Session.state``."""
        return self._server.run(self._session.state(timeout_s=timeout_s))

    def set_state(self, state: NestedState, *, step_count: int | None = None, timeout_s: float | None = None) -> None:
        """Replaces its state; see ``sessions.Session.set_state``."""
        self._server.run(self._session.set_state(state, step_count=step_count, timeout_s=timeout_s))

    def reset(self, *, timeout_s: float | None = None) -> None:
        """Sets its state to zeros and its step count to 0."""
        self._server.run(self._session.reset(timeout_s=timeout_s))

    def fork(self, session_id: str | None = None, *, timeout_s: float | None = None) -> Session:
        """Makes a second session with a copy of its state; see ``sessions.Session.fork``."""
        return Session(self._server, self._server.run(self._session.fork(session_id, timeout_s=timeout_s)))

    def refresh(self, *, timeout_s: float | None = None) -> SessionInfo:
        """Reads the session and takes over its uid and step count; see ``sessions.Session.refresh``."""
        return self._server.run(self._session.refresh(timeout_s=timeout_s))

    def close(self, *, timeout_s: float | None = None) -> None:
        """Deletes it on the server; see ``sessions.Session.close``."""
        self._server.run(self._session.close(timeout_s=timeout_s))

    def detach(self) -> str:
        """Leaves it on the server, for ``Server.open_session``. This object is done with. Returns its id."""
        return self._session.detach()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.run(self._session.__aexit__(kind, error, trace))
