"""The client's account of one session: which life of it is meant, how many steps it has taken, whose turn it is.

Every run (a step, or a piece of a sequence) names the session's life (``uid``), the step count that it expects and a
random run id, all of which its retries keep. A session has one unanswered run at a time; later calls wait here. When
a run ends in any way that does not tell that it was refused (a timeout, a cancellation, a lost connection) its outcome
is unknown and the session is *unsettled*: before the next operation the client reads the session's step count and the
id of the last run that was applied, which tell whether the run was. The server answers that reading behind the runs
that came before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from google.protobuf.message import Message

from cellserve.errors import SessionNotFoundError, StepOutOfOrderError
from cellserve.v1 import recurrent_service_pb2 as pb
from cellserve.v1 import session_pb2
from cellserve_client.deadlines import Deadline, held
from cellserve_client.outcomes import Attempts
from cellserve_client.session_info import SESSIONS_PREFIX
from cellserve_client.transport import Transport


class _Unsettled(NamedTuple):
    """A request whose outcome is unknown: a run of so many steps, or a change that begins a new life."""

    steps: int
    run_id: int
    repeat: Callable[[Deadline], Awaitable[session_pb2.Session]] | None


class Account:
    """The account of one session. All but ``turn`` and ``end`` is to be used within a turn.

    Attributes:
        name: ``sessions/{id}``.
        uid: the life of the session that requests name.
        step_count: the steps applied, as far as is known here.
    """

    def __init__(self, transport: Transport, session: session_pb2.Session) -> None:
        self.name = session.name
        self.uid = session.uid
        self.step_count = session.step_count
        self._transport = transport
        self._lock = asyncio.Lock()
        self._unsettled: _Unsettled | None = None
        self._ended = ""

    @property
    def id(self) -> str:
        """The session's id."""
        return self.name.removeprefix(SESSIONS_PREFIX)

    @property
    def is_ended(self) -> bool:
        """Whether this client is done with the session."""
        return bool(self._ended)

    def end(self, how: str) -> None:
        """From now on every turn but a closing one is refused, with this word. The first word counts."""
        self._ended = self._ended or how

    @asynccontextmanager
    async def turn(self, deadline: Deadline, *, closing: bool = False) -> AsyncIterator[None]:
        """Waits until the earlier operations of this session are answered.

        Raises:
            DeadlineExceededError: they were not in time; nothing was sent.
            SessionNotFoundError: the session was closed or detached here.
        """
        async with held(self._lock, deadline, f"session {self.id!r}"):
            if not closing:
                self.require_not_ended()
            yield

    def require_not_ended(self) -> None:
        """Raises ``SessionNotFoundError`` when the session was closed or detached here."""
        if self._ended:
            raise SessionNotFoundError(f"session {self.id!r}: it was {self._ended} by this client")

    async def apply(
        self,
        method: Callable[..., Awaitable[Any]],
        request: pb.StepRequest | pb.RunSequenceRequest,
        steps: int,
        deadline: Deadline,
    ) -> Any:
        """Sends a run of so many steps and keeps account of them. Returns the answer."""
        attempts = Attempts()
        try:
            answer = await self._transport.invoke(method, request, deadline, attempts)
        except BaseException:
            if attempts.ambiguous:
                self._unsettled = _Unsettled(steps, request.run_id, None)
            raise
        self.step_count = answer.step_count
        return answer

    async def change(self, method: Callable[..., Awaitable[Any]], request: Message, deadline: Deadline) -> None:
        """Sends what begins a new life of the session (a reset, a new state) and takes it over."""

        async def repeat(later: Deadline) -> session_pb2.Session:
            answer = await self._transport.invoke(method, request, later)
            session: session_pb2.Session = answer.session
            return session

        attempts = Attempts()
        try:
            answer = await self._transport.invoke(method, request, deadline, attempts)
        except BaseException:
            if attempts.ambiguous:
                self._unsettled = _Unsettled(0, 0, repeat)
            raise
        self.adopt(answer.session)

    def adopt(self, session: session_pb2.Session) -> None:
        """Takes the session as the server says it is."""
        self.uid = session.uid
        self.step_count = session.step_count
        self._unsettled = None

    async def read(self, view: session_pb2.SessionView, deadline: Deadline) -> session_pb2.Session:
        """What the server says the session is, behind the runs that it has taken before."""
        request = pb.GetSessionRequest(name=self.name, view=view)
        answer: pb.GetSessionResponse = await self._transport.invoke(
            self._transport.recurrent.GetSession, request, deadline
        )
        return answer.session

    async def settle(self, deadline: Deadline, *, steps_matter: bool = True) -> None:
        """Learns what became of a request without an answer, if there is one.

        Raises:
            StepOutOfOrderError: the step count is neither that from before the lost run nor that after it, or
                somebody else's run brought it there. It is raised again until ``adopt``.
            SessionNotFoundError: the session is gone, or somebody else began a new life of it.
        """
        if self._unsettled is not None:
            await self.settle_by(await self.read(session_pb2.SESSION_VIEW_BASIC, deadline), deadline, steps_matter)

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
        was_applied = session.step_count == after and session.last_run_id == lost.run_id
        if steps_matter and session.step_count != before and not was_applied:
            raise StepOutOfOrderError(
                f"session {self.id!r}: expected step {before}, or {after} after a request that was not answered; the "
                f"server is at {session.step_count}, by somebody else's steps; refresh() takes it as it is",
                metadata={"expected_step": str(before), "step_count": str(session.step_count)},
            )
        self.step_count = session.step_count
        self._unsettled = None
