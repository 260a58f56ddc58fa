"""Everything that the server counts, on a registry of its own: two servers in one process do not mix.

The ``grpc_server_*`` metrics have the names and labels of go-grpc-prometheus, which dashboards know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cellserve.errors import all_reasons
from cellserve_server.tallies import Observations, Tally, Teller
from cellserve_server.tick_times import TickTimes

OUTCOMES = ("ok", "error", "cancelled", "deadline")
RPC_LABELS = ("grpc_type", "grpc_service", "grpc_method")
# Beyond so many names of models the rest share one label, so that loading and unloading cannot grow it for ever.
MAX_MODEL_LABELS = 1000
OTHER_MODELS = "other"
OTHER_REASONS = "other"
RPC_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TICK_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
STORE_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
# What a session was taken from the store after: nobody held it, its holder let it go, or did not (which may be this
# server before a restart, or before it sent the session away).
CLAIMS = ("free", "released", "fenced")
TICK_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


@dataclass(frozen=True)
class _ModelMetrics:
    """One model's children: looking labels up costs more than counting."""

    steps: Tally
    replays: Counter
    ticks: Tally
    tick_rows: Observations
    tick_seconds: Observations
    runs: dict[str, Tally]


class RpcMetrics:
    """One RPC method's children."""

    def __init__(self, metrics: Metrics, grpc_type: str, service: str, method: str) -> None:
        labels = (grpc_type, service, method)
        self.started = metrics.teller.counter(metrics.rpc_started.labels(*labels))
        self.received = metrics.teller.counter(metrics.rpc_received.labels(*labels))
        self.sent = metrics.teller.counter(metrics.rpc_sent.labels(*labels))
        self.seconds = metrics.teller.histogram(metrics.rpc_seconds.labels(*labels))
        self._labels = labels
        self._metrics = metrics
        self._by_code: dict[str, Tally] = {}

    def handled(self, code: str, seconds: float) -> None:
        """An RPC ended with this code, so long after it began."""
        child = self._by_code.get(code)
        if child is None:
            handled = self._metrics.rpc_handled.labels(*self._labels, code)
            child = self._by_code[code] = self._metrics.teller.counter(handled)
        child.count += 1
        self.seconds.observe(seconds)


