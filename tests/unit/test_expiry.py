"""The expiry queue: who is looked at when, whatever became of them meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from cellserve_server.sessions.expiry import MIN_STALE, ExpiryQueue


@dataclass(eq=False)
class Session:
    expire_time: float
    ended: bool = False


def make() -> ExpiryQueue[Session]:
    return ExpiryQueue(lambda session: session.expire_time, lambda session: session.ended)


def popped(queue: ExpiryQueue[Session], now: float) -> list[Session]:
    found = []
    while (session := queue.pop(now)) is not None:
        found.append(session)
    return found


def test_sessions_come_in_the_first_second_after_their_time() -> None:
    queue = make()
    late, early, exact = Session(12.5), Session(10.2), Session(11.0)
    assert [queue.add(session) for session in (late, early, exact)] == [13.0, 11.0, 11.0]
    assert queue.next_time() == 11.0
    assert popped(queue, 10.9) == []
    assert set(popped(queue, 11.0)) == {early, exact}
    assert queue.next_time() == 13.0
    assert popped(queue, 100.0) == [late]
    assert queue.next_time() is None


def test_a_session_that_was_renewed_comes_at_its_old_second_and_is_put_back() -> None:
    queue = make()
    session = Session(10.0)
    queue.add(session)
    session.expire_time = 20.0
    assert popped(queue, 10.0) == [session]
    queue.add(session)
    assert popped(queue, 19.9) == []
    assert popped(queue, 20.0) == [session]


def test_sessions_that_ended_do_not_pile_up() -> None:
    queue = make()
    living = [Session(1e9 + number) for number in range(10)]
    for session in living:
        queue.add(session)
    kept = []
    for number in range(20 * MIN_STALE):
        session = Session(2e9 + number % 1000)
        queue.add(session)
        session.ended = True
        queue.note_ended(living)
        kept.append(queue.next_time())
    assert set(kept) == {1e9}
    assert len(popped(queue, 3e9)) <= len(living) + MIN_STALE + 1
