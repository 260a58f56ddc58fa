"""Reads servers: their sessions and models over gRPC, and their numbers from their pages of metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType

from cellserve.errors import CellServeError, DeadlineExceededError, DrainingError, FieldInvalidError, UnavailableError
from cellserve_client.address import each_address, parse_address
from cellserve_client.client import Server
from cellserve_client.connection import ConnectionSettings
from cellserve_client.models import ModelInfo
from cellserve_client.retry import RetryPolicy
from cellserve_client.server_metrics import DEFAULT_PORT, Snapshot, checked_url, default_url, fetch
from cellserve_client.session_info import SessionInfo
from cellserve_client.top.reading import Answer, Asked, Reading, ReplicaReading
from cellserve_client.top.state_parts import StatePart, parts_of

# What is read again in a moment is not asked for twice.
ASK_ONCE = RetryPolicy(max_attempts=1, max_first_contact_attempts=1, budget_retries=0)
# Models change seldom: they are asked for every so many readings.
READINGS_PER_MODELS = 10
SHARED_HOST = f"several replicas on one host cannot all have their page at its port {DEFAULT_PORT}"


@dataclass(frozen=True)
class SessionDetail:
    """One session at one moment.

    Attributes:
        time: unix seconds.
        info: what the server tells.
        model: its model.
        parts: of its state.
    """

    time: float
    info: SessionInfo
    model: ModelInfo
    parts: tuple[StatePart, ...]


class Watch:
    """Connections to servers, to be read again and again. It may be used by one thread at a time; ``with`` closes it.

    Args:
        settings: how to connect; the address may list several replicas. How long an answer is waited for is theirs too.
        pages: the URLs of the pages of metrics, in the order of the addresses; empty: where servers have them unless
            they were told otherwise.
        clock: unix seconds.

    Raises:
        FieldInvalidError: an address or a URL is not of its form, or there are not as many URLs as addresses.
    """

    def __init__(
        self, settings: ConnectionSettings, pages: Sequence[str] = (), clock: Callable[[], float] = time.time
    ) -> None:
        addresses = each_address(settings.address)
        if pages and len(pages) != len(addresses):
            raise FieldInvalidError(
                f"metrics: expected one URL for each of {len(addresses)} addresses; got {len(pages)}"
            )
        self._clock = clock
        self._timeout_s = settings.timeout_s
        self._pages = dict(zip(addresses, map(checked_url, pages), strict=True)) if pages else _default_pages(addresses)
        self._models: dict[str, tuple[ModelInfo, ...]] = {}
        self._readings = 0
        with ExitStack() as stack:
            self._servers = {
                address: stack.enter_context(replace(settings, address=address, retry=ASK_ONCE).connect())
                for address in addresses
            }
            self._threads = stack.enter_context(ThreadPoolExecutor(len(addresses), "cellserve-top"))
            self._exit = stack.pop_all()

    @property
    def addresses(self) -> list[str]:
        """Of the servers."""
        return list(self._servers)

    def read(self, asked: Asked) -> Reading:
        """Reads all servers at once. One that does not answer has its trouble told."""
        now = self._clock()
        replicas = self._threads.map(lambda address: self._read(address, asked), self._servers)
        reading = Reading(now, asked, tuple(replicas))
        self._readings += 1
        return reading

    def detail(self, address: str, session_id: str) -> SessionDetail:
        """Reads one session with its state.

        Raises:
            SessionNotFoundError: it is not there any more. UnavailableError, ...: the server does not answer.
        """
        session = self._servers[address].open_session(session_id)
        state = session.state()
        info = self._servers[address].session_info(session_id)
        return SessionDetail(self._clock(), info, session.model, tuple(parts_of(state)))

    def close(self) -> None:
        """Closes the connections."""
        self._exit.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, address: str, asked: Asked) -> ReplicaReading:
        page, page_trouble = self._read_page(address)
        answer: Answer = "given"
        trouble, sessions = "", list[SessionInfo]()
        try:
            sessions = self._ask(self._servers[address], address, asked)
        except CellServeError as error:
            answer, trouble = _kind_of(error), error.message
        models = self._models.get(address, ())
        return ReplicaReading(address, answer, trouble, page, page_trouble, models, tuple(sessions))

    def _ask(self, server: Server, address: str, asked: Asked) -> list[SessionInfo]:
        if self._readings % READINGS_PER_MODELS == 0 or address not in self._models:
            self._models[address] = tuple(server.models())
        return server.sessions(
            model=asked.model, limit=asked.limit, order_by=asked.order_by, id_contains=asked.id_contains
        )

    def _read_page(self, address: str) -> tuple[Snapshot | None, str]:
        url = self._pages[address]
        if not url:
            return None, SHARED_HOST
        try:
            return fetch(url, timeout_s=self._timeout_s, clock=self._clock), ""
        except CellServeError as error:
            return None, error.message


def _kind_of(error: CellServeError) -> Answer:
    if isinstance(error, DrainingError):
        return "draining"
    return "none" if isinstance(error, (UnavailableError, DeadlineExceededError)) else "refused"


def _default_pages(addresses: Sequence[str]) -> dict[str, str]:
    """By address; an empty one where replicas share a host, on which they cannot share a port."""
    parsed = [parse_address(address) for address in addresses]
    hosts = [address.host for address in parsed]
    return {address.target: default_url(address) if hosts.count(address.host) == 1 else "" for address in parsed}
