"""The groups of a stream: one model version and one batch size each, and sessions by handle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from google.rpc import error_details_pb2, status_pb2

from cellserve.errors import (
    DOMAIN,
    CellServeError,
    FieldInvalidError,
    QuotaExceededError,
    shown,
    status_of,
)
from cellserve.specs import array_spec_to_proto
from cellserve.v1 import stream_pb2
from cellserve_server.config import ServerConfig
from cellserve_server.edge.columns import StepColumns
from cellserve_server.edge.encoding import ANSWER_OVERHEAD_BYTES
from cellserve_server.edge.fields import batch_size_of, require_steppable, seconds_of, session_id_of
from cellserve_server.edge.handles import Handle, Handles
from cellserve_server.edge.refusals import Refusals
from cellserve_server.keeping.keeper import Outcome
from cellserve_server.keeping.model_finder import ModelFinder
from cellserve_server.keeping.operations import SessionOperations
from cellserve_server.keys import SessionKey
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.seats import FLAGS, LIFE, NEEDED, Seats
from cellserve_server.sessions.session import Session

# What a name takes in an Opened at most: a uid and a step count, or an error cut to its reason.
OPENED_BYTES_PER_NAME = 128
# Names that are opened in one go: then the event loop gets its turn.
NAMES_PER_TURN = 500


class Group:
    """One group.

    Attributes:
        model: the version that all its sessions are of.
        batch_size: of all its sessions.
        columns: how a step of many of them lies in bytes.
        seats: where the states of sessions of this model and batch size are.
        handles: the sessions by handle.
    """

    def __init__(
        self, model: LoadedModel, asked_as: str, batch_size: int, seats: Seats[Session], max_handles: int
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self.rows = max(batch_size, 1)
        self.columns = StepColumns(model, self.rows)
        self.seats = seats
        self.handles = Handles(max_handles)
        self._names = {asked_as, model.resource_name}

    def require_same(self, model: str, batch_size: int) -> None:
        """Refuses to add sessions of another model or batch size.

        Raises:
            FieldInvalidError: naming the field.
        """
        if model and model not in self._names:
            raise FieldInvalidError(f"model: the group is of {self.model.resource_name}; got {shown(model)}")
        if batch_size != self.batch_size:
            raise FieldInvalidError(f"batch_size: the group's is {self.batch_size}; got {batch_size}")

    def absent(self, handles: Sequence[int]) -> list[int]:
        """Those of some handles whose sessions are not in the life, or not at the seat, that they were opened in.

        If there are any, the others stay in memory while these are brought back.
        """
        wanted = np.array(handles, dtype=np.int64)
        index, lives = self.handles.look_up(wanted)
        gone = (lives != self.seats.column(LIFE, index)) | (index < 0)
        if not np.count_nonzero(gone):
            return []
        self.seats.records[index[~gone], FLAGS] |= NEEDED
        return [handle for handle in dict.fromkeys(wanted[gone].tolist()) if handle in self.handles]

    def take(self, name: str, handle: int, outcome: Outcome) -> Session:
        """Has a handle stand for a session that was found, or made.

        Raises:
            CellServeError: why it was not, or that it is of another model or batch size.
        """
        if isinstance(outcome, CellServeError):
            raise outcome
        assert not outcome.ended, "a session that has ended has no seat"
        if outcome.model is not self.model:
            raise FieldInvalidError(
                f"names: expected sessions of {self.model.resource_name}; {name} is of {outcome.model.resource_name}"
            )
        if outcome.batch_size != self.batch_size:
            raise FieldInvalidError(
                f"batch_size: {name} was made with {outcome.batch_size}; got {self.batch_size}",
                metadata={"session": outcome.key.id, "batch_size": str(outcome.batch_size)},
            )
        self.handles.open(handle, outcome)
        return outcome


class Groups:
    """All groups of a stream.

    Args:
        tenant: whose stream it is.
        config: the limits.
        models: where models are found.
        operations: where sessions are made.
        refusals: told of the names that cannot be opened.
    """

    def __init__(
        self,
        tenant: str,
        config: ServerConfig,
        models: ModelFinder,
        operations: SessionOperations,
        refusals: Refusals,
    ) -> None:
        self._tenant = tenant
        self._config = config
        self._models = models
        self._operations = operations
        self._refusals = refusals
        self._groups: dict[int, Group] = {}
        self._handles_in_use = 0

    def get(self, number: int) -> Group:
        """A group.

        Raises:
            FieldInvalidError: there is none of that number.
        """
        group = self._groups.get(number)
        if group is None:
            raise FieldInvalidError(
                f"group: expected one that was opened on this stream; got {number}", metadata={"field": "group"}
            )
        return group

    async def open(self, request: stream_pb2.Open) -> stream_pb2.Opened:
        """Makes a group or adds to it. Errors of single names are in the answer; ticks go on meanwhile.

        Raises:
            CellServeError: the request is refused as a whole and nothing was opened.
        """
        self._check_columns(request)
        ttl_s = seconds_of(request.ttl, self._config.max_ttl_s, "ttl") if request.HasField("ttl") else None
        group = await self._group_for(request)
        opened = stream_pb2.Opened(
            seq=request.seq,
            group=request.group,
            model=group.model.resource_name,
            inputs=[array_spec_to_proto(spec) for spec in group.model.inputs],
            outputs=[array_spec_to_proto(spec) for spec in group.model.outputs],
        )
        names, handles = list(request.names), list(request.handles)
        uids, step_counts = [""] * len(names), [0] * len(names)
        # As many as memory has room for: were there more, the last ones would send the first ones away again.
        most = min(NAMES_PER_TURN, self._config.max_sessions)
        for start in range(0, len(names), most):
            span = slice(start, start + most)
            outcomes = await self._open_some(group, request, names[span], handles[span], ttl_s)
            for position, outcome in enumerate(outcomes, start):
                if isinstance(outcome, CellServeError):
                    self._refusals.note(outcome)
                    opened.errors.add(position=position, status=status_of(outcome))
                else:
                    uids[position], step_counts[position] = outcome.uid, outcome.step_count
                    outcome.need(False)
            await asyncio.sleep(0)
        opened.uids.extend(uids)
        opened.step_counts.extend(step_counts)
        if opened.ByteSize() > self._config.max_message_bytes:
            _shorten_errors(opened)
        return opened

    def close(self, request: stream_pb2.Close) -> list[Handle]:
        """Forgets handles, or the whole group, and gives the sessions that were under them.

        Raises:
            FieldInvalidError: an unknown group or handle; then nothing was closed.
        """
        group = self.get(request.group)
        if not request.handles:
            del self._groups[request.group]
            self._handles_in_use -= len(group.handles)
            return group.handles.values()
        handles = dict.fromkeys(request.handles)
        for handle in handles:
            if handle not in group.handles:
                raise FieldInvalidError(f"handles: {handle} is not in use in group {request.group}")
        self._handles_in_use -= len(handles)
        return [group.handles.close(handle) for handle in handles]

    def _check_columns(self, request: stream_pb2.Open) -> None:
        names, handles = request.names, request.handles
        most = max(1, (self._config.max_message_bytes - ANSWER_OVERHEAD_BYTES) // OPENED_BYTES_PER_NAME)
        if len(names) > most:
            raise FieldInvalidError(
                f"names: expected at most {most} in one Open, so that its answer fits; got {len(names)}",
                metadata={"field": "names", "limit": str(most)},
            )
        if len(handles) != len(names):
            raise FieldInvalidError(f"handles: expected {len(names)}, one for each name; got {len(handles)}")
        _require_distinct(names, "names")
        _require_distinct(handles, "handles")
        if self._handles_in_use + len(handles) > self._config.max_stream_handles:
            raise QuotaExceededError(
                f"handles: expected at most {self._config.max_stream_handles} on one stream (max_stream_handles); "
                f"{self._handles_in_use} are in use and {len(handles)} more were asked for",
                metadata={"quota": "max_stream_handles", "limit": str(self._config.max_stream_handles)},
            )

    async def _group_for(self, request: stream_pb2.Open) -> Group:
        batch_size = batch_size_of(request.batch_size, self._config, "batch_size")
        group = self._groups.get(request.group)
        if group is not None:
            group.require_same(request.model, batch_size)
            return group
        if len(self._groups) >= self._config.max_stream_groups:
            raise QuotaExceededError(
                f"group: expected at most {self._config.max_stream_groups} on one stream (max_stream_groups)",
                metadata={"quota": "max_stream_groups", "limit": str(self._config.max_stream_groups)},
            )
        model = await self._models.resolve(self._tenant, request.model)
        require_steppable(model, "a stream of steps")
        seats = self._operations.engine.lanes[model].seats(max(batch_size, 1))
        group = Group(model, request.model, batch_size, seats, self._config.max_stream_handles)
        most = self._config.max_message_bytes - ANSWER_OVERHEAD_BYTES
        if group.columns.output_bytes > most:
            raise FieldInvalidError(
                f"batch_size: a step's outputs would take {group.columns.output_bytes} bytes; expected at most {most} "
                "(max_message_bytes): use a smaller batch size"
            )
        self._groups[request.group] = group
        return group

    async def _open_some(
        self, group: Group, request: stream_pb2.Open, names: Sequence[str], handles: Sequence[int], ttl_s: float | None
    ) -> list[Outcome]:
        """Opens names under handles; for each the session, or why it is not opened."""
        keys: dict[int, SessionKey] = {}
        outcomes: dict[int, Outcome] = {}
        for place, (name, handle) in enumerate(zip(names, handles, strict=True)):
            try:
                keys[place] = SessionKey(self._tenant, session_id_of(name, "names"))
                if handle in group.handles:
                    raise FieldInvalidError(f"handles: {handle} is in use in group {request.group} already")
            except CellServeError as error:
                keys.pop(place, None)
                outcomes[place] = error
        found = await self._operations.open(
            list(keys.values()), group.model, group.batch_size, ttl_s, create=request.create_if_missing
        )
        for place, outcome in zip(keys, found, strict=True):
            try:
                outcomes[place] = group.take(names[place], handles[place], outcome)
                self._handles_in_use += 1
            except CellServeError as error:
                outcomes[place] = error
        return [outcomes[place] for place in range(len(names))]


def _require_distinct(values: Sequence[object], field: str) -> None:
    if len(set(values)) == len(values):
        return
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise FieldInvalidError(f"{field}: expected each once; got {shown(str(value))} twice")
        seen.add(value)


def _shorten_errors(opened: stream_pb2.Opened) -> None:
    """Leaves code and reason of each error: so many of them do not fit into a message with their texts."""
    info = error_details_pb2.ErrorInfo()
    for error in opened.errors:
        short = status_pb2.Status(code=error.status.code)
        if error.status.details and error.status.details[0].Unpack(info):
            short.details.add().Pack(error_details_pb2.ErrorInfo(reason=info.reason, domain=DOMAIN))
        error.status.CopyFrom(short)
