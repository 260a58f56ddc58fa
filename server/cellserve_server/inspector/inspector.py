"""What the inspector's pages ask for, answered: asked in their threads, looked up on the engine's event loop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from cellserve.errors import UnavailableError
from cellserve_server.config import ServerConfig
from cellserve_server.inspector.encoding import bands, encode
from cellserve_server.inspector.missing_states import with_states
from cellserve_server.inspector.samples import Sample, Sampler
from cellserve_server.inspector.watches import Look, Watches
from cellserve_server.keeping.operations import SessionOperations
from cellserve_server.keys import SessionKey
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.activity import ActiveSession, Order
from cellserve_server.sessions.session import SessionSnapshot
from cellserve_server.tenant_limits import TenantLimits

# How long a page waits for the event loop, which is busy when a tick is long.
LOOP_TIMEOUT_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True)
class ServerFacts:
    """What the pages say of the server.

    Attributes:
        address: ``host:port`` of its RPCs.
        version: of the server's package.
        store: the kind of its store, without its address: ``memory``, ``sqlite``, ``redis``.
        start_time: unix seconds.
    """

    address: str
    version: str
    store: str
    start_time: float


class Inspector:
    """Answers pages. Started and stopped on the event loop; asked by other threads.

    Args:
        config: the limits of all.
        limits: those of tenants.
        operations: where the sessions are, and what steps them.
        sampler: what the server does, second by second.
        clock: unix seconds, never going back.
        facts: of the server.
    """

    def __init__(
        self,
        config: ServerConfig,
        limits: TenantLimits,
        operations: SessionOperations,
        sampler: Sampler,
        clock: Callable[[], float],
        facts: ServerFacts,
    ) -> None:
        self.watches = Watches(config, limits, operations.sessions, operations.engine, clock)
        self.sampler = sampler
        self._operations = operations
        self._clock = clock
        self._facts = facts
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Begins to take samples."""
        self.sampler.start()

    def stop(self) -> None:
        """Ends samples and watches."""
        self.sampler.stop()
        self.watches.stop()

    # --- for other threads --------------------------------------------------------------------------------------------

    def overview(self, after: float) -> dict[str, Any]:
        """What the server is, and its samples after a time, in columns.

        Args:
            after: unix seconds.
        """
        facts = self._facts
        return {
            "address": facts.address,
            "version": facts.version,
            "store": facts.store,
            "uptime_s": self._clock() - facts.start_time,
            "samples": _columns(self.sampler.since(after)),
        }

    def sessions(self, tenant: str, order: Order, limit: int, id_contains: str) -> dict[str, Any]:
        """The first of a tenant's sessions in memory.

        Raises:
            UnavailableError: the server has no time to answer.
        """

        async def look() -> tuple[list[ActiveSession], int]:
            found = await self._operations.activity.first(tenant, order, limit, id_contains=id_contains)
            return found, self._operations.sessions.count_of(tenant)

        found, total = self._ask(look())
        now = self._clock()
        sessions = [
            {**_session(item.session, now), "steps_per_second": item.steps_per_second, "rows": _rows(item.session)}
            for item in found
        ]
        return {"total": total, "sessions": sessions}

    def watch(self, key: SessionKey, row: int, watch_id: int, after: int) -> bytes:
        """What was seen of a row of a session: as of ``Watches.look``, in the form of ``encoding``.

        Raises:
            CellServeError: as of ``Watches.look``, or the server has no time to answer.
        """

        async def look() -> Look:
            return self.watches.look(key, row, watch_id, after)

        seen = self._ask(look())
        steps = with_states(seen.steps, seen.model.network)
        leaves = [bands(leaf) for leaf in steps.leaves]
        header = {
            "watch": seen.id,
            "window_steps": seen.window_steps,
            "first": steps.first,
            "next": seen.next,
            "lost": steps.lost if watch_id == seen.id else 0,
            "gone": seen.gone,
            "session": None if seen.session is None else _session(seen.session, self._clock()),
            "row": row,
            "rows": 0 if seen.session is None else _rows(seen.session),
            "leaves": _leaf_entries(seen.model, [width for _, width in leaves]),
            "outputs": [
                {"name": spec.name, "elements": math.prod(spec.shape), "labels": list(spec.labels)}
                for spec in seen.model.outputs
            ],
        }
        arrays = {
            "step_counts": steps.step_counts,
            "lives": steps.lives,
            "times": steps.times,
            "parts": steps.parts,
            **{f"leaf{number}": leaf for number, (leaf, _) in enumerate(leaves)},
            **{f"output{number}": output for number, output in enumerate(steps.outputs)},
        }
        return encode(header, arrays)

    def _ask(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(LOOP_TIMEOUT_S)
        except TimeoutError as error:
            future.cancel()
            raise UnavailableError(
                f"the server had no time to answer within {LOOP_TIMEOUT_S:.0f} s", retry_after_s=LOOP_TIMEOUT_S
            ) from error


def _columns(samples: list[Sample]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [getattr(sample, name) for sample in samples] for name in Sample._fields}
    return columns


def _session(session: SessionSnapshot, now: float) -> dict[str, Any]:
    return {
        "id": session.key.id,
        "uid": session.uid,
        "model": session.model_name.removeprefix("models/").replace("/versions/", " v"),
        "step_count": session.step_count,
        "age_s": now - session.create_time,
        "idle_s": now - (session.expire_time - session.ttl_s),
        "expires_in_s": session.expire_time - now,
    }


def _rows(session: SessionSnapshot) -> int:
    return max(session.batch_size, 1)


def _leaf_entries(model: LoadedModel, widths: list[int]) -> list[dict[str, Any]]:
    """The parts of a state; ``band_units``: how many units each of a part's columns stands for."""
    return [
        {"name": name, "units": units, "band_units": width}
        for name, units, width in zip(model.leaf_names, model.leaf_sizes, widths, strict=True)
    ]
