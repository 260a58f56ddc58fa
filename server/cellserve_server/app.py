"""The server as a whole: start, drain and stop, in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import secrets
import time
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cellserve.errors import CellServeError, UnavailableError
from cellserve.v1 import (
    model_service_pb2,
    model_service_pb2_grpc,
    peer_service_pb2_grpc,
    recurrent_service_pb2,
    recurrent_service_pb2_grpc,
)
from cellserve_server.binding import (
    StartError,
    advertised_address,
    bind_error,
    host_port,
    identity_warnings,
    is_loopback,
    require_private_or_insecure,
)
from cellserve_server.config import INT32_MAX, ServerConfig
from cellserve_server.edge.call_turns import CallTurns
from cellserve_server.edge.interceptors import RpcInterceptor
from cellserve_server.edge.model_service import ModelService
from cellserve_server.edge.peer_service import PeerService
from cellserve_server.edge.refusals import Refusals
from cellserve_server.edge.requests import RequestMemory
from cellserve_server.edge.rpc_admission import RpcAdmission
from cellserve_server.edge.service import RecurrentService
from cellserve_server.edge.stream_admission import StreamAdmission
from cellserve_server.edge.streams import Streams
from cellserve_server.engine.engine import draining_error
from cellserve_server.http.door import Door
from cellserve_server.http.metrics_page import MetricsPage
from cellserve_server.inspector.inspector import Inspector, ServerFacts
from cellserve_server.inspector.pages import InspectorPages
from cellserve_server.inspector.samples import Sampler, reader_of
from cellserve_server.keeping.assembly import Keeping
from cellserve_server.keeping.operations import SessionOperations
from cellserve_server.keeping.residents import Residents
from cellserve_server.metrics import Metrics
from cellserve_server.models.loaded_model import ModelState
from cellserve_server.models.model_watch import ModelLoader
from cellserve_server.models.repository import ModelRepository
from cellserve_server.security.authentication import REFRESH_S, Authenticator
from cellserve_server.security.certificates import CertificateFiles
from cellserve_server.security.tls import PeerChannels, server_credentials
from cellserve_server.step_rates import StepRates
from cellserve_server.stores.base import Store
from cellserve_server.stores.opening import make_store
from cellserve_server.tenant_limits import TenantLimits
from cellserve_server.tracing.opening import open_tracing

if TYPE_CHECKING:
    from cellserve_server.tracing.tracing import Tracing

SERVICES = (
    recurrent_service_pb2.DESCRIPTOR.services_by_name["RecurrentService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)
LOADING_RETRY_S = 1.0
# How often unused defined models are looked for at least and at most.
SWEEP_MIN_S = 1.0
SWEEP_MAX_S = 60.0
# An RPC counts as over a moment before its last bytes are handed to the transport.
LAST_BYTES_S = 0.5
# What is left for writing and letting go of sessions when running work has used the drain's time up, at least.
LEAST_RELEASE_S = 1.0
# How often the file of quotas is looked at.
QUOTAS_POLL_S = 5.0


def steady_clock() -> Callable[[], float]:
    """A clock of unix seconds that never goes back and never jumps: the real one's setting, then a monotonic one."""
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset


def random_ids() -> Callable[[], str]:
    """Makes a maker of ids: 24 hexadecimal digits, random, not secret."""
    # Seeded by the system once: asking it for each of a million sessions is what would take longest.
    generator = random.Random(secrets.randbits(256))
    return lambda: f"{generator.getrandbits(96):024x}"


