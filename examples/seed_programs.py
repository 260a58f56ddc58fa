"""Four programs as TensorFlow 1 users wrote them, line by line, with the arithmetic on a CellServe server.

Run them against a server, from the root of the checkout::

    .venv/bin/python -m examples.seed_programs localhost:50051

Each prints what its author looked at.
"""

from __future__ import annotations

import sys

import numpy as np

from cellserve.errors import CellServeError
from cellserve_client import Server, connect, rnn

BATCH = 32
TIME = 10


def basic_rnn(server: Server) -> None:
    """(a) One step of a BasicRNNCell."""
    cell = server.cell(rnn.BasicRNNCell(num_units=128))
    print("state_size:", cell.state_size)  # 128

    inputs = np.random.default_rng(0).standard_normal((BATCH, 128), dtype=np.float32)
    h0 = cell.zero_state(BATCH, np.float32)
    output, h1 = cell.call(inputs, h0)
    print("h1:", h1.shape)  # (32, 128)
    expect(cell.state_size == 128 and output.shape == h1.shape == (BATCH, 128))
    expect(np.array_equal(output, h1))  # A BasicRNNCell's output is its state.


def basic_lstm(server: Server) -> None:
    """(b) One step of a BasicLSTMCell, whose state is the pair (c, h)."""
    lstm_cell = server.cell(rnn.BasicLSTMCell(num_units=128))
    print("state_size:", lstm_cell.state_size)  # LSTMStateTuple(c=128, h=128)

    inputs = np.random.default_rng(1).standard_normal((BATCH, 100), dtype=np.float32)
    h0 = lstm_cell.zero_state(BATCH, np.float32)
    _, h1 = lstm_cell.call(inputs, h0)
    print("h:", h1.h.shape)  # (32, 128)
    print("c:", h1.c.shape)  # (32, 128)
    expect(h1.h.shape == h1.c.shape == (BATCH, 128))


def many_steps(server: Server) -> None:
    """(c) Many steps at once with dynamic_rnn."""
    cell = server.cell(rnn.BasicLSTMCell(num_units=128))
    inputs = np.random.default_rng(2).standard_normal((BATCH, TIME, 100), dtype=np.float32)
    initial_state = cell.zero_state(BATCH, np.float32)
    outputs, state = rnn.dynamic_rnn(cell, inputs, initial_state=initial_state)
    print("outputs:", outputs.shape)  # (32, 10, 128)
    print("state:", state.c.shape, state.h.shape)  # (32, 128) (32, 128)
    expect(outputs.shape == (BATCH, TIME, 128))
    expect(np.allclose(outputs[:, -1], state.h, atol=1e-6))  # The last output is the last h.


def two_layers(server: Server) -> None:
    """(d) Two cells, one above the other."""
    cell = server.cell(rnn.MultiRNNCell([rnn.BasicRNNCell(num_units=128) for _ in range(2)]))
    print("state_size:", cell.state_size)  # (128, 128)

    inputs = np.random.default_rng(3).standard_normal((BATCH, 100), dtype=np.float32)
    h0 = cell.zero_state(BATCH, np.float32)
    output, h1 = cell.call(inputs, h0)
    print("output:", output.shape)  # (32, 128)
    print("h1:", tuple(layer.shape for layer in h1))  # ((32, 128), (32, 128))
    expect(cell.state_size == (128, 128) and output.shape == (BATCH, 128) and isinstance(h1, tuple))
    expect(np.array_equal(output, h1[-1]))  # The upper layer's output is its state.


def expect(held: bool) -> None:
    """Ends the program when what its author would have seen did not come."""
    if not held:
        raise SystemExit("the seed programs did not give what they give under TensorFlow 1")


def run(server: Server) -> None:
    """Runs all four.

    Raises:
        SystemExit: one of them gave other shapes than it gives under TensorFlow 1.
    """
    for program in (basic_rnn, basic_lstm, many_steps, two_layers):
        print(f"\n{program.__doc__}")
        program(server)


def main(address: str) -> int:
    """Runs all four on the server at an address. Returns the exit code: 1 when it does not answer, or refuses."""
    try:
        with connect(address) as server:
            server.models()  # Nothing is printed before it is known that somebody answers.
            run(server)
    except CellServeError as error:
        print(f"seed_programs: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"))
