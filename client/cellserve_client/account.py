"""The client's account of one session: which life of it is meant, how many steps it has taken, whose turn it is.

Every run (a step, or a piece of a sequence) names the session's life (``uid``), the step count that it expects and a
random run id, all of which its retries keep. A session has one unanswered run at a time; later calls wait here. When
a run ends in any way that does not tell that it was refused (a timeout, a cancellation, a lost connection) its outcome
is unknown and the session is *unsettled*: before the next operation the client reads the session's step count and the
id of the last run that was applied, which tell whether the run was. The server answers that reading behind the runs
that came before it. A step that was given up on a stream that is still up is waited for instead: the stream answers it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from google.protobuf.message import Message

from cellserve.errors import (
    DeadlineExceededError,
    SessionNotFoundError,
    StateRolledBackError,
    StepOutOfOrderError,
)
from cellserve.v1 import recurrent_service_pb2 as pb
from cellserve.v1 import session_pb2
from cellserve_client import methods
from cellserve_client.deadlines import Deadline
from cellserve_client.fleet import Fleet
from cellserve_client.methods import Method
from cellserve_client.outcomes import Attempts
from cellserve_client.session_info import SESSIONS_PREFIX
from cellserve_client.streaming.lanes import Lane, LostRun, Outcome

# How long the stream is waited for to tell what became of a lost step, before the server is asked.
PATIENCE_S = 0.2
# Of a session whose steps are given up again and again, so many of the last may still be under way.
MOST_DOUBTED = 16


class _Unsettled(NamedTuple):
    """A request whose outcome is unknown: a run of so many steps, or a change that begins a new life."""

    steps: int
    run_id: int
    repeat: Callable[[Deadline], Awaitable[session_pb2.Session]] | None = None
    lost: LostRun | None = None


class Account:
    """The account of one session. All but ``turn`` and ``end`` is to be used within a turn.

    Attributes:
        lane: the session's place on the stream, with its name, life and step count.
        route: which replica its requests go to.
        model: the model version that it runs on, by name.
        has_to_look: the fleet has changed: the next step looks first whether it goes to another replica.
        is_taken: somebody has the turn.
        is_free: nobody has, nothing is unsettled, and the session steps on the stream: whoever makes this False and
            ``is_taken`` True has the turn and can submit a step without asking anything else.
    """

    def __init__(self, fleet: Fleet, session: session_pb2.Session) -> None:
        self.lane = Lane(session.name, session.uid, session.step_count)
        self.route = fleet.route(session.name.removeprefix(SESSIONS_PREFIX))
        self.model = session.model
        self.has_to_look = False
        self.is_taken = False
        self.is_free = False
        self._waiting: deque[asyncio.Future[None]] | None = None
        self._fleet = fleet
        self._unsettled: _Unsettled | None = None
        self._doubted: list[_Unsettled] = []  # lost runs that were not applied when that was asked; they may come late
        self._ended = ""
        # Held, so that a replica that does not know the model can be told it as long as the session lives.
        self._made_model = fleet.made_models.of(session.model)
        fleet.watch(self)

    def note_changed_fleet(self) -> None:
        """As of ``Watcher``."""
        self.has_to_look = True
        self.is_free = False

    @property
    def id(self) -> str:
        """The session's id."""
        return self.lane.name.removeprefix(SESSIONS_PREFIX)

    @property
    def name(self) -> str:
        """``sessions/{id}``."""
        return self.lane.name

    @property
    def uid(self) -> str:
        """The life of the session that requests name."""
        return self.lane.uid

    @property
    def step_count(self) -> int:
        """The steps applied, as far as is known here."""
        return self.lane.step_count

    @property
    def is_ended(self) -> bool:
        """Whether this client is done with the session."""
        return bool(self._ended)

    def end(self, how: str) -> None:
        """From now on every turn but a closing one is refused, with this word. The first word counts."""
        self._ended = self._ended or how
        self.is_free = False
        self.lane.leave()

    @asynccontextmanager
    async def turn(self, deadline: Deadline, *, closing: bool = False) -> AsyncIterator[None]:
        """Waits until the earlier operations of this session are answered.

        Raises:
            DeadlineExceededError: they were not in time; nothing was sent.
            SessionNotFoundError: the session was closed or detached here.
        """
        await self._take_turn(deadline)
        try:
            if not closing:
                self.require_not_ended()
            yield
        finally:
            self.give_turn_back()

    async def _take_turn(self, deadline: Deadline) -> None:
        if not self.is_taken:
            self.is_free, self.is_taken = False, True
            return
        self._waiting = self._waiting or deque()
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            async with asyncio.timeout(max(deadline.remaining_s(), 0.0)):
                await mine
        except TimeoutError:
            self._pass_on(mine)
            raise DeadlineExceededError(
                f"session {self.id!r}: waited {deadline.timeout_s:g} s for earlier calls on it",
                metadata={"timeout_s": f"{deadline.timeout_s:g}"},
            ) from None
        except BaseException:
            self._pass_on(mine)
            raise

    def _pass_on(self, mine: asyncio.Future[None]) -> None:
        """Whoever waited with this future has given up; a turn that it was just given is the next one's."""
        if mine.done() and not mine.cancelled():
            self.give_turn_back()

    def give_turn_back(self) -> None:
        """The next one in line has the turn."""
        while self._waiting:
            following = self._waiting.popleft()
            if not following.done():
                following.set_result(None)
                return
        self.is_taken = False
        lane = self.lane
        self.is_free = (
            lane.group is not None
            and self._unsettled is None
            and not lane.alone_on
            and not self._ended
            and not self.has_to_look
        )

    def require_not_ended(self) -> None:
        """Raises ``SessionNotFoundError`` when the session was closed or detached here."""
        if self._ended:
            raise SessionNotFoundError(f"session {self.id!r}: it was {self._ended} by this client")

    def lose(self, lost: LostRun) -> None:
        """A step on the stream was given up; what became of it is asked of the stream first, if it is not known yet."""
        verdict = lost.verdict
        if verdict is None or verdict.outcome is Outcome.UNKNOWN:
            self._unsettled = _Unsettled(1, lost.run_id, lost=lost)
        elif verdict.outcome is Outcome.APPLIED:
            self.lane.step_count = verdict.step_count

    async def apply(
        self,
        method: Method,
        request: pb.StepRequest | pb.RunSequenceRequest,
        steps: int,
        deadline: Deadline,
        *,
        may_be_applied: bool = False,
    ) -> Any:
        """Sends a run of so many steps and keeps account of them. Returns the answer.

        Args:
            may_be_applied: it was sent before, without an answer.
        """
        attempts = Attempts(may_be_applied)
        try:
            answer = await self.invoke(method, request, deadline, attempts)
        except StateRolledBackError as error:
            self._note_ambiguous(attempts, steps, request.run_id)
            self.roll_back(error)
            raise
        except StepOutOfOrderError:
            if not attempts.ambiguous and await self.was_lost_run(deadline):
                request.expected_step = self.step_count
                return await self.apply(method, request, steps, deadline)
            self._note_ambiguous(attempts, steps, request.run_id)
            raise
        except BaseException:
            self._note_ambiguous(attempts, steps, request.run_id)
            raise
        self.lane.step_count = answer.step_count
        return answer

    async def invoke(
        self, method: Method, request: Message, deadline: Deadline, attempts: Attempts | None = None
    ) -> Any:
        """Sends a request on this session, wherever that is. Returns the answer."""
        return await self._fleet.invoke(method, request, deadline, attempts, way=self.route, model=self.model)

    def roll_back(self, error: StateRolledBackError) -> None:
        """The server has lost steps: its count is the truth from now on. The run that was told so was not applied."""
        if error.step_count < 0:
            return
        if self._unsettled is not None and self._unsettled.run_id:
            self._doubt(self._unsettled)  # An earlier attempt of it may still be under way.
        self._unsettled = None
        self.lane.step_count = error.step_count

    def _note_ambiguous(self, attempts: Attempts, steps: int, run_id: int) -> None:
        if attempts.ambiguous:
            self._unsettled = _Unsettled(steps, run_id)

    async def change(self, method: Method, request: Message, deadline: Deadline) -> None:
        """Sends what begins a new life of the session (a reset, a new state) and takes it over."""

        async def repeat(later: Deadline) -> session_pb2.Session:
            answer = await self.invoke(method, request, later)
            session: session_pb2.Session = answer.session
            return session

        attempts = Attempts()
        try:
            answer = await self.invoke(method, request, deadline, attempts)
        except BaseException:
            if attempts.ambiguous:
                self._unsettled = _Unsettled(0, 0, repeat)
            raise
        self.adopt(answer.session)

    def adopt(self, session: session_pb2.Session) -> None:
        """Takes the session as the server says it is."""
        lost = self._unsettled
        if session.uid != self.lane.uid:
            self.lane.leave()  # Its handle is one of another life.
            self._doubted = []
        elif lost is not None and session.last_run_id != lost.run_id:
            self._doubt(lost)
        self.lane.uid = session.uid
        self.lane.step_count = session.step_count
        self._unsettled = None

    def _doubt(self, lost: _Unsettled) -> None:
        """A lost run was not applied when that was asked; it may still come."""
        self._doubted = [*self._doubted[1 - MOST_DOUBTED :], lost]

    async def read(self, view: session_pb2.SessionView, deadline: Deadline) -> session_pb2.Session:
        """What the server says the session is, behind the runs that it has taken before."""
        request = pb.GetSessionRequest(name=self.name, view=view)
        answer: pb.GetSessionResponse = await self.invoke(methods.GET_SESSION, request, deadline)
        return answer.session

    async def settle(self, deadline: Deadline, *, steps_matter: bool = True) -> None:
        """Learns what became of a request without an answer, if there is one.

        Raises:
            StateRolledBackError: the server has lost steps; its count is taken over.
            StepOutOfOrderError: the step count is neither that from before the lost run nor that after it, or
                somebody else's run brought it there. It is raised again until ``adopt``.
            SessionNotFoundError: the session is gone, or somebody else began a new life of it.
        """
        if self._unsettled is None or await self._is_settled_by_stream(self._unsettled, deadline):
            return
        await self.settle_by(await self.read(session_pb2.SESSION_VIEW_BASIC, deadline), deadline, steps_matter)

    async def _is_settled_by_stream(self, unsettled: _Unsettled, deadline: Deadline) -> bool:
        """Waits a little for the answer to a step that was given up: then nobody has to be asked."""
        if unsettled.lost is None:
            return False
        verdict = await unsettled.lost.wait(max(min(PATIENCE_S, deadline.remaining_s()), 0.0))
        if verdict.outcome is Outcome.UNKNOWN:
            return False
        if verdict.outcome is Outcome.APPLIED:
            self.lane.step_count = verdict.step_count
        self._unsettled = None
        return True

    async def was_lost_run(self, deadline: Deadline) -> bool:
        """After a refusal for its step number: whether a lost run was applied after all, and takes it into account.

        A message that was under way on a broken connection may reach the server after the question about it did.
        """
        if not self._doubted:
            return False
        session = await self.read(session_pb2.SESSION_VIEW_BASIC, deadline)
        if session.uid != self.uid or not self._was_applied(session, self._doubted):
            return False
        self.lane.step_count = session.step_count
        self._doubted = []
        return True

    def _was_applied(self, session: session_pb2.Session, runs: Sequence[_Unsettled]) -> bool:
        """Whether the session is where one of these runs has brought it; then the others can be applied no more."""
        return any(
            session.last_run_id == run.run_id and session.step_count == self.step_count + run.steps for run in runs
        )

    async def settle_by(self, session: session_pb2.Session, deadline: Deadline, steps_matter: bool = True) -> None:
        """The same by what was read just now; without an open question only the life is compared."""
        if session.uid == self.uid:
            if self._unsettled is not None:
                self._settle_steps(session, self._unsettled, steps_matter)
        elif self._unsettled is not None and self._unsettled.repeat is not None:
            # A new life. If it is of our making the server knows the request and gives its first answer again;
            # otherwise the life that the request names is over, and it says so.
            self.adopt(await self._unsettled.repeat(deadline))
        else:
            raise SessionNotFoundError(
                f"session {self.id!r}: somebody else reset it, set its state or made it anew; "
                "refresh() takes it as it is"
            )

    def _settle_steps(self, session: session_pb2.Session, lost: _Unsettled, steps_matter: bool) -> None:
        before, after = self.step_count, self.step_count + lost.steps
        was_applied = self._was_applied(session, (lost, *self._doubted))
        if steps_matter and session.step_count < before:
            # In one life nobody's steps go backwards: what was answered has been lost in a crash.
            error = StateRolledBackError(
                f"session {self.id!r}: {before} steps were applied, and the server has lost the last of them: it is at "
                f"{session.step_count}; feed them again from there",
                metadata={
                    "session": self.name,
                    "expected_step": str(before),
                    "step_count": str(session.step_count),
                },
            )
            self.roll_back(error)
            raise error
        if steps_matter and session.step_count != before and not was_applied:
            raise StepOutOfOrderError(
                f"session {self.id!r}: expected step {before}, or {after} after a request that was not answered; the "
                f"server is at {session.step_count}, by somebody else's steps; refresh() takes it as it is",
                metadata={"expected_step": str(before), "step_count": str(session.step_count)},
            )
        if was_applied:
            self._doubted = []
        else:
            self._doubt(lost)
        self.lane.step_count = session.step_count
        self._unsettled = None