class App:
    """A server in this process. Everything runs on the event loop that starts it, but for computing and loading.

    Use it as ``async with App(config) as app``, or call ``start`` and ``stop``.

    Args:
        config: the settings.
        clock: unix seconds, never going back; what expires, expires by it. None: ``steady_clock()``.
        new_id: makes ids of sessions, lives and incidents; None: random ones.
        store: where sessions are kept; None: as the settings say.
        tracing: makes spans; None: as the settings say.

    Raises:
        StartError: tracing is asked for and cannot be had, or the file of quotas cannot be used.

    Attributes:
        limits, metrics, refusals, models, loader, operations, engine, streams, interceptor: the parts, for who runs a
            server within a program.
        inspector: answers the inspector's pages; None: it is off, or not started.
        failed: set when the engine has died of a bug: the server is of no more use.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        clock: Callable[[], float] | None = None,
        new_id: Callable[[], str] | None = None,
        store: Store | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        world_clock = clock or time.time
        clock = clock or steady_clock()
        new_id = new_id or random_ids()
        self.metrics = Metrics()
        self.refusals = Refusals(self.metrics.sessions, clock)
        self.limits = TenantLimits(config)
        self.models = ModelRepository(Path(config.models), config, clock, self.limits)
        self.loader = ModelLoader(self.models, Path(config.models))
        self.residents = Residents(config, self.models, self.metrics, clock, new_id, self.limits)
        self.engine = self.residents.engine
        if store is None:
            store = make_store(config.store, clock, fsync=config.store_fsync, timeout_s=config.store_timeout_ms / 1000)
        self._certificates = CertificateFiles(config, self.metrics.registry, clock) if config.tls_cert else None
        self.authenticator = Authenticator(config, self.metrics.registry, world_clock, self._certificates)
        self.keeping = Keeping(
            config,
            store,
            self.residents,
            self.models,
            self.metrics,
            clock,
            new_id,
            self._note_bug,
            self._note_store,
            PeerChannels(self._certificates, config.tls_server_name),
        )
        self.operations = SessionOperations(self.residents, self.keeping.keeper, new_id, config.default_ttl_s)
        self._tracing = open_tracing(config) if tracing is None else tracing
        if self._tracing is not None:
            self.engine.observers.append(self._tracing.ticks)
        self.failed = asyncio.Event()
        self._config = config
        self._clock = clock
        self._new_id = new_id
        self._rates = StepRates(config.max_steps_per_s, self.limits, clock)
        streams = StreamAdmission(config.max_streams)
        self.streams = Streams(
            streams,
            self.limits,
            self._rates,
            self.keeping.finder,
            self.operations,
            self.refusals,
            self._tracing,
        )
        retry_s = config.queue_full_retry_ms / 1000
        self.interceptor = RpcInterceptor(
            self.authenticator,
            self.metrics.rpcs,
            self.refusals,
            new_id,
            self._refusal,
            RpcAdmission(self.limits, config.max_concurrent_rpcs, retry_s),
            streams,
            StreamAdmission(config.max_streams),
            CallTurns(
                lambda: self.engine.sharing.is_shared, lambda tenant: self.limits.of(tenant).max_queued_bytes, retry_s
            ),
            max_message_parts=config.max_message_parts,
            tracing=self._tracing,
        )
        self._health = health.aio.HealthServicer()
        self._loading = True
        self._draining = False
        self._is_healthy = False
        self._port = 0
        self._page: MetricsPage | None = None
        self.inspector: Inspector | None = None
        self._exit = contextlib.AsyncExitStack()
        self._log = structlog.get_logger("cellserve.app")
        self._store = store

    @property
    def port(self) -> int:
        """The TCP port of the gRPC server; known once it is started."""
        return self._port

    @property
    def address(self) -> str:
        """``host:port`` of the gRPC server; known once it is started."""
        return host_port(self._config.host, self._port)

    @property
    def http_port(self) -> int | None:
        """The TCP port of the metrics page; None: it is turned off."""
        return None if self._page is None else self._page.port

    async def __aenter__(self) -> App:
        await self.start()
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self.stop()

    # --- start -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Binds, answers health checks with NOT_SERVING, loads the models, and serves.

        Raises:
            StartError: an address cannot be used, or the folder of models cannot be read.
        """
        require_private_or_insecure(self._config)
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        self._show_in_metrics()
        self.models.on_unload = self.residents.end_sessions_of
        self.models.on_drop = self.engine.lanes.forget
        if self._tracing is not None:
            self._exit.push_async_callback(self._tracing.close)  # After all that it is told of.
        # Before the page: where a server runs already, the port of the two that is spoken of is that of the RPCs.
        server = self._make_server()
        self._start_page()
        self._exit.callback(self.residents.stop)
        self._exit.push_async_callback(self.keeping.stop)
        self._exit.push_async_callback(self.engine.stop)
        self.engine.start().add_done_callback(self._note_engine_end)
        self._exit.push_async_callback(server.stop, LAST_BYTES_S)
        self._exit.push_async_callback(self._health.enter_graceful_shutdown)
        await self._set_health(False)
        await server.start()
        await self.keeping.start(advertised_address(self._config, self._port))
        try:
            await self.loader.load_all()
        except OSError as error:
            raise StartError(f"models: cannot read the folder {self._config.models}: {error.strerror}") from error
        self._loading = False
        self._begin("sweeper", self._sweep_models())
        self._begin("model-watch", self._watch_models())
        if self._config.quotas_file:
            self._begin("quotas-watch", self._watch_quotas())
        if self.authenticator.is_asked:
            self._begin("identity-watch", self._watch_identities())
        await self._set_health(True)
        for event, host, advice in identity_warnings(self._config):
            self._log.warning(event, host=host, advice=advice)
        has_tls = self._certificates is not None
        self._log.info(
            "serving", address=self.address, tls=has_tls, http_port=self.http_port, **self.models.count_by_state()
        )

    def _make_server(self) -> grpc.aio.Server:
        config = self._config
        server = grpc.aio.server(interceptors=[self.interceptor], options=server_options(config))
        self.add_services(server)
        address = host_port(config.host, config.port)
        try:
            if self._certificates is None:
                self._port = server.add_insecure_port(address)
            else:
                self._port = server.add_secure_port(address, server_credentials(self._certificates))
        except (RuntimeError, UnicodeError) as error:
            raise bind_error("--port", config.host, config.port) from error
        return server

    def add_services(self, server: grpc.aio.Server) -> None:
        """Adds all services to a server: to the app's own, or to one that only collects what there is to call."""
        config = self._config
        requests = RequestMemory(self.limits, config.max_remembered_requests, config.remember_requests_s, self._clock)
        recurrent_service_pb2_grpc.add_RecurrentServiceServicer_to_server(
            RecurrentService(
                self.limits,
                self._rates,
                self.keeping.finder,
                self.operations,
                self.streams,
                requests,
                self._new_id,
                self._tracing,
            ),
            server,
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(
                self.limits,
                self.models,
                self.loader,
                self.keeping.finder,
                self.keeping.models,
                self.keeping.durability,
            ),
            server,
        )
        peer_service_pb2_grpc.add_PeerServiceServicer_to_server(PeerService(self.keeping.stored), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME), server
        )

    def _start_page(self) -> None:
        host, port = self._config.http_host, self._config.http_port
        if port == -1:
            return
        inspector = self._make_inspector() if self._config.inspector else None
        door = Door(self.authenticator) if self.authenticator.is_asked else None
        try:
            self._page = MetricsPage(self.metrics.registry, host, port, inspector, door)
        except (OSError, OverflowError, UnicodeError) as error:
            is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            if self._config.port != 0 or not is_taken:
                raise bind_error("--http-port", host, port) from error
            # Who takes any port for the server takes any for its page: several servers on one machine, tests say.
            self._page = MetricsPage(self.metrics.registry, host, 0, inspector, door)
            self._log.warning("metrics_port_taken", wanted=port, got=self._page.port)
        self._exit.push_async_callback(asyncio.to_thread, self._page.close)
        self._begin("loop-lag", self.metrics.server.loop_lag.sample(time.perf_counter, asyncio.sleep))
        url = f"http://{host_port(host, self._page.port)}"
        self._log.info("metrics_page", url=f"{url}/metrics")
        if inspector is not None:
            who = "who reaches this address" if door is None else "with a token that has the right to metrics"
            self._log.info("inspector", url=f"{url}/inspector/", seen_by=f"everyone {who}")

    def _make_inspector(self) -> InspectorPages:
        config = self._config
        store = config.store.partition(":")[0]
        facts = ServerFacts(self.address, version("cellserve-server"), store, self._clock())
        sampler = Sampler(reader_of(self.metrics), self._clock)
        self.inspector = Inspector(config, self.limits, self.operations, sampler, self._clock, facts)
        self.inspector.start()
        self._exit.callback(self.inspector.stop)
        return InspectorPages(self.inspector, is_private=is_loopback(config.http_host))

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"cellserve-{name}")
        self._exit.callback(task.cancel)

    def _show_in_metrics(self) -> None:
        durability = "memory" if self._store.is_volatile else self._config.durability
        self.metrics.server.declare(self._config, store=self._store.url.partition(":")[0], durability=durability)
        loop = asyncio.get_running_loop()
        self.metrics.server.watch(
            tasks=lambda: len(asyncio.all_tasks(loop)),
            serving=lambda: self._is_healthy and not self._draining,
            draining=lambda: self._draining,
            models=lambda: dict.fromkeys(ModelState, 0) | self.models.count_by_state(),
        )
        self.metrics.rpcs.watch(
            rpcs=lambda: self.interceptor.admission.active,
            waiting=lambda: self.interceptor.turns.waiting,
            streams=lambda: len(self.streams),
        )

    async def _set_health(self, serving: bool) -> None:
        self._is_healthy = serving
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *SERVICES):
            await self._health.set(service, status)

    # --- while it serves ---------------------------------------------------------------------------------------------

    def _refusal(self) -> CellServeError | None:
        """What new RPCs are told; None: they may begin."""
        if self._draining:
            return draining_error()
        if self._loading:
            return UnavailableError("the server is still loading its models", retry_after_s=LOADING_RETRY_S)
        return None

    def _note_engine_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._note_bug(error)

    def _note_bug(self, error: BaseException) -> None:
        self._log.critical("engine_died", exc_info=error)
        self.failed.set()

    async def _note_store(self, is_there: bool) -> None:
        """Without its store a replica is asked in vain: its health says so, and clients and proxies ask others."""
        if not self._loading and not self._draining:
            await self._set_health(is_there)

    async def _watch_models(self) -> None:
        while self._config.models_poll_s:
            await asyncio.sleep(self._config.models_poll_s)
            await self.loader.poll()

    async def _watch_quotas(self) -> None:
        while True:
            await asyncio.sleep(QUOTAS_POLL_S)
            self.limits.refresh()

    async def look_at_identities(self) -> None:
        """Reads again what callers are known by, if it has changed, and ends the streams of those no longer good."""
        await asyncio.to_thread(self.authenticator.refresh)
        self.interceptor.lasting.look()

    async def _watch_identities(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            await self.look_at_identities()

    async def _sweep_models(self) -> None:
        while True:
            due = self.models.sweep()
            wait_s = SWEEP_MAX_S if due is None else due - self._clock()
            await asyncio.sleep(min(max(wait_s, SWEEP_MIN_S), SWEEP_MAX_S))

    # --- stop --------------------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float | None = None) -> bool:
        """Takes no new work, tells the streams, lets what is under way finish, and writes and lets go of all sessions.

        Args:
            timeout_s: how long; what is not done by then fails with DRAINING. None: the setting's.

        Returns:
            Whether all that was answered is where it is kept.
        """
        timeout_s = self._config.drain_timeout_s if timeout_s is None else timeout_s
        started = time.monotonic()
        self._draining = True
        self._log.info(
            "draining", rpcs=self.interceptor.admission.active, runs=self.engine.queue.runs, timeout_s=timeout_s
        )
        await self._health.enter_graceful_shutdown()
        self.streams.tell_draining(timeout_s)
        await self.engine.drain(timeout_s)
        self.streams.finish()
        left_s = max(timeout_s - (time.monotonic() - started), 0.0)
        try:
            await asyncio.wait_for(self.interceptor.admission.wait_idle(), left_s)
        except TimeoutError:
            self._log.warning("drain_timeout", rpcs_left=self.interceptor.admission.active)
        left_s = max(timeout_s - (time.monotonic() - started), LEAST_RELEASE_S)
        is_written = await self.keeping.release_all(left_s)
        self._log.info("drained", seconds=round(time.monotonic() - started, 3))
        return is_written

    def note_forced(self) -> None:
        """Logs what a stop cuts off that does not wait for the drain."""
        self._log.warning(
            "drain_forced",
            rpcs=self.interceptor.admission.active,
            runs=self.engine.queue.runs,
            streams=len(self.streams),
        )

    async def stop(self) -> None:
        """Stops everything that was started, the last first. RPCs that are under way are cancelled."""
        self._draining = True
        await self._exit.aclose()


def server_options(config: ServerConfig) -> list[tuple[str, int]]:
    """The options of grpc's server. Public, so that what is compared with this server can have the same ones."""
    return [
        # Two servers that share a port by accident would each get half of the sessions.
        ("grpc.so_reuseport", 0),
        # The interceptor refuses what is above the limit, with a status of ours; grpc's own refusal is seen by nobody.
        ("grpc.max_receive_message_length", min(2 * config.max_message_bytes, INT32_MAX)),
        ("grpc.max_send_message_length", config.max_message_bytes),
        # What one connection has more waits at the client. In grpc's own line, which knows no turns, others would wait.
        ("grpc.max_concurrent_streams", min(config.max_connection_rpcs, config.max_concurrent_rpcs)),
        # grpc cancels, without a word, what comes while a thousand calls wait to be looked at; our limit has words.
        ("grpc.server.max_pending_requests", config.max_concurrent_rpcs),
        ("grpc.server.max_pending_requests_hard_limit", 2 * config.max_concurrent_rpcs),
        ("grpc.keepalive_time_ms", round(config.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(config.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", round(config.min_ping_interval_s * 1000)),
        ("grpc.max_connection_idle_ms", _ms_or_never(config.max_connection_idle_s)),
        ("grpc.max_connection_age_ms", _ms_or_never(config.max_connection_age_s)),
        ("grpc.max_connection_age_grace_ms", round(config.max_connection_age_grace_s * 1000)),
    ]


def _ms_or_never(seconds: float) -> int:
    """Milliseconds as grpc takes them; 0 seconds: never."""
    return round(seconds * 1000) if seconds else INT32_MAX
