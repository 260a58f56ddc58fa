"""What the tests of TLS do with a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cellserve_client import Server, rnn
from cellserve_server.config import ServerConfig
from tests.servers import RunningApp

UNITS, DEPTH, MEMBERS = 3, 2, 5
FRAMES = np.random.default_rng(1).standard_normal((MEMBERS, 4, DEPTH)).astype(np.float32)
Start = Callable[[ServerConfig], RunningApp]


def use(remote: Server) -> None:
    """Calls, steps on the stream, steps a group."""
    cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    expected = rnn.dynamic_rnn(cell, FRAMES, dtype=np.float32)[0]
    with cell.session() as session, cell.session_group(MEMBERS) as group:
        for step in range(FRAMES.shape[1]):
            np.testing.assert_allclose(session.step(FRAMES[0, step]), expected[0, step], atol=1e-5)
            np.testing.assert_allclose(group.step(FRAMES[:, step]), expected[:, step], atol=1e-5)
