"""Brings sessions from the store into memory: looks at their records, asks who holds them, claims them, reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import structlog

from cellserve.errors import (
    CellServeError,
    ModelChangedError,
    QueueFullError,
    RecordCorruptError,
    StoreUnavailableError,
)
from cellserve.v1 import record_pb2
from cellserve_server.config import DAY_S
from cellserve_server.keeping.keeper import Outcome
from cellserve_server.keeping.model_finder import ModelFinder
from cellserve_server.keeping.new_lives import tombstone_of
from cellserve_server.keeping.peers import Peers, address_of
from cellserve_server.keeping.residents import Birth, Residents
from cellserve_server.keys import SessionKey
from cellserve_server.metrics import SessionMetrics
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.records import StoredState, decode_meta, decode_state
from cellserve_server.sessions.session import Kept, LastRun, Origin, Session
from cellserve_server.sessions.table import CORRUPT
from cellserve_server.stores.base import Burial, Found, Held, Store, Stored

# How often records are looked at again that somebody else has claimed between a look and a claim.
ROUNDS = 3
# How long a damaged record is kept for people to look at.
DAMAGED_KEPT_S = 7 * DAY_S
SEATED_AT_ONCE = 128


class Takeover:
    """Brings sessions into memory.

    Args:
        store: where they are.
        residents: where they come.
        models: finds what they are of.
        peers: the other replicas.
        metrics: told of sessions that were claimed.
        clock: unix seconds.
        tombstone_ttl_s: how long it is remembered that a session expired.
        loses_steps: whether replicas may have answered steps that never came to the store.
    """

    def __init__(
        self,
        store: Store,
        residents: Residents,
        models: ModelFinder,
        peers: Peers,
        metrics: SessionMetrics,
        clock: Callable[[], float],
        *,
        tombstone_ttl_s: float,
        loses_steps: bool,
    ) -> None:
        self._store = store
        self._residents = residents
        self._sessions = residents.sessions
        self._models = models
        self._peers = peers
        self._metrics = metrics
        self._clock = clock
        self._tombstone_ttl_s = tombstone_ttl_s
        self._loses_steps = loses_steps
        self._log = structlog.get_logger("cellserve.takeover")

    async def bring(self, keys: Sequence[SessionKey]) -> dict[SessionKey, Outcome]:
        """Brings sessions; nobody else here may bring, make or end any of them meanwhile.

        Returns:
            For each key the session, or why it is not to be had.

        Raises:
            StoreUnavailableError: it is not known what there is.
        """
        outcomes: dict[SessionKey, Outcome] = {}
        left = list(keys)
        for _ in range(ROUNDS):
            if not left:
                return outcomes
            found = dict(zip(left, await self._store.look(left), strict=True))
            wanted: dict[SessionKey, Found] = {}
            for key, what in found.items():
                if what is None:
                    outcomes[key] = self._sessions.not_found(key)
                elif what.tombstone:
                    outcomes[key] = self._ended(key, what.tombstone)
                else:
                    wanted[key] = what
            left = await self._claim(wanted, outcomes)
        for key in left:
            outcomes[key] = self._sessions.moved_error(key)  # Somebody was quicker, again and again.
        return outcomes

    async def _claim(self, wanted: dict[SessionKey, Found], outcomes: dict[SessionKey, Outcome]) -> list[SessionKey]:
        """Claims records and brings their sessions; returns the keys of those that others have claimed meanwhile."""
        how = await self._ask_holders(wanted, outcomes)
        claims = [(key, wanted[key].epoch) for key in how]
        lost: list[SessionKey] = []
        claimed = await self._store.claim(claims, self._peers.owner)
        for number, ((key, _), stored) in enumerate(zip(claims, claimed, strict=True)):
            if number % SEATED_AT_ONCE == SEATED_AT_ONCE - 1:
                await asyncio.sleep(0)  # Others get their turn between.
            if stored is None:
                lost.append(key)
                continue
            self._metrics.claimed(how[key])
            try:
                outcomes[key] = await self._seat(stored, was_fenced=how[key] == "fenced")
            except CellServeError as error:
                outcomes[key] = error
        return lost

    async def _ask_holders(
        self, wanted: dict[SessionKey, Found], outcomes: dict[SessionKey, Outcome]
    ) -> dict[SessionKey, str]:
        """Asks other replicas to let go; how each record is to be had then, in the words of the metric.

        Those are left out that a replica cannot let go which is there and has steps of them that the store has not.
        """
        held_by: dict[str, list[SessionKey]] = {}
        for key, what in wanted.items():
            if address_of(what.owner) not in ("", self._peers.own):
                held_by.setdefault(what.owner, []).append(key)
        answers = await asyncio.gather(
            *(self._ask_holder(owner, [(key, wanted[key].epoch) for key in keys]) for owner, keys in held_by.items())
        )
        # What this process has sent away itself it wrote before. An earlier one at this address may have ended at once.
        how = {key: "free" if what.owner in ("", self._peers.owner) else "fenced" for key, what in wanted.items()}
        for (owner, keys), answer in zip(held_by.items(), answers, strict=True):
            self._log.info("takeover", holder=address_of(owner), sessions=len(keys), holder_answered=answer is True)
            if isinstance(answer, CellServeError):
                outcomes.update(dict.fromkeys(keys, answer))
                for key in keys:
                    del how[key]
            elif answer:
                how.update(dict.fromkeys(keys, "released"))
        return how

    async def _ask_holder(self, owner: str, sessions: Sequence[tuple[SessionKey, int]]) -> bool | CellServeError:
        """Whether a replica has answered; an error: nothing is to be taken from it."""
        try:
            return await self._peers.ask_to_release(owner, sessions)
        except (StoreUnavailableError, QueueFullError) as error:
            return error if self._loses_steps else False

    async def _seat(self, stored: Stored, *, was_fenced: bool) -> Session:
        """A claimed record as a session in memory."""
        key = stored.key
        try:
            meta = decode_meta(stored.meta)
            model = await self._model_of(key, meta)
            rows = max(meta.batch_size, 1)
            states = [
                decode_state(state, model.leaf_sizes, model.description.dtype, rows) if state else None
                for state in stored.states
            ]
            place = max((0, 1), key=lambda place: -1 if (there := states[place]) is None else there.numbers.step_count)
            state, before = states[place], states[place ^ 1]
            if state is None:
                raise RecordCorruptError("the session's record has no state")
        except RecordCorruptError as error:
            raise await self._set_aside(stored, error) from error
        if state.numbers.expire_time <= self._clock():
            raise await self._expired(stored, meta.uid)
        session = await self._install(stored, meta, model, place, state, before)
        # Whoever has it from one that let it go need not have it from one that lost nothing: that may be longer ago.
        # Without that, a holder that has gone may still have had an answer written that the store has lost since.
        recovered_at = state.numbers.step_count if self._loses_steps or was_fenced else -1
        origin = Origin(meta.request_id, meta.request_fingerprint)
        session.kept = Kept(Held(stored.ref, stored.epoch), origin, recovered_at)
        return session

    async def _install(
        self,
        stored: Stored,
        meta: record_pb2.SessionRecord,
        model: LoadedModel,
        place: int,
        state: StoredState,
        before: StoredState | None,
    ) -> Session:
        birth = Birth(stored.key, model, meta.batch_size, meta.ttl, step_count=state.numbers.step_count)
        await self._residents.make_room(birth)
        session = self._residents.seat(birth, meta.uid, is_soft=True)
        numbers = state.numbers
        if before is not None and before.numbers.step_count == numbers.run_first and numbers.run_id:
            last = LastRun(numbers.run_id, numbers.run_first, numbers.run_steps, numbers.run_digest)
            session.restore(place, state.leaves, before.leaves, last)
        else:
            session.restore(place, state.leaves, None, None)
        session.set_times(meta.create_time, meta.ttl)
        session.renew(numbers.expire_time - meta.ttl)
        return session

    async def _model_of(self, key: SessionKey, meta: record_pb2.SessionRecord) -> LoadedModel:
        """The model of a session.

        Raises:
            ModelChangedError: it is here, with other weights.
            CellServeError: it is not to be had.
        """
        model = await self._models.resolve(key.tenant, meta.model, "session.model")
        if model.digest != meta.model_digest:
            raise ModelChangedError(
                f"sessions/{key.id}: {meta.model} has other weights than those on which the session began; load the "
                "old ones as a version of their own, or delete the session",
                metadata={"session": key.id, "model": meta.model},
            )
        sizes, dtype = list(model.leaf_sizes), np.dtype(model.description.dtype).name
        if sizes != list(meta.leaf_sizes) or dtype != meta.dtype:
            raise RecordCorruptError(f"the session's state is not one of {meta.model}")
        return model

    def _ended(self, key: SessionKey, tombstone: bytes) -> CellServeError:
        try:
            meta = decode_meta(tombstone)
        except RecordCorruptError:
            return self._sessions.not_found(key)  # It has ended; why is not to be read any more.
        return self._sessions.ending_error(key, meta.uid, meta.ended)

    async def _set_aside(self, stored: Stored, error: RecordCorruptError) -> CellServeError:
        self._log.error("record_corrupt", session=stored.key.id, tenant=stored.key.tenant, error=error.message)
        burial = Burial(stored.ref, stored.epoch, tombstone_of("", CORRUPT), self._clock() + DAMAGED_KEPT_S)
        await self._store.set_aside([burial])
        return self._sessions.ending_error(stored.key, "", CORRUPT)

    async def _expired(self, stored: Stored, uid: str) -> CellServeError:
        burial = Burial(stored.ref, stored.epoch, tombstone_of(uid, "expired"), self._clock() + self._tombstone_ttl_s)
        await self._store.bury([burial])
        return self._sessions.ending_error(stored.key, uid, "expired")
