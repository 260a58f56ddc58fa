"""A server in a process of its own, and a client that steps it in every way: ``python -m tests.install.smoke MODELS``.

Run with the Python of the environment that is looked at. It raises at the first thing that is wrong.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from cellserve_client import connect, rnn
from tests.contract import wire_reader

ROWS, TIME, DEPTH = 4, 6, 5
READY_PREFIX = "cellserve listening on "
STOP_TIMEOUT_S = 30


def steps_equal_sequences(address: str) -> None:
    """The same inputs by ``call``, ``dynamic_rnn``, ``step`` and ``run`` give the same outputs."""
    inputs = np.random.default_rng(0).normal(size=(ROWS, TIME, DEPTH)).astype(np.float32)
    with connect(address) as server:
        cell = server.cell(rnn.MultiRNNCell([rnn.BasicLSTMCell(16), rnn.GRUCell(8)]), seed=0)
        first = cell.zero_state(ROWS, np.float32)
        outputs, _ = rnn.dynamic_rnn(cell, inputs, initial_state=first)
        output, _ = cell.call(inputs[:, 0], first)
        np.testing.assert_allclose(output, outputs[:, 0], atol=1e-5)
        with server.session(cell, batch_size=ROWS) as session:
            for time in range(3):
                np.testing.assert_allclose(session.step(inputs[:, time]), outputs[:, time], atol=1e-5)
            rest = session.run(inputs[:, 3:])
            assert rest is not None
            np.testing.assert_allclose(rest, outputs[:, 3:], atol=1e-5)


def main(models: str) -> None:
    """Serves ``models`` and checks; the server has to stop by itself when it is told to."""
    command = [sys.executable, "-m", "cellserve", "serve", "--models", models, "--port", "0", "--http-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline().strip()
            assert line.startswith(READY_PREFIX), f"the server said {line!r}"
            address = line.removeprefix(READY_PREFIX)
            steps_equal_sequences(address)
            wire_reader.main(address)
        finally:
            server.terminate()
        assert server.wait(STOP_TIMEOUT_S) == 0
    print("served")


if __name__ == "__main__":
    main(sys.argv[1])
