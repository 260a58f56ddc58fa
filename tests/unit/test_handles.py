"""Handles: one by one and in columns."""

from __future__ import annotations

import numpy as np
import pytest

from cellserve.errors import FieldInvalidError
from cellserve_server.edge.handles import Handles
from tests.unit.engine_bench import Bench, drive

MOST = 500


def test_handles_are_looked_up_together_as_one_by_one() -> None:
    async def test(bench: Bench) -> None:
        handles = Handles(MOST)
        opened = {handle: bench.session(f"s{handle}") for handle in (0, 3, 63, 64, 499)}
        for handle, session in opened.items():
            handles.open(handle, session)
        asked = np.array([3, 1, 499, 0, 64, 63, 400, 4_000_000_000])
        seats, lives = handles.look_up(asked)
        for handle, seat, life in zip(asked.tolist(), seats.tolist(), lives.tolist(), strict=True):
            if handle in opened:
                assert (seat, life) == (opened[handle].seat, opened[handle].life)
                assert handles.get(handle).session is opened[handle]
                assert handles.get(handle).uid == opened[handle].uid
            else:
                assert (seat, life) == (-1, 0)
                with pytest.raises(FieldInvalidError, match=f"got {handle}"):
                    handles.get(handle)

    drive(test)


def test_a_large_number_asks_for_no_memory_and_works_all_the_same() -> None:
    async def test(bench: Bench) -> None:
        handles = Handles(MOST)
        session = bench.session()
        handles.open(4_000_000_000, session)
        assert handles.get(4_000_000_000).session is session
        assert handles.look_up(np.array([4_000_000_000]))[0].tolist() == [-1]  # Not in the columns: the slower way.
        assert handles.close(4_000_000_000).session is session
        assert len(handles) == 0

    drive(test)


def test_a_closed_handle_is_nobodys() -> None:
    async def test(bench: Bench) -> None:
        handles = Handles(MOST)
        handles.open(7, bench.session())
        handles.close(7)
        assert 7 not in handles
        assert handles.look_up(np.array([7]))[0].tolist() == [-1]

    drive(test)
