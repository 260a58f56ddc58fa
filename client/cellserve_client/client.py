"""The blocking client: a thin layer over the one for asyncio, which runs in a background thread of each connection.

Everything here may be called from any thread; every call waits for its answer, and KeyboardInterrupt cancels it. What
the calls mean, and what they raise, is said at the coroutines of the same names.
"""

from __future__ import annotations

import weakref
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy.typing as npt

from cellserve.cells import CellDescription
from cellserve.states import NestedState
from cellserve_client import aio
from cellserve_client.blocking_cells import Cell, Model, RemoteCell
from cellserve_client.blocking_groups import SessionGroup
from cellserve_client.blocking_sessions import Session
from cellserve_client.definitions import Weights
from cellserve_client.models import ModelInfo
from cellserve_client.portal import HandedOver, Portal
from cellserve_client.retry import RetryPolicy
from cellserve_client.session_info import SessionInfo
from cellserve_client.tls import TlsSettings
from cellserve_client.transport import DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["Cell", "Model", "Server", "Session", "SessionGroup", "connect"]

Result = TypeVar("Result")


def connect(
    address: str,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    retry: RetryPolicy | None = None,
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    coalesce: bool = True,
    pinned: bool = False,
    proxied: bool = False,
    tls: TlsSettings | bool | None = None,
    token: str | Path | None = None,
    tracing: bool | TracerProvider = False,
) -> Server:
    """Names a server, or several replicas of one; see ``aio.connect``. Nothing is sent before the first request."""
    return Server(
        aio.connect(
            address,
            timeout_s=timeout_s,
            retry=retry,
            max_message_bytes=max_message_bytes,
            coalesce=coalesce,
            pinned=pinned,
            proxied=proxied,
            tls=tls,
            token=token,
            tracing=tracing,
        )
    )


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
        """Where it is, as it was given: ``host:port``."""
        return self._server.address

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Runs a coroutine in the connection's own event loop and waits for its result."""
        return self._portal.run(coroutine)

    def wait_for(self, call: HandedOver[Result]) -> Result:
        """Begins a call in the connection's own event loop and waits for its result."""
        return self._portal.wait_for(call)

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

    def session_group(
        self,
        model: str | RemoteCell,
        count: int | None = None,
        *,
        ids: Sequence[str] | None = None,
        batch_size: int | None = None,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
    ) -> SessionGroup:
        """Makes many sessions that one array steps; ``with`` deletes them. See ``aio.Server.session_group``."""
        opening = self._server.session_group(
            model.remote if isinstance(model, RemoteCell) else model,
            count,
            ids=ids,
            batch_size=batch_size,
            ttl_s=ttl_s,
            timeout_s=timeout_s,
        )
        return SessionGroup(self, self.run(opening.open()))

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
        self,
        *,
        model: str | None = None,
        limit: int | None = None,
        order_by: str | None = None,
        id_contains: str = "",
        timeout_s: float | None = None,
    ) -> list[SessionInfo]:
        """The sessions, ordered by id or by activity; see ``aio.Server.sessions``."""
        return self.run(
            self._server.sessions(
                model=model, limit=limit, order_by=order_by, id_contains=id_contains, timeout_s=timeout_s
            )
        )

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
