"""Around every RPC: callers are asked who they are, errors become statuses, all is counted, and nothing new begins
while the gate is shut."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import structlog

from cellserve.errors import (
    STATUS_DETAILS_KEY,
    CellServeError,
    InternalError,
    UnimplementedError,
    status_of,
)
from cellserve_server.edge.call_turns import CallTurns
from cellserve_server.edge.lasting import LastingCalls
from cellserve_server.edge.message_parts import message_class_of
from cellserve_server.edge.refusals import Refusals
from cellserve_server.edge.request_bytes import RequestDecoder
from cellserve_server.edge.rpc_admission import RpcAdmission
from cellserve_server.edge.stream_admission import StreamAdmission
from cellserve_server.incidents import internal_error
from cellserve_server.keeping.peers import MAX_REQUEST_BYTES
from cellserve_server.metrics import MethodMetrics, RpcMetrics
from cellserve_server.security.authentication import Authenticator, Metadata
from cellserve_server.security.grants import FOR_ANYBODY, CredentialsError, Grant
from cellserve_server.security.identity import IdentifiedContext

if TYPE_CHECKING:
    from cellserve_server.tracing.rpcs import RpcTrace
    from cellserve_server.tracing.tracing import Tracing

OWN_SERVICES = "/cellserve."
PEER_SERVICE = "/cellserve.v1.PeerService/"
NOBODY = ""  # Tenants have names.
HEALTH_SERVICE = "/grpc.health.v1.Health/"
# Nobody who asks for these is asked who he is: probes have no secrets, and replicas prove themselves in their requests.
# So little of what they send is read, in bytes: names of services, which grpc's servicer keeps while they are watched,
# and what one replica asks another one for.
OPEN_SERVICES = {HEALTH_SERVICE: 1024, PEER_SERVICE: MAX_REQUEST_BYTES}

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
# Whatever the stubs say of it: grpc's types know the behaviours of its synchronous server only.
Behaviour: TypeAlias = Any


class RpcInterceptor(grpc.aio.ServerInterceptor):
    """Around all RPCs of a server.

    Args:
        authenticator: finds out who calls.
        metrics: told of every RPC and message.
        refusals: told of every error that an RPC ends with.
        new_id: makes the ids under which bugs are logged.
        gate: the error that new RPCs of our services get just now, or None when they may begin. Health checks and
            reflection always may.
        admission: counts the RPCs of our services, and of others that callers are known to.
        streams: counts the streams of the latter; ours count theirs themselves.
        watches: counts the streams of health checks, which anybody may open.
        turns: of unary calls.
        max_message_parts: of one request that is large; see ``message_parts``.
        tracing: makes spans of the RPCs of clients; None: nobody traces.

    Attributes:
        admission, streams, watches: as given.
        lasting: those of them that are streams.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        metrics: RpcMetrics,
        refusals: Refusals,
        new_id: Callable[[], str],
        gate: Callable[[], CellServeError | None],
        admission: RpcAdmission,
        streams: StreamAdmission,
        watches: StreamAdmission,
        turns: CallTurns,
        *,
        max_message_parts: int,
        tracing: Tracing | None = None,
    ) -> None:
        self.admission = admission
        self.streams = streams
        self.watches = watches
        self.turns = turns
        self.authenticator = authenticator
        self.lasting = LastingCalls(authenticator.require_good)
        self.tracing = tracing
        self.refusals = refusals
        self._metrics = metrics
        self._new_id = new_id
        self._gate = gate
        self._max_message_parts = max_message_parts
        self._log = structlog.get_logger("cellserve.rpc")
        self._methods: dict[str, tuple[_Call, Handler]] = {}  # as many as the server has

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method: str = handler_call_details.method
        known = self._methods.get(method)
        if known is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None  # No such method: grpc answers UNIMPLEMENTED.
            known = self._methods[method] = self._wrap(method, handler)
        call, wrapped = known
        error = call.refusal(handler_call_details.invocation_metadata or ())
        return wrapped if error is None else call.refusing(error)

    def _wrap(self, method: str, handler: Handler) -> tuple[_Call, Handler]:
        service, _, name = method.removeprefix("/").partition("/")
        metrics = MethodMetrics(self._metrics, _type_of(handler), service, name)
        decoder = RequestDecoder(
            message_class_of(handler.request_deserializer),
            method,
            metrics.received,
            max_bytes=OPEN_SERVICES.get(f"/{service}/"),
            max_parts=self._max_message_parts,
        )
        call = _Call(self, method, metrics, decoder)
        decode, encode = None, _counting_encoder(handler, call)  # grpc hands on the bytes of requests as they are.
        if handler.request_streaming and handler.response_streaming:
            behaviour = call.streaming(handler.stream_stream)
            return call, grpc.stream_stream_rpc_method_handler(behaviour, decode, encode)
        if handler.request_streaming:
            return call, grpc.stream_unary_rpc_method_handler(call.lasting(handler.stream_unary), decode, encode)
        if handler.response_streaming:
            return call, grpc.unary_stream_rpc_method_handler(call.streaming(handler.unary_stream), decode, encode)
        return call, grpc.unary_unary_rpc_method_handler(call.unary(handler.unary_unary), decode, encode)

    def enter(self, tenant: str, *, is_for_peers: bool) -> None:
        """An RPC of our services begins; what other replicas ask for they get even while the gate is shut."""
        error = None if is_for_peers else self._gate()
        if error is not None:
            raise error
        self.admission.enter(tenant)

    def internal(self, method: str, tenant: str, error: Exception) -> InternalError:
        """Logs a bug of ours and makes what the caller sees of it: an id."""
        return internal_error(self._log, self._new_id, error, {"method": method, "tenant": tenant})


