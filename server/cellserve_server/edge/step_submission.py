"""From the columns of a Steps into the engine: as one block what can be, as runs of their own what is special."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from cellserve.errors import CellServeError, FieldInvalidError, StoreUnavailableError, UnavailableError
from cellserve.tensors import Array
from cellserve.v1 import stream_pb2
from cellserve_server.edge.handles import Handle
from cellserve_server.edge.stream_answers import PendingSteps
from cellserve_server.edge.stream_groups import Group
from cellserve_server.engine.blocks import StepBlock, admissible
from cellserve_server.engine.runs import Run
from cellserve_server.keeping.operations import SessionOperations
from cellserve_server.keys import Client
from cellserve_server.sessions.session import Session

# Up to so many elements it is quicker to take them one by one than to have numpy look at what holds them.
FEW = 32

Absent: TypeAlias = Mapping[int, CellServeError]
NOBODY: Absent = MappingProxyType({})


class _Columns:
    """The columns of a Steps as arrays, one element a position."""

    def __init__(self, request: stream_pb2.Steps, now: float) -> None:
        count = len(request.handles)
        self.handles = _array(request.handles, np.int64)
        self.expected_steps = _column(request.expected_steps, count, -1, np.int64)
        self.run_ids = _column(request.run_ids, count, 0, np.uint64)
        self.deadlines: Array | None = None
        if request.timeouts_ms:
            timeouts = _array(request.timeouts_ms, np.float64)
            self.deadlines = timeouts / 1000 + now
            self.deadlines[timeouts == 0] = np.inf


class StepSubmission:
    """Submits the steps of one stream.

    Args:
        operations: the sessions and the engine.
        client: whose stream it is, for fairness between clients.
    """

    def __init__(self, operations: SessionOperations, client: Client) -> None:
        self._operations = operations
        self._engine = operations.engine
        self._client = client

    def at_once(self, group: Group, request: stream_pb2.Steps, inputs: Sequence[Array]) -> stream_pb2.Stepped | None:
        """The answer to a message of one step that can be done here and now; None: it is to be submitted."""
        (handle,) = request.handles
        if handle not in group.handles or not group.columns.are_valid(inputs):
            return None
        session, _, life = group.handles.get(handle)
        expected_step = request.expected_steps[0] if request.expected_steps else -1
        if expected_step < -1:
            return None
        run_id = request.run_ids[0] if request.run_ids else 0
        done = self._engine.step_at_once(
            session, life, [array[0] for array in inputs], None if expected_step == -1 else expected_step, run_id
        )
        if done is None:
            return None
        step_count, outputs = done
        return stream_pb2.Stepped(
            seq=request.seq, group=request.group, step_counts=(step_count,), outputs=group.columns.encode(outputs)
        )

    async def bring_back(self, group: Group, handles: Sequence[int]) -> Absent:
        """Brings sessions back that have left memory for the store since their handles were opened.

        Returns:
            By handle, why those that did not come back are not to be had.
        """
        if not self._engine.is_serving:
            return NOBODY  # Their steps are refused anyway; a server that stops brings nothing more.
        if not self._operations.keeper.may_depart:
            return NOBODY
        sessions = self._operations.sessions
        wanted: dict[int, Handle] = {}
        for handle in group.absent(handles):
            known = group.handles.get(handle)
            if sessions.resident(known.session.key) is not known.session:
                wanted[handle] = known
        if not wanted:
            return NOBODY
        keys = list(dict.fromkeys(known.session.key for known in wanted.values()))
        try:
            outcomes = await self._operations.keeper.find([(key, "") for key in keys])
        except StoreUnavailableError as error:
            return dict.fromkeys(wanted, error)
        found = dict(zip(keys, outcomes, strict=True))
        absent: dict[int, CellServeError] = {}
        for handle, (session, uid, _) in wanted.items():
            outcome = found[session.key]
            if isinstance(outcome, Session) and outcome.uid != uid:
                outcome = sessions.not_found(session.key, uid)
            try:
                group.take(session.key.id, handle, outcome)
            except CellServeError as error:
                absent[handle] = error
        return absent

    def submit(
        self,
        group: Group,
        request: stream_pb2.Steps,
        inputs: Sequence[Array],
        pending: PendingSteps,
        absent: Absent = NOBODY,
    ) -> None:
        """Submits every position; ``pending`` is told what becomes of each.

        A session that comes twice is stepped twice, in the order of the positions; then, and for whatever else is not
        a plain next step, positions are submitted one by one.

        Args:
            inputs: one ``[positions, rows, ...]`` for each input of the model, of the right sizes.
            absent: as ``bring_back`` gave it.
        """
        now = self._engine.clock()
        columns = _Columns(request, now)
        count = len(columns.handles)
        good = np.zeros(count, dtype=bool)
        # A message of one step is nothing to make a block of: a run is lighter.
        if count > 1 and self._engine.is_serving and group.columns.are_valid(inputs):
            index, lives = group.handles.look_up(columns.handles)
            good = admissible(group.seats, index, lives, columns.expected_steps, columns.run_ids, now)
            if not _are_distinct(index[good]):
                good[:] = False  # A session twice, be it under two handles: one by one, in the order of the positions.
            good_count = np.count_nonzero(good)
            if good_count:
                chosen = slice(None) if good_count == count else np.flatnonzero(good)
                self._submit_block(group, inputs, columns, index, lives, chosen, pending)
            if good_count == count:
                return
        for position in np.flatnonzero(~good).tolist() if absent else ():
            if (error := absent.get(int(columns.handles[position]))) is not None:
                good[position] = True  # As far as it goes: it is answered.
                pending.fail(position, error)
        self._submit_runs(group, inputs, columns, np.flatnonzero(~good).tolist(), pending)

    def _submit_block(
        self,
        group: Group,
        inputs: Sequence[Array],
        columns: _Columns,
        index: Array,
        lives: Array,
        chosen: slice | Array,
        pending: PendingSteps,
    ) -> None:
        picked = [array[chosen] for array in inputs]
        block = StepBlock(
            group.seats,
            index=index[chosen],
            lives=lives[chosen],
            inputs=picked,
            run_ids=columns.run_ids[chosen],
            digests=group.columns.digests(picked),
            deadlines=None if columns.deadlines is None else columns.deadlines[chosen],
            positions=np.arange(len(index))[chosen],
            sink=pending,
            client=self._client,
            step_bytes=group.columns.run_bytes,
        )
        pending.add_block(block)
        self._engine.submit_block(block, group.model)

    def _submit_runs(
        self,
        group: Group,
        inputs: Sequence[Array],
        columns: _Columns,
        positions: Sequence[int],
        pending: PendingSteps,
    ) -> None:
        for number, position in enumerate(positions):
            try:
                run = self._run_of(group, [array[position][:, np.newaxis] for array in inputs], columns, position)
                run.on_done = partial(pending.finish, position)
                pending.add_run(position, run)
                self._engine.submit(run, has_room=True)
            except UnavailableError as error:
                # The others would be refused too; and were one not, it would overtake a step before it.
                for rest in positions[number:]:
                    pending.fail(rest, error)
                return
            except CellServeError as error:
                pending.fail(position, error)

    def _run_of(self, group: Group, inputs: Sequence[Array], columns: _Columns, position: int) -> Run:
        group.columns.check(inputs, position)
        session, uid, _ = group.handles.get(int(columns.handles[position]))
        sessions = self._operations.sessions
        if sessions.resident(session.key) is not session:
            raise sessions.ended_error(session)
        sessions.check_life(session, uid)
        deadline = np.inf if columns.deadlines is None else columns.deadlines[position]
        return Run(
            group.model,
            inputs,
            rows=group.rows,
            session=session,
            uid=uid,
            expected_step=_expected_step_of(int(columns.expected_steps[position])),
            run_id=int(columns.run_ids[position]),
            deadline=None if np.isinf(deadline) else float(deadline),
            client=self._client,
        )


def _array(values: Sequence[int], dtype: type[np.int64] | type[np.uint64] | type[np.float64]) -> Array:
    return np.fromiter(values, dtype, len(values)) if len(values) <= FEW else np.array(values, dtype=dtype)


def _column(values: Sequence[int], count: int, default: int, dtype: type[np.int64] | type[np.uint64]) -> Array:
    return _array(values, dtype) if values else np.full(count, default, dtype=dtype)


def _are_distinct(seats: Array) -> bool:
    ordered = np.sort(seats)
    return not np.count_nonzero(ordered[1:] == ordered[:-1])


def _expected_step_of(value: int) -> int | None:
    if value < -1:
        raise FieldInvalidError(f"expected_steps: expected -1 (not checked) or more; got {value}")
    return None if value == -1 else value
