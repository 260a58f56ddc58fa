"""The servicer of PeerService: lets sessions go that another replica wants."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import grpc

from cellserve.errors import FieldInvalidError, UnimplementedError
from cellserve.v1 import peer_service_pb2 as messages
from cellserve.v1 import peer_service_pb2_grpc
from cellserve_server.keeping.peers import MAX_SESSIONS
from cellserve_server.keeping.store_keeper import StoreKeeper
from cellserve_server.keys import SessionKey
from cellserve_server.security.grants import CredentialsError

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class PeerService(peer_service_pb2_grpc.PeerServiceServicer):
    """PeerService.

    Args:
        keeper: lets sessions go; None: this server shares no store with anybody.
    """

    def __init__(self, keeper: StoreKeeper | None) -> None:
        self._keeper = keeper

    async def ReleaseSessions(
        self, request: messages.ReleaseSessionsRequest, context: Context
    ) -> messages.ReleaseSessionsResponse:
        """Lets sessions go."""
        if self._keeper is None:
            raise UnimplementedError("this server keeps its sessions in its memory; there is nothing to take over")
        keeper, taker = self._keeper, request.taker
        if not keeper.is_asked_by_a_peer(taker, request.holder):
            raise CredentialsError("peer", "holder: expected this replica as the store's records name it; got another")
        if len(request.sessions) > MAX_SESSIONS:
            raise FieldInvalidError(f"sessions: expected at most {MAX_SESSIONS}; got {len(request.sessions)}")
        released = await asyncio.gather(
            *(keeper.let_go(SessionKey(asked.tenant, asked.id), asked.epoch, taker) for asked in request.sessions)
        )
        return messages.ReleaseSessionsResponse(released_count=sum(released))
