"""Servers in a bad way, each for a reason of its own, so that every alert has something to fire for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np

from cellserve.cells import BasicLSTMCell
from cellserve.errors import CellServeError, from_rpc_error
from cellserve.tensors import tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import sequence_pb2, session_pb2
from cellserve_client import TlsSettings
from cellserve_server.models.model_files import CELL_FILE, WEIGHTS_FILE
from deploy.fleet import Fleet
from deploy.fleet.ports import HOST, free_ports
from tests.certificates import Authority
from tests.deploy.prometheus_process import Prometheus
from tests.faults.redis_commands import command
from tests.servers import RPC_TIMEOUT_S, Stubs, define_model, stubs_for

UNITS, DEPTH = 128, 2
MAX_SESSIONS, MAX_QUEUED_RUNS, LONG_STEPS = 8, 4, 10_000
QUICK = ("--store-timeout-ms", "400", "--takeover-timeout-ms", "300", "--flush-interval-ms", "200")
PAUSE_MS = 300
FRAME = tensor_from_array(np.ones(DEPTH, np.float32))


class Server:
    """One server with a model, as its callers and Prometheus know it."""

    def __init__(self, fleet: Fleet, stack: ExitStack, tls: TlsSettings | None) -> None:
        self.fleet = fleet
        self.instance = urlsplit(fleet.metrics_urls[0]).netloc
        (self.process,) = fleet.replicas
        credentials = None if tls is None else tls.credentials()
        self.stubs: Stubs = stack.enter_context(stubs_for(fleet.addresses[0], credentials))
        self.model = define_model(self.stubs, BasicLSTMCell(UNITS), DEPTH).name

    def create(self, session_id: str) -> None:
        session = session_pb2.Session(model=self.model)
        request = messages.CreateSessionRequest(session_id=session_id, session=session)
        self.stubs.recurrent.CreateSession(request, timeout=RPC_TIMEOUT_S)

    def step(self, session_id: str) -> None:
        request = messages.StepRequest(name=f"sessions/{session_id}", inputs=[FRAME])
        self.stubs.recurrent.Step(request, timeout=RPC_TIMEOUT_S)

    def begin_long_run(self, session_id: str) -> Any:
        """Begins a sequence that takes a part of a second; its call."""
        values = tensor_from_array(np.ones((1, LONG_STEPS, DEPTH), np.float32))
        request = messages.RunSequenceRequest(
            session=f"sessions/{session_id}",
            inputs=sequence_pb2.Sequence(values=[values]),
            outputs=sequence_pb2.OUTPUT_SELECTION_NONE,
        )
        return self.stubs.recurrent.RunSequence.future(request, timeout=RPC_TIMEOUT_S)

    def error_of(self, operation: str, session_id: str) -> CellServeError | None:
        """What ``create`` or ``step`` fails with; None: it does not."""
        try:
            getattr(self, operation)(session_id)
        except grpc.RpcError as error:
            return from_rpc_error(error)
        return None


class Stage:
    """All servers, and the Prometheus that scrapes them.

    Attributes:
        cut_off: waits for its store before it answers, which will be held.
        behind: at the same store, writes after it has answered.
        full: has its sessions in memory, and room for few of them.
        restarted: ends and comes back.
        stored: at a store of its own.
        lonely: at that store too, and says that it is where nobody is.
        secured: speaks TLS.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        few = ("--max-sessions", str(MAX_SESSIONS), "--max-queued-runs", str(MAX_QUEUED_RUNS), "--models-poll-s", "1")
        self.models = folder / "models"
        self.models.mkdir()
        self.cut_off = self._server("cut-off")
        held, kept_in = self.cut_off.fleet, ("--durability", "async")
        self.behind = self._server("behind", *kept_in, store=held.store)
        self.full = self._server("full", *few, "--models", str(self.models), store="memory:")
        self.restarted = self._server("restarted", store="memory:")
        self.stored = self._server("stored", "--max-sessions", str(MAX_SESSIONS))
        self._authority = Authority(folder / "authority")
        self._pair = self._authority.issue("server")
        files = ("--tls-cert", str(self._pair.cert), "--tls-key", str(self._pair.key))
        self.secured = self._server("secured", *files, store="memory:", tls=self._authority.trusted())
        (nobody,) = free_ports(1)
        self.lonely = self._server("lonely", "--advertise", f"{HOST}:{nobody}", store=self.stored.fleet.store)
        self.servers = (self.cut_off, self.behind, self.full, self.restarted, self.stored, self.lonely, self.secured)
        (folder / "prometheus").mkdir()
        self.prometheus = Prometheus(folder / "prometheus", [server.instance for server in self.servers])
        self.prometheus.start()
        stack.callback(self.prometheus.stop)

    def _server(self, name: str, *arguments: str, store: str | None = None, tls: TlsSettings | None = None) -> Server:
        fleet = Fleet(1, folder=self._folder / name, store=store, proxy=None, arguments=(*QUICK, *arguments))
        return Server(self._stack.enter_context(fleet), self._stack, tls)

    def be_well(self) -> None:
        """Ordinary use, as Prometheus sees it: of what counts it knows where it began."""
        for server in self.servers:
            for session_id in ("a", "b"):
                server.create(f"{server.process.log.parent.name}-{session_id}")
                server.step(f"{server.process.log.parent.name}-{session_id}")
        self.prometheus.wait_for("count_over_time(up[1h]) >= 4", len(self.servers))
        self.prometheus.wait_for("cellserve_steps_total == 2", len(self.servers))

    def provoke(self) -> dict[str, Server]:
        """Brings about what every alert is for; by alert, whose it is to be."""
        return {
            **self._lose_a_session_and_stall(),
            **self._slow_the_store_and_crowd(),
            **self._hold_the_store(),
            **self._fill(),
            **self._restart_and_end(),
            **self._shorten_the_certificate(),
        }

    def _lose_a_session_and_stall(self) -> dict[str, Server]:
        """Another server takes a session whose holder it cannot reach; the holder stands still, then steps it."""
        self.stored.step("lonely-a")
        self.lonely.process.pause()
        missed = f'count_over_time(up{{instance="{self.lonely.instance}"}}[1h]) - sum_over_time(up[1h]) >= 3'
        self.prometheus.wait_for(missed)
        self.lonely.process.resume()
        error = self.lonely.error_of("step", "lonely-a")
        assert error is not None
        assert error.reason == "SESSION_MOVED"
        return {"CellServeFencedWrites": self.lonely, "CellServeLoopLag": self.lonely}

    def _slow_the_store_and_crowd(self) -> dict[str, Server]:
        """Writes take their time; more sessions are used than there is room for; a record is damaged."""
        assert self.stored.fleet.redis is not None
        port = self.stored.fleet.redis.port
        for _ in range(3):
            command(port, "CLIENT", "PAUSE", PAUSE_MS, "WRITE")
            self.stored.step("stored-a")
        for number in range(3 * MAX_SESSIONS):
            self.stored.create(f"crowd-{number}")
        (key,) = command(port, "KEYS", "*crowd-0*")
        command(port, "HSET", key, "m", "damaged")
        error = self.stored.error_of("step", "crowd-0")
        assert error is not None
        assert error.reason == "RECORD_CORRUPT"
        return dict.fromkeys(("CellServeStoreSlow", "CellServeEvictions", "CellServeStateLost"), self.stored)

    def _hold_the_store(self) -> dict[str, Server]:
        """The store stands still: one server cannot answer, the other has answered what it cannot write."""
        redis = self.cut_off.fleet.redis
        assert redis is not None
        redis.pause()
        self._stack.callback(redis.resume)
        self.behind.step("behind-a")
        error = self.cut_off.error_of("step", "cut-off-a")
        assert error is not None
        assert error.reason == "STORE_UNAVAILABLE"
        hurt = ("CellServeStoreFailing", "CellServeNotServing", "CellServeErrors")
        return {**dict.fromkeys(hurt, self.cut_off), "CellServeUnwritten": self.behind}

    def _fill(self) -> dict[str, Server]:
        """As many sessions as there may be and one more, a full queue, a step that waits, a model that is none."""
        for number in range(MAX_SESSIONS - 2):
            self.full.create(f"more-{number}")
        error = self.full.error_of("create", "one-more")
        assert error is not None
        assert error.reason == "QUOTA_EXCEEDED"
        for _ in range(3):  # A small step may overtake long runs on its way to the server.
            before = [self.full.begin_long_run("full-a") for _ in range(MAX_QUEUED_RUNS - 1)]
            self.full.step("full-a")
            for run in before:
                run.result()
        self._stack.enter_context(full_queue(self.full))
        (broken := self.models / "broken" / "1").mkdir(parents=True)
        for name in (CELL_FILE, WEIGHTS_FILE):
            (broken / name).write_text("{")
        alerts = ("MemoryNearLimit", "Refusing", "SlowSteps", "QueueNearlyFull", "ModelBroken")
        return {f"CellServe{alert}": self.full for alert in alerts}

    def _restart_and_end(self) -> dict[str, Server]:
        """Killed and started three times; then killed for good."""
        started = f'process_start_time_seconds{{instance="{self.restarted.instance}"}}'
        for _ in range(3):
            (last,) = self.prometheus.query(started)
            self.restarted.process.kill()
            self.restarted.process.start()
            self.prometheus.wait_for(f"{started} > {last['value'][1]}")
        self.restarted.process.kill()
        return {"CellServeRestarts": self.restarted, "CellServeInstanceDown": self.restarted}

    def _shorten_the_certificate(self) -> dict[str, Server]:
        """A certificate takes the place of the server's that is good for a week."""
        until = datetime.now(UTC) + timedelta(days=7)
        self._pair.replace_with(self._authority.issue("for-a-week", until=until))
        return {"CellServeCertificateEnds": self.secured}


@contextmanager
def full_queue(server: Server) -> Iterator[None]:
    """Meanwhile as many long runs are under way as there may be."""
    is_over = threading.Event()

    def keep_one() -> None:
        while not is_over.is_set():
            server.begin_long_run("full-b").result()

    threads = [threading.Thread(target=keep_one) for _ in range(MAX_QUEUED_RUNS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
