"""The fleet as a whole: which parts it has, at which addresses, started and stopped in order."""

from __future__ import annotations

import fcntl
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from deploy.fleet.errors import FleetError
from deploy.fleet.ports import HOST, free_ports, is_free
from deploy.fleet.process import ManagedProcess
from deploy.fleet.proxies import proxy_process
from deploy.fleet.redis_server import DEFAULT_FSYNC, RedisServer

DEFAULT_DRAIN_S = 20.0
# What `cellserve serve` prints when it serves.
LISTENING = "cellserve listening on "


class Fleet:
    """Replicas on one store, and a proxy before them, on this machine alone.

    Ports are chosen when it is made and stay what they are, so that a replica that is started again is where it was.
    Nothing runs before ``start``; ``with`` starts and stops.

    Args:
        replicas: how many.
        folder: for logs, configurations and Redis's file, which a later fleet in the same folder goes on from. None: a
            temporary one.
        models: the folder of models that the replicas serve; None: none but those that clients define.
        store: as ``--store`` takes it; None: a Redis of its own.
        durability: ``sync`` or ``async``.
        fsync: of the Redis of its own: ``everysec``, ``always`` or ``no``.
        proxy: ``nginx``, ``haproxy`` or None for none.
        port: where the proxy listens; 0: a free port.
        arguments: more of them for each ``cellserve serve``.

    Attributes:
        addresses: ``host:port`` of each replica.
        metrics_urls: of each replica's metrics page.
        replicas: their processes.
        redis: the Redis of its own, to stop, start, kill, pause and resume; None: it has none.
        proxy: the proxy's process; None: it has none.
        store: as the replicas got it.

    Raises:
        MissingProgramError: a program that it needs is not installed.
        FleetError: the port is taken, or the folder is that of a fleet that runs.
    """

    def __init__(
        self,
        replicas: int = 2,
        *,
        folder: Path | None = None,
        models: Path | None = None,
        store: str | None = None,
        durability: str = "sync",
        fsync: str = DEFAULT_FSYNC,
        proxy: str | None = "nginx",
        port: int = 0,
        arguments: Sequence[str] = (),
    ) -> None:
        if replicas < 1:
            raise FleetError(f"a fleet has at least one replica; got {replicas}")
        if proxy is not None and port and not is_free(port):
            raise FleetError(f"port {port} of {HOST} is taken; 0 picks a free one")
        self._folders = ExitStack()
        self.folder = self._take_folder(folder)
        try:
            ports = free_ports(2 * replicas + 2)
            self._port = port or ports.pop()
            self.redis = None if store is not None else RedisServer(ports.pop(), self.folder, fsync)
            self.store = self.redis.url if self.redis else str(store)
            self.addresses = [f"{HOST}:{ports.pop()}" for _ in range(replicas)]
            pages = [ports.pop() for _ in range(replicas)]
            self.metrics_urls = [f"http://{HOST}:{page}/metrics" for page in pages]
            shared = ["--store", self.store, "--durability", durability, "--models", str(self._models(models))]
            shared += ["--drain-timeout-s", str(DEFAULT_DRAIN_S), *arguments]
            self.replicas = [
                self._replica(f"replica-{index}", address, page, shared)
                for index, (address, page) in enumerate(zip(self.addresses, pages, strict=True), 1)
            ]
            self.proxy = proxy_process(proxy, self._port, self.addresses, self.folder) if proxy else None
        except BaseException:
            self._folders.close()
            raise

    def _take_folder(self, folder: Path | None) -> Path:
        if folder is None:
            return Path(self._folders.enter_context(tempfile.TemporaryDirectory(prefix="cellserve-fleet-")))
        folder.mkdir(parents=True, exist_ok=True)
        # Two Redis servers that append to one file would be the end of it. The lock goes with this process.
        lock = self._folders.enter_context((folder / "lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._folders.close()
            raise FleetError(f"a fleet runs in the folder {folder} already; name another one") from error
        return folder

    def _models(self, models: Path | None) -> Path:
        if models is None:
            models = self.folder / "models"
            models.mkdir(exist_ok=True)
        return models

    def _replica(self, name: str, address: str, page: int, shared: Sequence[str]) -> ManagedProcess:
        command = [sys.executable, "-m", "cellserve", "serve", "--host", HOST, "--port", address.rpartition(":")[2]]
        command += ["--http-port", str(page), "--advertise", address, *shared]
        # Each computes on one thread, as `cellserve serve` does unless it is told otherwise.
        environment = {"OPENBLAS_NUM_THREADS": "1"}
        return ManagedProcess(
            name, command, self.folder / f"{name}.log", lambda text: LISTENING in text, environment=environment
        )

    @property
    def proxy_address(self) -> str:
        """``host:port`` of the proxy.

        Raises:
            FleetError: it has none.
        """
        if self.proxy is None:
            raise FleetError("this fleet has no proxy")
        return f"{HOST}:{self._port}"

    @property
    def processes(self) -> list[ManagedProcess]:
        """All parts, in the order in which they are started."""
        first = [self.redis] if self.redis else []
        last = [self.proxy] if self.proxy else []
        return [*first, *self.replicas, *last]

    def __enter__(self) -> Fleet:
        self.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Starts Redis, then the replicas, then the proxy; returns when all are ready.

        Raises:
            FleetError: a part did not start. Then everything is stopped.
        """
        try:
            if self.redis:
                self.redis.start()
            for replica in self.replicas:
                replica.launch()
            for replica in self.replicas:
                replica.wait_ready()
            if self.proxy:
                self.proxy.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the proxy, then the replicas, which drain all at once, then Redis. What is left out does not run.

        Raises:
            FleetError: some part did not stop in good order and was killed; the others are stopped all the same.
        """
        errors: list[str] = []
        for group in ([self.proxy], self.replicas, [self.redis]):
            started = [process for process in group if process and process.started]
            for process in started:
                process.ask_to_stop()
            for process in started:
                try:
                    process.wait_or_kill()
                except FleetError as error:
                    errors.append(str(error))
        self._folders.close()
        if errors:
            raise FleetError("; ".join(errors))

    def kill(self, index: int) -> None:
        """Ends a replica at once (SIGKILL) and waits for its end."""
        self.replicas[index].kill()

    def terminate(self, index: int) -> int:
        """Stops a replica in good order (SIGTERM: it drains) and gives its exit code."""
        return self.replicas[index].stop()

    def pause(self, index: int) -> None:
        """Holds a replica (SIGSTOP): it does nothing, and its connections stay."""
        self.replicas[index].pause()

    def resume(self, index: int) -> None:
        """Lets a replica go on that was held."""
        self.replicas[index].resume()

    def restart(self, index: int) -> None:
        """Starts a replica again where it was, after stopping it in good order if it runs; returns when it is ready."""
        if self.replicas[index].running:
            self.terminate(index)
        self.replicas[index].start()
