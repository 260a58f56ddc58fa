"""Many sessions stepped by one array, for asyncio: no Python work for each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration

from cellserve.errors import (
    CellServeError,
    FieldInvalidError,
    GroupStepError,
    SessionNotFoundError,
    StateRolledBackError,
    StepOutOfOrderError,
)
from cellserve.tensors import Array
from cellserve.v1 import recurrent_service_pb2 as pb
from cellserve.v1 import session_pb2
from cellserve_client import methods
from cellserve_client.arrays import Inputs, Outputs, as_inputs, as_outputs
from cellserve_client.deadlines import Deadline, held
from cellserve_client.definitions import duration
from cellserve_client.fleet import Fleet
from cellserve_client.groups.members import GroupMembers
from cellserve_client.groups.opening import GroupPart, another_life
from cellserve_client.groups.parts import GroupParts
from cellserve_client.groups.run import APPLIED, REFUSED, UNANSWERED, UNKNOWN, GroupRun
from cellserve_client.ids import new_session_id
from cellserve_client.models import ModelInfo
from cellserve_client.opening import close_after
from cellserve_client.session_info import SESSIONS_PREFIX, checked_batch_size, session_name
from cellserve_client.streaming.columns import StepColumns

# From so many positions on a step is cut in two, so that client and server work at the same time.
HALVED_FROM = 512
# How long the stream is waited for to tell what became of a lost step, before the server is asked.
PATIENCE_S = 0.2
# Requests at once that ask what became of lost steps.
ASKING_AT_ONCE = 64


class SessionGroup:
    """Sessions of one model that are stepped together.

    Each has an index, which stays its own until it leaves. Calls may be made by many coroutines; they are applied in
    the order in which they were made. Every step is applied once, as a ``Session``'s is.

    Attributes:
        model: the model version that they run on.
        batch_size: the rows of each; None: one row without a batch dimension.
    """

    def __init__(self, fleet: Fleet, model: ModelInfo, batch_size: int | None, ttl: Duration | None) -> None:
        self.model = model
        self.batch_size = batch_size
        self._fleet = fleet
        self._columns = StepColumns(model, batch_size)
        limit = min(model.limits.max_message_bytes, fleet.max_message_bytes)
        # A single step that is too large is sent all the same: the server's refusal says what its limit is.
        self._chunk = max(self._columns.max_positions(limit), 1)
        self._members = GroupMembers()
        self._parts = GroupParts(fleet, model, batch_size, ttl, self._members)
        self._turn = asyncio.Lock()
        self._lost: list[GroupRun] = []
        self._ended = ""

    def __len__(self) -> int:
        """How many members there are."""
        return len(self._members)

    @property
    def members(self) -> Array:
        """The indices of all members, ascending, int64: the order of rows when ``step`` is not told another."""
        return self._members.indices().copy()

    @property
    def ids(self) -> list[str]:
        """The sessions' ids, in the order of ``members``."""
        return self._members.ids_of(self._members.indices())

    @property
    def step_counts(self) -> Array:
        """The steps that each has applied, as far as this client knows, in the order of ``members``; int64."""
        counts: Array = self._members.step_counts[self._members.indices()]
        return counts

    async def step(
        self, inputs: Inputs, *, members: npt.ArrayLike | None = None, timeout_s: float | None = None
    ) -> Outputs:
        """One step of all members, or of some.

        Args:
            inputs: ``[n, input_size]``, or ``[n, batch_size, input_size]`` for a group with a batch size; a row for
                each member.
            members: the indices of those to step, each once, in the order of the rows; None: all, ascending.
            timeout_s: how long it may take, waiting for earlier calls and retries included; None: the connection's.

        Returns:
            The outputs, ``[n, units]`` or ``[n, batch_size, units]``.

        Raises:
            GroupStepError: some members were not stepped, or it is not known whether; all others were.
            DeadlineExceededError, UnavailableError: it is not known which were stepped; the next step finds out.
            ShapeMismatchError, DtypeMismatchError, FieldInvalidError: nothing was sent.
        """
        self._require_not_ended()
        deadline = self._fleet.deadline(timeout_s)
        arrays = as_inputs(inputs, self.model.inputs)
        named = None if members is None else self._members.chosen(members)
        snapshot = self._columns.pack_many(arrays, len(self._members) if named is None else len(named))
        async with held(self._turn, deadline, "session group"):
            self._require_not_ended()
            chosen = self._members.chosen(named)
            if len(chosen) != len(snapshot[0]):
                raise FieldInvalidError("members: some have joined or left while the step waited for its turn")
            errors = await self._settle(chosen, deadline)
            run = await self._run(chosen, snapshot, errors, deadline)
            return self._result(run, errors)

    async def _run(
        self, chosen: Array, snapshot: list[Array], errors: dict[int, CellServeError], deadline: Deadline
    ) -> GroupRun:
        """Steps the chosen members; ``errors`` has those that cannot be, and gets those that were not."""
        usable = None
        if errors:
            usable = np.array([index not in errors for index in chosen.tolist()], bool)
            if not usable.any():
                return GroupRun(self._columns, chosen, self._members.step_counts[chosen], snapshot, self._chunk)
        indices = chosen if usable is None else chosen[usable]
        inputs = snapshot if usable is None else [column[usable] for column in snapshot]
        run = await self._execute(indices, inputs, deadline)
        again = await self._were_lost_runs(run, deadline)
        if again.size:
            repeated = await self._execute(run.members[again], [column[again] for column in inputs], deadline)
            run.take_over(again, repeated)
        errors.update((int(run.members[position]), error) for position, error in run.errors.items())
        return run if usable is None else run.spread(chosen, np.flatnonzero(usable))

    async def _execute(self, indices: Array, inputs: list[Array], deadline: Deadline) -> GroupRun:
        half = -(-len(indices) // 2) if len(indices) >= HALVED_FROM else len(indices)
        chunk = min(self._chunk, max(half, 1))
        run = GroupRun(self._columns, indices, self._members.step_counts[indices], inputs, chunk)

        async def send(part: GroupPart, positions: Array) -> dict[int, CellServeError]:
            return await self._send(run, part, positions, deadline)

        try:
            async with asyncio.timeout(max(deadline.remaining_s(), 0.0)):
                failed = await self._parts.each(indices, send, deadline)
        except TimeoutError:
            self._lose(run)
            raise self._fleet.too_late(deadline.timeout_s) from None
        except BaseException:
            self._lose(run)
            raise
        run.fail(np.array(sorted(failed), np.int64), failed)
        self._absorb(run)
        return run

    async def _send(
        self, run: GroupRun, part: GroupPart, positions: Array, deadline: Deadline
    ) -> dict[int, CellServeError]:
        """Sends some positions of a run to one place. Returns why some of them failed."""
        stream, closed = await part.ready(run.members[positions], deadline)
        errors: dict[int, CellServeError] = {}
        if closed:
            by_index = dict(zip(run.members[positions].tolist(), positions.tolist(), strict=True))
            errors = {by_index[index]: error for index, error in closed.items()}
            positions = np.setdiff1d(positions, list(errors))
        broken = await run.send(stream, part.number, positions, deadline, self._fleet.tracing)
        if broken is not None:
            errors.update(dict.fromkeys(run.unanswered(positions).tolist(), broken))
        if run.errors:
            errors.update((position, run.errors[position]) for position in positions.tolist() if position in run.errors)
        return errors

    def _result(self, run: GroupRun, errors: dict[int, CellServeError]) -> Outputs:
        outputs = as_outputs(run.outputs, self.model.outputs)
        if not errors:
            return outputs
        applied = run.outcome == APPLIED
        if not applied.any() and len(errors) == len(run.members) and len({id(error) for error in errors.values()}) == 1:
            raise next(iter(errors.values()))  # There is one reason for all, such as a server that is away.
        raise GroupStepError(errors, outputs, applied)

    # --- what is not known ----------------------------------------------------------------------------------------

    def _lose(self, run: GroupRun) -> None:
        run.give_up()
        self._lost.append(run)

    def _absorb(self, run: GroupRun) -> None:
        """Takes over what is known of a run that is over, and notes what is not."""
        applied = run.outcome == APPLIED
        if applied.all():
            self._members.step_counts[run.members] = run.step_counts
            return
        self._roll_back(run)
        self._members.step_counts[run.members[applied]] = run.step_counts[applied]
        for position in np.flatnonzero((run.outcome == UNKNOWN) | (run.outcome == UNANSWERED)).tolist():
            self._members.unsettled[int(run.members[position])] = int(run.run_ids[position])

    def _roll_back(self, run: GroupRun) -> None:
        """Takes over the step counts of members whose last steps a server has lost: they were not stepped now."""
        for position, error in run.errors.items():
            if isinstance(error, StateRolledBackError) and error.step_count >= 0:
                index = int(run.members[position])
                self._members.step_counts[index] = error.step_count
                if run.outcome[position] == UNKNOWN:
                    self._members.doubted[index] = int(run.run_ids[position])
                    run.outcome[position] = REFUSED

    async def _settle(self, chosen: Array, deadline: Deadline) -> dict[int, CellServeError]:
        """Learns what became of lost steps of these members. Returns those that cannot be stepped, and why."""
        for run in self._lost:  # Who gives up here leaves them to the next one.
            await run.wait_quiet(min(PATIENCE_S, max(deadline.remaining_s(), 0.0)))
        lost, self._lost = self._lost, []
        for run in lost:
            if run.quiet:
                run.not_applied()
            self._absorb(run)
        known = self._members
        errors = dict(known.absent)
        if known.unsettled:
            open_ = [index for index in chosen.tolist() if index in known.unsettled and index not in errors]
            asked = zip(open_, await self._ask_all(open_, deadline), strict=True)
            errors.update((index, error) for index, error in asked if error is not None)
        if not errors:
            return errors
        named = set(chosen.tolist())
        return {index: error for index, error in errors.items() if index in named}

    async def _ask_all(self, indices: Sequence[int], deadline: Deadline) -> list[CellServeError | None]:
        seats = asyncio.Semaphore(ASKING_AT_ONCE)

        async def ask(index: int) -> CellServeError | None:
            async with seats:
                return await self._ask(index, deadline)

        return await asyncio.gather(*(ask(index) for index in indices))

    async def _ask(self, index: int, deadline: Deadline) -> CellServeError | None:
        """Asks the server what became of a member's lost step. Returns why the member cannot be stepped, if so."""
        known = self._members
        try:
            session = await self._read(index, deadline)
        except SessionNotFoundError as error:
            known.absent[index] = error
            return error
        except CellServeError as error:
            return error
        before, run_id = int(known.step_counts[index]), known.unsettled[index]
        if hash(session.uid) != known.lives[index]:
            return another_life(known.id_of(index))
        if session.step_count == before:
            known.doubted[index] = run_id
        elif session.step_count == before + 1 and session.last_run_id == run_id:
            known.step_counts[index] = session.step_count
        elif session.step_count < before:
            # In one life nobody's steps go backwards: what was answered has been lost in a crash.
            known.step_counts[index] = session.step_count
            del known.unsettled[index]
            return StateRolledBackError(
                f"session {known.id_of(index)!r}: {before} steps were applied, and the server has lost the last of "
                f"them: it is at {session.step_count}; feed them again from there",
                metadata={"expected_step": str(before), "step_count": str(session.step_count)},
            )
        else:
            return StepOutOfOrderError(
                f"session {known.id_of(index)!r}: expected step {before}, or {before + 1} after a request that was not "
                f"answered; the server is at {session.step_count}, by somebody else's steps",
                metadata={"expected_step": str(before), "step_count": str(session.step_count)},
            )
        del known.unsettled[index]
        return None

    async def _were_lost_runs(self, run: GroupRun, deadline: Deadline) -> Array:
        """The positions refused for their step number because a lost step was applied after the server was asked."""
        known, found = self._members, []
        for position, error in run.errors.items():
            index = int(run.members[position])
            run_id = known.doubted.get(index)
            if run_id is None or not isinstance(error, StepOutOfOrderError):
                continue
            session = await self._read(index, deadline)
            is_next = session.step_count == known.step_counts[index] + 1
            if hash(session.uid) == known.lives[index] and session.last_run_id == run_id and is_next:
                known.step_counts[index] = session.step_count
                del known.doubted[index]
                found.append(position)
        return np.array(found, np.int64)

    async def _read(self, index: int, deadline: Deadline) -> session_pb2.Session:
        id_ = self._members.id_of(index)
        request = pb.GetSessionRequest(name=SESSIONS_PREFIX + id_)
        answer: pb.GetSessionResponse = await self._fleet.invoke(
            methods.GET_SESSION, request, deadline, way=self._fleet.route(id_), model=self.model.resource_name
        )
        return answer.session

    # --- joining and leaving --------------------------------------------------------------------------------------

    async def add(
        self, count: int | None = None, *, ids: Sequence[str] | None = None, timeout_s: float | None = None
    ) -> Array:
        """Sessions join: so many new ones, or those of these ids, which are made where they are not there.

        Args:
            timeout_s: for the whole; None: the connection's timeout for each message of some thousand.

        Returns:
            Their indices, int64, in their order. Those of members that have left may be given again.

        Raises:
            CellServeError: why the first one could not join; then none has.
        """
        self._require_not_ended()
        names = _checked_ids(count, ids)
        deadline = self._fleet.deadline(timeout_s)
        async with held(self._turn, deadline, "session group"):
            self._require_not_ended()
            if ids is not None and not set(ids).isdisjoint(self.ids):
                raise FieldInvalidError("ids: expected sessions that are no members yet; got one that is")
            return await self._join(names, timeout_s, is_new=ids is None)

    async def _join(self, ids: list[str], timeout_s: float | None, *, is_new: bool) -> Array:
        """Opens sessions, which are made where they are not there, and makes them members. Returns their indices.

        Args:
            is_new: the ids were made up here: when one of the sessions cannot be made the others are deleted again.
        """
        members, deadline = self._members, self._fleet.deadline(timeout_s)
        indices = members.reserve(ids)
        self._parts.spread.put(indices, ids)

        async def open_(part: GroupPart, positions: Array) -> dict[int, CellServeError]:
            # A stream that breaks has opened some of them perhaps: the same names are opened on the next one.
            failed = await part.open(part.stream(), indices[positions], deadline, create=True, each_s=timeout_s is None)
            return {int(positions[position]): error for position, error in failed.items()}

        joined = False
        try:
            failed = await self._parts.each(indices, open_, deadline)
            if failed:
                first = failed[min(failed)]
                first.add_note(f"{len(failed)} of {len(ids)} sessions could not join the group; so none has")
                raise first
            members.join(indices)
            joined = True
        finally:
            if not joined:
                self._parts.release(indices, delete=is_new)
                members.leave(indices)
        return indices

    async def remove(self, members: npt.ArrayLike, *, delete: bool = True, timeout_s: float | None = None) -> None:
        """Members leave; the indices of the others stay what they are.

        Args:
            members: their indices.
            delete: whether their sessions are deleted on the server.
        """
        self._require_not_ended()
        deadline = self._fleet.deadline(timeout_s)
        async with held(self._turn, deadline, "session group"):
            self._require_not_ended()
            indices = self._members.chosen(members)
            if indices.size:
                await self._settle(indices, deadline)  # Their indices may be others' by the time that it is known.
                await self._close(indices, delete, deadline)
                self._members.leave(indices)

    async def close(self, *, timeout_s: float | None = None) -> None:
        """Deletes all sessions on the server. That they are gone already, or closed or detached here, is no error."""
        deadline = self._fleet.deadline(timeout_s)
        async with held(self._turn, deadline, "session group"):
            if self._ended:
                return
            await self._close(self._members.indices(), True, deadline)
            self._parts.leave()
            self._ended = "closed"

    async def _close(self, indices: Array, delete: bool, deadline: Deadline) -> None:
        """Gives members back, wherever they are. Those that are gone, or in another life, are left alone."""
        present = np.array([index for index in indices.tolist() if index not in self._members.absent], np.int64)

        async def close(part: GroupPart, positions: Array) -> dict[int, CellServeError]:
            by_index = dict(zip(present[positions].tolist(), positions.tolist(), strict=True))
            errors = await part.close(present[positions], delete, deadline)
            return {
                by_index[index]: error for index, error in errors.items() if not isinstance(error, SessionNotFoundError)
            }

        failed = await self._parts.each(present, close, deadline) if present.size else {}
        if failed:
            raise failed[min(failed)]

    def detach(self) -> list[str]:
        """Leaves the sessions on the server. This object is done with. Returns their ids."""
        if not self._ended:
            self._ended = "detached"
            self._parts.leave()
        return self.ids

    def _require_not_ended(self) -> None:
        if self._ended:
            raise SessionNotFoundError(f"session group: it was {self._ended} by this client")

    async def __aenter__(self) -> SessionGroup:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await close_after(error, self.close, "the session group")


async def create_group(
    fleet: Fleet,
    model: ModelInfo,
    *,
    count: int | None,
    ids: Sequence[str] | None,
    batch_size: int | None,
    ttl_s: float | None,
    timeout_s: float | None,
) -> SessionGroup:
    """Makes a group on a model version; see ``Server.session_group``."""
    fleet.require_kept(model)
    batch_size = checked_batch_size(batch_size)
    group = SessionGroup(fleet, model, batch_size, duration(ttl_s, "ttl_s"))
    if count != 0 or ids is not None:
        await group.add(count, ids=ids, timeout_s=timeout_s)
    return group


def _checked_ids(count: int | None, ids: Sequence[str] | None) -> list[str]:
    if (count is None) == (ids is None):
        raise FieldInvalidError(f"count: expected either a count or ids; got count={count!r} and ids={ids!r}"[:300])
    if ids is not None:
        for id_ in ids:
            session_name(id_)
        if len(set(ids)) != len(ids):
            raise FieldInvalidError("ids: expected each once; got one twice")
        return list(ids)
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise FieldInvalidError(f"count: expected an integer of at least 1; got {count!r}")
    # One random id for all and a number for each: as unique as one for each, and a million take a moment.
    common = new_session_id()
    return [f"{common}-{number}" for number in range(int(count))]
