"""A network that computes only when a test lets it, so that tests decide what is under way when something happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cellserve.tensors import Array
from cellserve_server.cells import Network
from tests.servers import RPC_TIMEOUT_S, RunningApp

TENANT = "default"


class GatedNetwork:
    """Stands before a model's network; each of its steps waits for ``let`` or ``open``.

    The server has to compute in its thread (``inline_tick_us=0``), else its event loop would wait too.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._entered = threading.Semaphore(0)
        self._permits = threading.Semaphore(0)
        self._is_open = False

    @classmethod
    @contextmanager
    def over(cls, server: RunningApp, model_name: str, tenant: str = TENANT) -> Iterator[GatedNetwork]:
        """Puts a gate before a model of a server; at the end it is opened and taken away."""
        model = server.loop.call(lambda: server.app.models.resolve(tenant, model_name))
        network = model.network
        gate = cls(network)
        model.network = gate
        try:
            yield gate
        finally:
            model.network = network
            gate.open()

    @property
    def leaf_sizes(self) -> tuple[int, ...]:
        return self._network.leaf_sizes

    @property
    def dtype(self) -> Any:
        return self._network.dtype

    def step(self, inputs: Sequence[Array], leaves: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        self.pass_through()
        return self._network.step(inputs, leaves)

    def run(
        self,
        inputs: Sequence[Array],
        lengths: Array,
        leaves: Sequence[Array],
        before_step: Callable[[], None] = lambda: None,
    ) -> tuple[list[Array], list[Array]]:
        return self._network.run(inputs, lengths, leaves, before_step)

    def check_inputs(self, inputs: Sequence[Array], field_prefix: str, lengths: Array | None = None) -> None:
        self._network.check_inputs(inputs, field_prefix, lengths)

    def pass_through(self) -> None:
        """What a step does first: it arrives, and waits."""
        self._entered.release()
        if not self._is_open:
            assert self._permits.acquire(timeout=RPC_TIMEOUT_S), "the test never opened the gate"

    def wait_entered(self) -> None:
        """Waits for the next step to arrive at the gate."""
        assert self._entered.acquire(timeout=RPC_TIMEOUT_S), "no step arrived at the gate"

    def let(self) -> None:
        """Lets one step through."""
        self._permits.release()

    def open(self) -> None:
        """Lets this step and all that come through."""
        self._is_open = True
        self._permits.release()