class _CountsByLabel(Collector):
    """A gauge with one label whose values are asked for when they are wanted."""

    def __init__(self, name: str, documentation: str, label: str, count: Callable[[], Mapping[str, int]]) -> None:
        self._name, self._documentation, self._label, self._count = name, documentation, label, count

    def collect(self) -> list[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, number in self._count().items():
            family.add_metric([value], number)
        return [family]


class Metrics:
    """The server's metrics. Told from the event loop; read by the thread of the metrics page."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.teller = Teller()
        self.registry.register(self.teller)  # The first that is asked.
        self._models: dict[str, _ModelMetrics] = {}
        self._make_rpc_metrics()
        self._make_engine_metrics()
        self._make_session_metrics()

    def _make_rpc_metrics(self) -> None:
        registry = self.registry
        self.rpc_started = Counter("grpc_server_started", "RPCs begun.", RPC_LABELS, registry=registry)
        self.rpc_handled = Counter(
            "grpc_server_handled", "RPCs ended, by code.", (*RPC_LABELS, "grpc_code"), registry=registry
        )
        self.rpc_received = Counter("grpc_server_msg_received", "Messages received.", RPC_LABELS, registry=registry)
        self.rpc_sent = Counter("grpc_server_msg_sent", "Messages sent.", RPC_LABELS, registry=registry)
        self.rpc_seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from an RPC's begin to its end.",
            RPC_LABELS,
            registry=registry,
            buckets=RPC_SECONDS,
        )

    def _make_engine_metrics(self) -> None:
        registry, model = self.registry, ("model",)
        self._steps = Counter("cellserve_steps", "Steps applied; repeats apart.", model, registry=registry)
        self._replays = Counter("cellserve_replays", "Repeated runs answered again.", model, registry=registry)
        self._ticks = Counter("cellserve_ticks", "Passes of the engine.", model, registry=registry)
        self._tick_rows = Histogram(
            "cellserve_tick_rows", "Rows that a tick stepped.", model, registry=registry, buckets=TICK_ROWS
        )
        self._tick_seconds = Histogram(
            "cellserve_tick_seconds", "What a tick took.", model, registry=registry, buckets=TICK_SECONDS
        )
        self._runs = Counter("cellserve_runs", "Runs ended, by outcome.", ("model", "outcome"), registry=registry)
        self._queue_runs = Gauge("cellserve_queue_runs", "Runs that wait or are under way.", registry=registry)
        self._queue_bytes = Gauge("cellserve_queue_bytes", "Bytes of these runs.", registry=registry)

    def _make_session_metrics(self) -> None:
        registry = self.registry
        self._sessions = Gauge("cellserve_sessions", "Sessions in memory.", registry=registry)
        self._state_bytes = Gauge("cellserve_state_bytes", "Bytes of these sessions' states.", registry=registry)
        self._created = Counter("cellserve_sessions_created", "Sessions made.", registry=registry)
        self._ended = Counter(
            "cellserve_sessions_ended",
            "Sessions that ended, or left memory for the store, by reason.",
            ("reason",),
            registry=registry,
        )
        self._streams = Gauge("cellserve_streams", "Open streams.", registry=registry)
        self._slab_bytes = Gauge("cellserve_slab_bytes", "Bytes set aside for states.", registry=registry)
        self._slab_rows = Gauge("cellserve_slab_rows", "Rows set aside for states.", registry=registry)
        self._store_seconds = Histogram(
            "cellserve_store_seconds",
            "What an operation of the store took.",
            ("operation",),
            registry=registry,
            buckets=STORE_SECONDS,
        )
        self._store_failures = Counter(
            "cellserve_store_failures", "Operations of the store that failed.", ("operation",), registry=registry
        )
        self._fenced = Counter(
            "cellserve_fenced_writes", "States that the store refused: another replica has them.", registry=registry
        )
        claims = Counter(
            "cellserve_sessions_claimed", "Sessions taken from the store, by how.", ("how",), registry=registry
        )
        self._claims = {how: claims.labels(how) for how in CLAIMS}
        refusals = Counter("cellserve_refusals", "Errors answered, by reason.", ("reason",), registry=registry)
        self._refusals = {reason: refusals.labels(reason) for reason in (*sorted(all_reasons()), OTHER_REASONS)}

    # --- what the server is --------------------------------------------------------------------------------------

    def build_info(self, labels: Mapping[str, str]) -> None:
        """States versions, as a gauge that is always 1."""
        info = Gauge("cellserve_build_info", "What is running.", tuple(labels), registry=self.registry)
        info.labels(*labels.values()).set(1)

    def watch(
        self,
        *,
        queue_runs: Callable[[], int] | None = None,
        queue_bytes: Callable[[], int] | None = None,
        sessions: Callable[[], int] | None = None,
        state_bytes: Callable[[], int] | None = None,
        streams: Callable[[], int] | None = None,
        slab_bytes: Callable[[], int] | None = None,
        slab_rows: Callable[[], int] | None = None,
    ) -> None:
        """Says where gauges get their values from. Called by another thread: the functions read one number each."""
        watched = (
            (self._queue_runs, queue_runs),
            (self._queue_bytes, queue_bytes),
            (self._sessions, sessions),
            (self._state_bytes, state_bytes),
            (self._streams, streams),
            (self._slab_bytes, slab_bytes),
            (self._slab_rows, slab_rows),
        )
        for gauge, function in watched:
            if function is not None:
                gauge.set_function(function)

    def watch_models(self, count_by_state: Callable[[], Mapping[str, int]]) -> None:
        """Says where the number of models by state comes from. Called by another thread. Once only."""
        self.registry.register(_CountsByLabel("cellserve_models", "Models, by state.", "state", count_by_state))

    def watch_certificate(self, expiry: Callable[[], float]) -> None:
        """Says until when the certificate of TLS is good. Called by another thread. Once only, where there is TLS."""
        gauge = Gauge(
            "cellserve_tls_certificate_expiry_seconds",
            "Until when the server's certificate is good, in unix time.",
            registry=self.registry,
        )
        gauge.set_function(expiry)
        reloads = Counter(
            "cellserve_tls_reloads",
            "Times that a changed certificate was read, by outcome; one that cannot be used leaves the one before.",
            ("outcome",),
            registry=self.registry,
        )
        self._reloads = {outcome: reloads.labels(outcome) for outcome in ("ok", "failed")}

    # --- what happens --------------------------------------------------------------------------------------------

    def tick(self, model: str, rows: int, times: TickTimes) -> None:
        """The engine passed once over so many rows of a model."""
        children = self._of(model)
        children.ticks.count += 1
        children.tick_rows.observe(rows)
        children.tick_seconds.observe(times.seconds)

    def steps(self, model: str, count: int) -> None:
        """So many steps of a model were applied."""
        self._of(model).steps.count += count

    def replay(self, model: str) -> None:
        """A repeated run was answered again."""
        self._of(model).replays.inc()

    def runs_done(self, model: str, outcome: str, count: int) -> None:
        """So many runs ended: ``ok``, ``error``, ``cancelled`` or ``deadline``."""
        self._of(model).runs[outcome].count += count

    def session_created(self) -> None:
        """A session was made."""
        self._created.inc()

    def session_ended(self, reason: str) -> None:
        """A session ended (``expired``, ``deleted``, ``unloaded``) or left memory for the store (``evicted``, ...)."""
        self._ended.labels(reason).inc()

    def store_seconds(self, operation: str, seconds: float) -> None:
        """An operation of the store was done."""
        self._store_seconds.labels(operation).observe(seconds)

    def store_failed(self, operation: str) -> None:
        """An operation of the store failed."""
        self._store_failures.labels(operation).inc()

    def fenced(self, count: int) -> None:
        """The store refused states of so many sessions, which another replica has."""
        self._fenced.inc(count)

    def claimed(self, how: str) -> None:
        """A session was taken from the store: ``free``, ``released`` by its holder, or ``fenced``."""
        self._claims[how].inc()

    def tls_reloaded(self, outcome: str) -> None:
        """A changed certificate was read: ``ok``, or ``failed`` and left where it is."""
        self._reloads[outcome].inc()

    def refused(self, reason: str) -> None:
        """A request, or a part of one, was answered with an error of this reason."""
        self._refusals.get(reason, self._refusals[OTHER_REASONS]).inc()

    def _of(self, model: str) -> _ModelMetrics:
        children = self._models.get(model)
        if children is not None:
            return children
        if len(self._models) >= MAX_MODEL_LABELS and model != OTHER_MODELS:
            return self._of(OTHER_MODELS)
        children = self._models[model] = _ModelMetrics(
            steps=self.teller.counter(self._steps.labels(model)),
            replays=self._replays.labels(model),
            ticks=self.teller.counter(self._ticks.labels(model)),
            tick_rows=self.teller.histogram(self._tick_rows.labels(model)),
            tick_seconds=self.teller.histogram(self._tick_seconds.labels(model)),
            runs={outcome: self.teller.counter(self._runs.labels(model, outcome)) for outcome in OUTCOMES},
        )
        return children
