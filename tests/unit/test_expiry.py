"""The expiry queue: who is looked at when, whatever became of them meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cellserve_server.keys import SessionKey
from cellserve_server.sessions.expiry import MIN_STALE, ExpiryQueue, Line


@dataclass(eq=False)
class Session:
    key: SessionKey
    expire_time: float
    line: Line | None = None


class Living(dict[SessionKey, Session]):
    """Those that live, and the queue in which they are."""

    def __init__(self) -> None:
        self.queue: ExpiryQueue[Session] = ExpiryQueue(self)
        self._made = 0

    def make(self, expire_time: float, name: str = "") -> Session:
        self._made += 1
        session = Session(SessionKey("default", name or f"s-{self._made}"), expire_time)
        self[session.key] = session
        self.queue.add(session)
        return session

    def end(self, session: Session) -> None:
        del self[session.key]
        self.queue.note_ended()

    def popped(self, now: float) -> list[Session]:
        found = []
        while self.queue.is_due(now):
            if (session := self.queue.pop()) is not None:
                found.append(session)
        return found


@pytest.fixture
def living() -> Living:
    return Living()


def test_sessions_come_in_the_first_second_after_their_time(living: Living) -> None:
    late, early, exact = map(living.make, (12.5, 10.2, 11.0))
    assert living.queue.next_time() == 11.0
    assert living.popped(10.9) == []
    assert set(living.popped(11.0)) == {early, exact}
    assert living.queue.next_time() == 13.0
    assert living.popped(100.0) == [late]
    assert living.queue.next_time() is None


def test_a_session_that_was_renewed_comes_at_its_old_second_and_is_put_back(living: Living) -> None:
    session = living.make(10.0)
    session.expire_time = 20.0
    assert living.popped(10.0) == [session]
    assert living.queue.add(session) == 20.0
    assert living.popped(19.9) == []
    assert living.popped(20.0) == [session]


@pytest.mark.parametrize("second", [10.0, 20.0, 30.0])
def test_one_of_the_same_key_is_looked_at_in_its_own_time_alone(living: Living, second: float) -> None:
    living.end(living.make(20.0, "again"))
    session = living.make(second, "again")
    found = [living.popped(now) for now in (10.0, 20.0, 30.0)]
    assert found == [[session] if now == second else [] for now in (10.0, 20.0, 30.0)]


def test_sessions_that_ended_do_not_pile_up(living: Living) -> None:
    for number in range(10):
        living.make(1e9 + number)
    kept = []
    for number in range(20 * MIN_STALE):
        living.end(living.make(2e9 + number % 1000))
        kept.append(living.queue.next_time())
    assert set(kept) == {1e9}
    assert len(living.popped(3e9)) == 10
