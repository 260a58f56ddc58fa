"""The servicer of ModelService. What takes long runs in a thread, so that ticks go on; changes are made on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
import structlog

from cellserve.errors import FieldInvalidError
from cellserve.v1 import model_pb2, model_service_pb2_grpc, session_pb2
from cellserve.v1 import model_service_pb2 as messages
from cellserve_server.edge.encoding import ANSWER_OVERHEAD_BYTES, limits_message
from cellserve_server.edge.fields import last_of_page_token, page_size_of, page_token_of
from cellserve_server.edge.weight_upload import Header, read_header, receive_weights, steadily
from cellserve_server.keeping.model_finder import ModelFinder
from cellserve_server.keeping.stored_models import StoredModels
from cellserve_server.models.model_watch import ModelLoader
from cellserve_server.models.repository import BrokenModel, LoadedModel, ModelRepository, draft_model
from cellserve_server.models.weights import model_bytes
from cellserve_server.security import ADMIN, require_right, tenant_of
from cellserve_server.tenant_limits import TenantLimits

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """ModelService.

    Args:
        limits: those of tenants.
        models: the models.
        loader: loads those of the folder.
        finder: finds them.
        stored: those that clients defined, in the store; None: there is none.
        durability: what becomes of sessions when the server ends.
    """

    def __init__(
        self,
        limits: TenantLimits,
        models: ModelRepository,
        loader: ModelLoader,
        finder: ModelFinder,
        stored: StoredModels | None,
        durability: session_pb2.Durability,
    ) -> None:
        self._limits = limits
        self._models = models
        self._durability = durability
        self._loader = loader
        self._finder = finder
        self._stored = stored
        self._log = structlog.get_logger("cellserve.models")

    async def ListModels(self, request: messages.ListModelsRequest, context: Context) -> messages.ListModelsResponse:
        """Lists the models."""
        page_size = page_size_of(request.page_size)
        after = _sort_key_of(last_of_page_token(request.page_token))
        tenant = tenant_of(context)
        entries = [entry for entry in self._models.list(tenant) if (entry.name, entry.version) > after]
        room = self._limits.of(tenant).max_message_bytes - ANSWER_OVERHEAD_BYTES
        answer = messages.ListModelsResponse()
        for entry in entries[:page_size]:
            model = self._message(entry, tenant)
            room -= model.ByteSize() + ANSWER_OVERHEAD_BYTES
            if room < 0 and answer.models:
                break  # The page is full by its bytes.
            answer.models.append(model)
        if len(answer.models) < len(entries):
            last = entries[len(answer.models) - 1]
            answer.next_page_token = page_token_of(f"{last.name}/{last.version}")
        return answer

    async def GetModel(self, request: messages.GetModelRequest, context: Context) -> messages.GetModelResponse:
        """Reads one."""
        entry = await self._finder.get(tenant_of(context), request.name, "name")
        return messages.GetModelResponse(model=self._message(entry, tenant_of(context)))

    async def LoadModel(self, request: messages.LoadModelRequest, context: Context) -> messages.LoadModelResponse:
        """Loads a version from the operator's folder."""
        require_right(context, ADMIN)
        self._log.info("load_asked", name=request.name, tenant=tenant_of(context))
        model = await self._loader.load(self._models.locate(request.name))
        return messages.LoadModelResponse(model=self._message(model, tenant_of(context)))

    async def UnloadModel(self, request: messages.UnloadModelRequest, context: Context) -> messages.UnloadModelResponse:
        """Takes a version out of service."""
        require_right(context, ADMIN)
        self._log.info("unload_asked", name=request.name, force=request.force, tenant=tenant_of(context))
        entry = self._models.unload(tenant_of(context), request.name, request.force)
        return messages.UnloadModelResponse(model=self._message(entry, tenant_of(context)))

    async def DefineModel(
        self, request_iterator: AsyncIterator[messages.DefineModelRequest], context: Context
    ) -> messages.DefineModelResponse:
        """Makes a model of a cell that the client describes."""
        tenant = tenant_of(context)
        limits = self._limits.of(tenant)
        requests = steadily(request_iterator, limits.define_idle_timeout_s)
        header = read_header(await anext(requests, None), limits)
        with self._models.defining(tenant, header.description):
            model = await self._define(tenant, header, requests)
        return messages.DefineModelResponse(model=self._message(model, tenant))

    async def _define(
        self, tenant: str, header: Header, requests: AsyncIterator[messages.DefineModelRequest]
    ) -> LoadedModel:
        weights = await receive_weights(header, requests)
        draft = await asyncio.to_thread(draft_model, header.description, weights=weights, seed=header.seed)
        if self._stored is not None:
            # Of one with a seed the store has that alone.
            self._stored.require_room(tenant, draft, 0 if weights is None else model_bytes(header.description))
        model = self._models.adopt(tenant, draft, header.ttl_s)
        if self._stored is not None:
            await self._stored.put(tenant, model, header.description, weights, header.seed)
        return model

    def _message(self, entry: LoadedModel | BrokenModel, tenant: str) -> model_pb2.Model:
        return entry.to_proto(limits_message(self._limits.of(tenant), self._durability))


def _sort_key_of(last: str) -> tuple[str, int]:
    if not last:
        return "", 0
    name, _, version = last.rpartition("/")
    if not version.isdecimal() or len(version) > 9:
        raise FieldInvalidError("page_token: expected the next_page_token of the page before; got another")
    return name, int(version)
