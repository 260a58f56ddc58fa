"""Calls with a bucket, and which replica of a fleet they reached: for tests of proxies, with generated stubs alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from cellserve.buckets import BUCKET_KEY, BUCKETS
from cellserve.cells import BasicRNNCell, OutputProjectionWrapper
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import session_pb2
from deploy.fleet import Fleet
from tests.servers import RPC_TIMEOUT_S, Stubs, define_model, stubs_for

# Inputs and outputs are wide and the arithmetic is small, so that large messages are quick.
WIDTH = 1024
CELL = OutputProjectionWrapper(BasicRNNCell(8), WIDTH)
MOVE_TIMEOUT_S = 15.0
_names = itertools.count()


class BucketStub:
    """A generated stub whose calls all carry one bucket."""

    def __init__(self, stub: Any, bucket: int) -> None:
        self._stub = stub
        self._metadata = ((BUCKET_KEY, str(bucket)),)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)
        call = partial(method, metadata=self._metadata)
        if hasattr(method, "future"):
            call.future = partial(method.future, metadata=self._metadata)  # type: ignore[attr-defined]
        return call


def with_bucket(stubs: Stubs, bucket: int) -> Stubs:
    """The same connection; calls of ``recurrent`` carry the bucket."""
    recurrent: Any = BucketStub(stubs.recurrent, bucket)
    return Stubs(stubs.channel, recurrent, stubs.models)


def create(stubs: Stubs, model: str) -> str:
    """Makes a session under a name that was never used, and gives the name."""
    request = messages.CreateSessionRequest(
        session_id=f"probe-{next(_names)}", session=session_pb2.Session(model=model)
    )
    answer: messages.CreateSessionResponse = stubs.recurrent.CreateSession(request, timeout=RPC_TIMEOUT_S)
    return answer.session.name


@dataclass(frozen=True)
class Proxied:
    """A proxy before replicas that keep their sessions in memory: who has a session is who made it.

    Attributes:
        kind: which proxy.
        fleet: the replicas.
        stubs: connected through the proxy.
        address: of the proxy.
    """

    kind: str
    fleet: Fleet
    stubs: Stubs
    address: str

    def model(self) -> str:
        """A model that every replica that runs has now: it is named by its content."""
        names = set()
        for replica, address in zip(self.fleet.replicas, self.fleet.addresses, strict=True):
            if replica.running:
                with stubs_for(address) as stubs:
                    names.add(define_model(stubs, CELL, WIDTH).name)
        (name,) = names
        return name

    def owner(self, bucket: int, model: str) -> int:
        """Which replica the proxy sends a bucket to now."""
        name = create(with_bucket(self.stubs, bucket), model)
        return next(index for index, sessions in self._sessions() if name in sessions)

    def owners(self, model: str) -> list[int]:
        """The same for each of the 64 buckets."""
        names = [create(with_bucket(self.stubs, bucket), model) for bucket in range(BUCKETS)]
        place = {name: index for index, sessions in self._sessions() for name in sessions}
        return [place[name] for name in names]

    def _sessions(self) -> Iterator[tuple[int, set[str]]]:
        for index, replica in enumerate(self.fleet.replicas):
            if replica.running:
                with stubs_for(self.fleet.addresses[index]) as stubs:
                    request = messages.ListSessionsRequest(page_size=1000)
                    answer = stubs.recurrent.ListSessions(request, timeout=RPC_TIMEOUT_S)
                    yield index, {session.name for session in answer.sessions}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Asks again and again, until it holds."""
    give_up = time.monotonic() + MOVE_TIMEOUT_S
    while not condition():
        assert time.monotonic() < give_up, f"{what} did not come to hold in {MOVE_TIMEOUT_S:.0f} s"