class _Call:
    """One method's way through the interceptor."""

    def __init__(
        self, interceptor: RpcInterceptor, method: str, metrics: MethodMetrics, decoder: RequestDecoder
    ) -> None:
        self.method = method
        self.metrics = metrics
        self._decoder = decoder
        self._interceptor = interceptor
        self._own = method.startswith(OWN_SERVICES)
        self._is_for_peers = method.startswith(PEER_SERVICE)
        self._is_open = method.startswith(tuple(OPEN_SERVICES))
        self._tracing = interceptor.tracing if self._own and not self._is_open else None

    def refusal(self, metadata: Metadata) -> CredentialsError | None:
        """Why a caller is not let in, as far as its headers say so."""
        return None if self._is_open else self._interceptor.authenticator.refusal(metadata)

    def refusing(self, error: CredentialsError) -> Handler:
        """Ends an RPC by its headers. For grpc it is one that reads what it likes: of others grpc has the whole message
        before it calls them, which may be large, and never come.
        """

        async def wrapped(_: AsyncIterator[bytes], context: Context) -> None:
            self.metrics.started.count += 1
            async with _Outcome(self, context):
                raise error

        return grpc.stream_unary_rpc_method_handler(wrapped)

    def unary(self, behaviour: Behaviour) -> Behaviour:
        """Wraps a behaviour that gives one answer, or that writes its answers on the context."""

        async def wrapped(request: Any, context: Context) -> Any:
            async with _Outcome(self, context) as outcome, self._turn(outcome.begin(), request):
                self._interceptor.authenticator.require_good(outcome.grant)  # It may have waited long.
                return await behaviour(self._decoder.decoded(request, outcome.most_bytes), outcome.context)

        return wrapped

    def _turn(self, grant: Grant, request: bytes) -> AbstractAsyncContextManager[None]:
        """For what callers ask of us; probes and other replicas wait for nobody."""
        if not self._own or self._is_for_peers:
            return nullcontext()
        return self._interceptor.turns.turn(grant.identity.tenant, len(request))

    def lasting(self, behaviour: Behaviour) -> Behaviour:
        """As ``unary``, for a behaviour that ends when its caller's credentials do."""

        async def wrapped(request: Any, context: Context) -> Any:
            async with _Outcome(self, context) as outcome, self._interceptor.lasting.lasting(outcome.begin()):
                with self._stream(outcome.grant.identity.tenant):
                    return await behaviour(self._decoder.decoded(request, outcome.most_bytes), outcome.context)

        return wrapped

    def streaming(self, behaviour: Behaviour) -> Behaviour:
        """Wraps a behaviour that gives many answers."""
        if not inspect.isasyncgenfunction(behaviour):
            return self.lasting(behaviour)

        async def wrapped(request: Any, context: Context) -> AsyncIterator[Any]:
            async with _Outcome(self, context) as outcome:
                with self._stream(outcome.begin().identity.tenant):
                    async for answer in behaviour(self._decoder.decoded(request, outcome.most_bytes), outcome.context):
                        yield answer

        return wrapped

    def _stream(self, tenant: str) -> AbstractContextManager[None]:
        """Counts a stream of a library's service, as ours count theirs; what anybody may open is counted apart."""
        if self._own:
            return nullcontext()
        if self._is_open:
            watches = self._interceptor.watches
            return watches.stream(NOBODY, watches.max_streams)
        return self._interceptor.streams.stream(tenant, self._interceptor.admission.limits.of(tenant).max_streams)

    def identify(self, context: Context) -> Grant:
        """Who calls.

        Raises:
            CredentialsError: nobody who is known.
        """
        self.metrics.started.count += 1
        if self._is_open:
            return FOR_ANYBODY
        return self._interceptor.authenticator.of_rpc(context.invocation_metadata() or (), context.auth_context)

    def trace(self, context: Context, began: float) -> RpcTrace | None:
        """The span of an RPC whose caller is known: what strangers send is not to fill traces, nor to choose them.

        Args:
            began: on ``time.perf_counter``.
        """
        if self._tracing is None:
            return None
        return self._tracing.rpc(self.method, context.invocation_metadata() or (), began)

    def enter(self, tenant: str) -> bool:
        """Begins; whether ``leave`` is due."""
        if self._own:
            self._interceptor.enter(self._whose(tenant), is_for_peers=self._is_for_peers)
        elif not self._is_open:
            # A stream of reflection lasts as long as its caller likes: a drain does not wait for that.
            self._interceptor.admission.enter(tenant, is_awaited=False)
        return self._own or not self._is_open

    def leave(self, tenant: str) -> None:
        self._interceptor.admission.leave(self._whose(tenant), is_awaited=self._own)

    def _whose(self, tenant: str) -> str:
        """In whose part an RPC is: that of replicas, who have not yet proved that they are any, is no tenant's."""
        return NOBODY if self._is_for_peers else tenant

    def most_bytes_of(self, tenant: str) -> int:
        """The largest message that a tenant may send."""
        return self._interceptor.admission.limits.of(tenant).max_message_bytes

    def refused(self, error: CellServeError, context: Context) -> None:
        self._interceptor.refusals.note(error)
        if isinstance(error, CredentialsError):
            self._interceptor.authenticator.note(error, context.peer())

    def internal(self, tenant: str, error: Exception) -> InternalError:
        return self._interceptor.internal(self.method, tenant, error)

    def not_implemented(self, error: NotImplementedError) -> Exception:
        """What the stubs raise for a method that a library's service lacks; of ours none may lack any."""
        return error if self._own else UnimplementedError(f"{self.method}: this server does not have it")


