"""The client for asyncio::

    async with aio.connect("localhost:50051") as server:
        async with server.session("speaker-id") as session:
            belief = await session.step(frame)

A connection belongs to the event loop in which it is first used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy.typing as npt

from cellserve.cells import CellDescription
from cellserve.errors import FieldInvalidError
from cellserve.states import NestedState
from cellserve.v1 import model_service_pb2, session_pb2
from cellserve.v1 import recurrent_service_pb2 as pb
from cellserve_client import methods
from cellserve_client.bearer import token_from
from cellserve_client.cells import Cell, Model
from cellserve_client.deadlines import Deadline
from cellserve_client.definitions import Definition, Weights
from cellserve_client.fleet import Fleet, Way
from cellserve_client.groups import SessionGroup, create_group
from cellserve_client.ids import new_request_id
from cellserve_client.models import ModelInfo, info_from_proto, resource_name
from cellserve_client.opening import Opening
from cellserve_client.remote import RemoteCell
from cellserve_client.retry import RetryPolicy
from cellserve_client.session_info import SessionInfo, session_name
from cellserve_client.session_info import info_from_proto as session_info_from_proto
from cellserve_client.sessions import Session, create_session
from cellserve_client.tls import TlsSettings, settings_from
from cellserve_client.transport import DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from cellserve_client.tracing import Tracing

__all__ = ["Cell", "Model", "Server", "Session", "SessionGroup", "connect"]

PAGE_SIZE = 1000


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
    """Names a server, or several replicas of one. Nothing is sent before the first request.

    With several replicas each session goes to one of them by the rendezvous hash of its id, which every client computes
    alike. When that one is down or stopping the session goes on at the next, and comes back when it is up again; what
    was not answered is sent again, and applied once. For that they need a store that they share.

    Args:
        address: ``host:port``; several with commas between, ``a:50051,b:50051``; or ``dns:///name:50051``, where every
            address of the name is a replica, asked for again now and then. Every client is to write them alike.
        timeout_s: how long a call may take when it does not say, in seconds.
        retry: how failed requests are repeated; None: the defaults of ``RetryPolicy``.
        max_message_bytes: the largest answer that is taken.
        coalesce: whether the steps of many sessions go out together, as few messages on one stream. False: each is a
            request of its own, for proxies that cut streams.
        pinned: each session stays with the first replica of its order, be it down. For several servers without a store
            that they share, where sessions are refused otherwise.
        proxied: the address is that of a proxy with replicas behind it, which hashes the metadata key
            ``cellserve-bucket``: steps go over four streams, each for the sessions of one value, 0 to 3, and what else
            concerns a session carries the same value. Otherwise the value of a session is 0 to 63.
        tls: True: TLS, with those that this machine trusts; ``TlsSettings`` says more; False: none. None: as
            ``CELLSERVE_TLS`` (1 or 0) and ``CELLSERVE_TLS_CA``, ``_CERT``, ``_KEY`` and ``_SERVER_NAME`` say.
        token: a bearer token, sent with every request, or a ``Path`` of the file that has it, which is read again when
            it changes. To another machine it is sent with TLS only. None: the file that ``CELLSERVE_TOKEN_FILE`` names,
            if it does.
        tracing: whether requests are spans of OpenTelemetry, and the server is told which trace the caller of each
            step is in; True: of the program's tracer provider, or give another one. Needs
            ``cellserve-client[tracing]``.

    Raises:
        FieldInvalidError: an argument is not of its form, a token would be sent for all to read, or ``tracing`` is
            asked for and OpenTelemetry is not there.
    """
    fleet = Fleet(
        address,
        timeout_s=timeout_s,
        policy=retry,
        max_message_bytes=max_message_bytes,
        coalesce=coalesce,
        pinned=pinned,
        proxied=proxied,
        tls=settings_from(tls, os.environ),
        token=token_from(token, os.environ),
        tracing=None if tracing is False else _new_tracing(tracing),
    )
    return Server(fleet)


def _new_tracing(tracing: bool | TracerProvider) -> Tracing:
    try:
        from cellserve_client.tracing import Tracing
    except ImportError as error:
        raise FieldInvalidError(
            "tracing: needs OpenTelemetry, which is not installed: pip install 'cellserve-client[tracing]'"
        ) from error
    return Tracing(None if isinstance(tracing, bool) else tracing)


class Server:
    """A connection to a server. ``async with`` closes it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    @property
    def address(self) -> str:
        """Where it is, as it was given: ``host:port``."""
        return self._fleet.address

    async def cell(
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
        """A cell that the server computes.

        Args:
            description: what it is: ``rnn.BasicLSTMCell(128)``.
            seed: the server draws the weights from it, the same on every server; 0 when no weights are given either.
            weights: arrays under TensorFlow's variable names, such as ``basic_lstm_cell/kernel``; a common scope in
                front of all names is dropped.
            dtype: float32 or float64; None: that of the weights, float32 without weights.
            input_size: the width of the inputs; None: the weights tell it, or the first inputs do.
            ttl_s: how long the server keeps it unused, in seconds; None: the server's default.
            timeout_s: for making it, when the width is known now.

        Raises:
            InvalidArgumentError: seed and weights together; weights that are missing or of the wrong shape or type.
            QuotaExceededError: the server keeps no more models.
        """
        definition = Definition(description, seed=seed, weights=weights, dtype=dtype, ttl_s=ttl_s)
        told = definition.input_size()
        if input_size is not None and told not in (None, input_size):
            raise FieldInvalidError(f"input_size: expected {told}, for which the weights are made; got {input_size}")
        cell = Cell(self._fleet, definition)
        width = told if input_size is None else input_size
        if width is not None:
            await cell.build(width, timeout_s=timeout_s)
        return cell

    async def model(self, name: str, *, version: int | None = None, timeout_s: float | None = None) -> Model:
        """A model that the server has.

        Args:
            name: ``speaker-id``, or ``speaker-id/versions/3``.
            version: None: its newest, from now on the same one.

        Raises:
            ModelNotFoundError: there is none. ModelBrokenError: its files cannot be served.
        """
        return Model(self._fleet, await self.model_info(name, version=version, timeout_s=timeout_s))

    async def model_info(self, name: str, *, version: int | None = None, timeout_s: float | None = None) -> ModelInfo:
        """What the server tells about a model, be it broken; the arguments are those of ``model``.

        Raises:
            ModelNotFoundError: there is none.
        """
        return await self._model_info(resource_name(name, version), self._fleet.deadline(timeout_s))

    async def _model_info(self, full_name: str, deadline: Deadline, way: Way | None = None) -> ModelInfo:
        """Asks the replica that a session is at, where that counts: others may not know a model that a client made."""
        answer: model_service_pb2.GetModelResponse = await self._fleet.invoke(
            methods.GET_MODEL, model_service_pb2.GetModelRequest(name=full_name), deadline, way=way, model=full_name
        )
        return info_from_proto(answer.model)

    def session(
        self,
        model: str | RemoteCell,
        *,
        session_id: str | None = None,
        batch_size: int | None = None,
        ttl_s: float | None = None,
        initial_state: NestedState | None = None,
        timeout_s: float | None = None,
    ) -> Opening[Session]:
        """Makes a session: ``await`` it, or use it in ``async with``, which deletes it in the end.

        Args:
            model: a model's name (its newest version is taken), or a model or cell of this server.
            session_id: 1 to 128 letters, digits, ``-_.~:``; None: one is made up.
            batch_size: the rows that are stepped together; None: one row, without a batch dimension.
            ttl_s: how long it lives without being used, in seconds; None: the server's default, one hour.
            initial_state: nested as the model's ``state_size``, every part ``[batch_size, units]`` (``[1, units]``
                without a batch size); None: zeros.

        Raises:
            SessionExistsError: the id is taken; ``open_session`` attaches to it.
            ModelNotFoundError, ModelNotSteppableError, QuotaExceededError, InvalidArgumentError.
        """
        if isinstance(model, RemoteCell):
            return model.session(
                session_id=session_id,
                batch_size=batch_size,
                ttl_s=ttl_s,
                initial_state=initial_state,
                timeout_s=timeout_s,
            )

        async def create() -> Session:
            deadline = self._fleet.deadline(timeout_s)
            info = await self._model_info(resource_name(model), deadline)
            return await create_session(
                self._fleet,
                info,
                session_id=session_id,
                batch_size=batch_size,
                ttl_s=ttl_s,
                initial_state=initial_state,
                deadline=deadline,
            )

        return Opening(create)

    def session_group(
        self,
        model: str | RemoteCell,
        count: int | None = None,
        *,
        ids: Sequence[str] | None = None,
        batch_size: int | None = None,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Opening[SessionGroup]:
        """Makes many sessions that one array steps: ``await`` it, or use it in ``async with``, which deletes them.

        Args:
            model: a model's name (its newest version is taken), or a model or cell of this server.
            count: how many new sessions; 0: none yet. None with ``ids``.
            ids: the sessions' ids; those that are not there are made.
            batch_size: the rows of each; None: one row, without a batch dimension.
            ttl_s: how long those that are made live without being used, in seconds; None: the server's default.
            timeout_s: for the whole; None: the connection's timeout for each message of some thousand sessions.

        Raises:
            CellServeError: why the first session could not be had.
        """
        if isinstance(model, RemoteCell):
            return model.session_group(count, ids=ids, batch_size=batch_size, ttl_s=ttl_s, timeout_s=timeout_s)

        async def create() -> SessionGroup:
            info = await self._model_info(resource_name(model), self._fleet.deadline(timeout_s))
            return await create_group(
                self._fleet, info, count=count, ids=ids, batch_size=batch_size, ttl_s=ttl_s, timeout_s=timeout_s
            )

        return Opening(create)

    async def open_session(self, session_id: str, *, timeout_s: float | None = None) -> Session:
        """Attaches to a session that is there.

        Raises:
            SessionNotFoundError: there is none; the message says whether it expired, was deleted or never was.
        """
        deadline = self._fleet.deadline(timeout_s)
        found = await self._read_session(session_id, deadline)
        info = await self._model_info(resource_name(found.model), deadline, self._fleet.route(session_id))
        self._fleet.require_kept(info)
        return Session(self._fleet, info, found)

    async def session_info(self, session_id: str, *, timeout_s: float | None = None) -> SessionInfo:
        """What the server tells about a session. Looking does not renew its expiry.

        Raises:
            SessionNotFoundError: there is none.
        """
        return session_info_from_proto(await self._read_session(session_id, self._fleet.deadline(timeout_s)))

    async def _read_session(self, session_id: str, deadline: Deadline) -> session_pb2.Session:
        request = pb.GetSessionRequest(name=session_name(session_id))
        answer: pb.GetSessionResponse = await self._fleet.invoke(
            methods.GET_SESSION, request, deadline, way=self._fleet.route(session_id)
        )
        return answer.session

    async def models(self, *, timeout_s: float | None = None) -> list[ModelInfo]:
        """All models, every version of each, ordered by name and version."""
        found: list[ModelInfo] = []
        token = ""
        deadline = self._fleet.deadline(timeout_s)
        way = self._fleet.anywhere()
        while True:
            request = model_service_pb2.ListModelsRequest(page_size=PAGE_SIZE, page_token=token)
            answer: model_service_pb2.ListModelsResponse = await self._fleet.invoke(
                methods.LIST_MODELS, request, deadline, way=way
            )
            found.extend(info_from_proto(model) for model in answer.models)
            token = answer.next_page_token
            if not token:
                return found

    async def sessions(
        self,
        *,
        model: str | None = None,
        limit: int | None = None,
        order_by: str | None = None,
        id_contains: str = "",
        timeout_s: float | None = None,
    ) -> list[SessionInfo]:
        """The sessions, ordered by id. Of several replicas one is asked: all see those of the store that they share.

        Args:
            model: only those of this model, or of this version of it; None: all.
            limit: at most so many; None: all that the server has.
            order_by: ``steps_per_second``, ``step_count``, ``last_used_time`` or ``create_time``, the least first, or
                the greatest with ``desc`` behind it: ``"steps_per_second desc"``. These are sessions that the replica
                which is asked has in memory, 1000 at most; rates are known from the second asking on, a second after
                the first. None: by id.
            id_contains: only those whose id has this in it.

        Raises:
            FieldInvalidError: a limit below 1.
        """
        if limit is not None and limit < 1:
            raise FieldInvalidError(f"limit: expected at least 1, or None; got {limit!r}")
        found: list[SessionInfo] = []
        token = ""
        deadline = self._fleet.deadline(timeout_s)
        way = self._fleet.anywhere()
        while True:
            left = PAGE_SIZE if limit is None else limit - len(found)
            request = pb.ListSessionsRequest(
                page_size=min(left, PAGE_SIZE),
                page_token=token,
                model="" if model is None else resource_name(model),
                order_by=order_by or "",
                id_contains=id_contains,
            )
            answer: pb.ListSessionsResponse = await self._fleet.invoke(
                methods.LIST_SESSIONS, request, deadline, way=way
            )
            found.extend(session_info_from_proto(session) for session in answer.sessions)
            token = answer.next_page_token
            if not token or (limit is not None and len(found) >= limit):
                return found

    async def delete_session(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Ends a session.

        Raises:
            SessionNotFoundError: there is none.
        """
        request = pb.DeleteSessionRequest(name=session_name(session_id), request_id=new_request_id())
        await self._fleet.invoke(
            methods.DELETE_SESSION, request, self._fleet.deadline(timeout_s), way=self._fleet.route(session_id)
        )

    async def close(self) -> None:
        """Closes the connection; what is under way is cancelled. Sessions stay on the server."""
        await self._fleet.close()

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