class _Outcome:
    """Asks who calls, and turns how an RPC ended into a status and counts it.

    Attributes:
        grant: what the caller has shown; known once the RPC has begun.
        context: for the servicer, which asks it for the tenant.
    """

    def __init__(self, call: _Call, context: Context) -> None:
        self.grant = FOR_ANYBODY
        self.context = IdentifiedContext(context, self.grant.identity)
        self._call = call
        self._context = context
        self._entered = False
        self.most_bytes = 0
        self._started = time.perf_counter()
        self._trace: RpcTrace | None = None

    def begin(self) -> Grant:
        """Looks who calls, and whether one more RPC may begin.

        Raises:
            CellServeError: why not.
        """
        self.grant = self._call.identify(self._context)
        self.context = IdentifiedContext(self._context, self.grant.identity)
        self._trace = self._call.trace(self._context, self._started)
        self._entered = self._call.enter(self.grant.identity.tenant)
        self.most_bytes = self._call.most_bytes_of(self.grant.identity.tenant)
        return self.grant

    async def __aenter__(self) -> _Outcome:
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if self._entered:
            self._call.leave(self.grant.identity.tenant)
        seconds = time.perf_counter() - self._started
        if isinstance(error, NotImplementedError):
            error = self._call.not_implemented(error)
        code = self._code(error)
        self._call.metrics.handled(_go_name(code), seconds)
        if self._trace is not None:
            self._trace.end(code.name)
        if isinstance(error, CellServeError):
            await self._abort(error)
        elif isinstance(error, Exception) and not isinstance(error, grpc.aio.BaseError):
            await self._abort(self._call.internal(self.grant.identity.tenant, error))
        else:
            return False
        return True

    def _code(self, error: BaseException | None) -> grpc.StatusCode:
        if error is None:
            return grpc.StatusCode.OK
        if isinstance(error, CellServeError):
            return error.code
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            # grpc cancels the task both when the caller goes and when its time is over.
            over = self._context.time_remaining() == 0
            return grpc.StatusCode.DEADLINE_EXCEEDED if over else grpc.StatusCode.CANCELLED
        if isinstance(error, grpc.aio.BaseError):
            # The behaviour ended the RPC on its own, as the health service does.
            return _code_of(self._context)
        return grpc.StatusCode.INTERNAL

    async def _abort(self, error: CellServeError) -> None:
        """Ends the RPC with an error.

        grpc keeps what it raises for that at the RPC, and its frames would keep the RPC and the request: a circle for
        the garbage collector, which does not know how large requests are. So it goes no further, and is left without
        frames; once the behaviour is over grpc raises it again by itself.
        """
        self._call.refused(error, self._context)
        status = status_of(error)  # Its message is cut to what a header takes.
        trailers = ((STATUS_DETAILS_KEY, status.SerializeToString()),)
        try:
            await self._context.abort(error.code, status.message, trailers)
        except grpc.aio.AbortError as kept:
            kept.__traceback__ = kept.__context__ = None
        error.__traceback__ = None  # The same of who keeps this one.


def _counting_encoder(handler: Handler, call: _Call) -> Callable[[Any], bytes]:
    encode, sent = handler.response_serializer, call.metrics.sent

    def encoder(message: Any) -> bytes:
        sent.count += 1
        data: bytes = message if encode is None else encode(message)
        return data

    return encoder


def _type_of(handler: Handler) -> str:
    """What go-grpc-prometheus calls the kind of a method."""
    if handler.request_streaming and handler.response_streaming:
        return "bidi_stream"
    if handler.request_streaming:
        return "client_stream"
    return "server_stream" if handler.response_streaming else "unary"


def _go_name(code: grpc.StatusCode) -> str:
    """The code as grpc's Go library writes it, which dashboards know: ``InvalidArgument``, ``Canceled``."""
    if code is grpc.StatusCode.OK:
        return "OK"
    if code is grpc.StatusCode.CANCELLED:
        return "Canceled"
    return code.name.title().replace("_", "")


def _code_of(context: Context) -> grpc.StatusCode:
    """The code that a behaviour set on its context."""
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    for known in grpc.StatusCode:
        if known.value[0] == code:
            return known
    return grpc.StatusCode.UNKNOWN
