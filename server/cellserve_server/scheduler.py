"""What the next tick takes. Pure: no clock, no arrays, no I/O.

Work lies in lanes (the single steps of a model's sessions, its longer runs), and within a lane by client. Lanes take
turns, and within a tick clients do: each gets an equal share of the tick's rows, and what is left over goes round
again. Who was not served comes first the next time; what wants another step goes to the end of its client's line.

So, with L lanes that have work and C clients in a lane, the first work in a client's line is in the L-th tick from now
at the latest if its rows fit into a C-th of a tick, and in the (L * C)-th whatever its rows: no number of sequences,
however long, and no other client's backlog, holds it up for longer.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

Lane = TypeVar("Lane", bound=Hashable)
Item = TypeVar("Item")


class Taken(NamedTuple, Generic[Item]):
    """What a tick takes of an item: so many of its positions, from where the last tick that took of it has stopped."""

    item: Item
    positions: int


class _Waiting(Generic[Item]):
    """An item in line: positions that can be taken apart, of so many rows each."""

    __slots__ = ("item", "positions", "rows")

    def __init__(self, item: Item, rows: int, positions: int) -> None:
        self.item = item
        self.rows = rows
        self.positions = positions


class Scheduler(Generic[Lane, Item]):
    """Ready work by lane and client.

    Args:
        max_tick_rows: rows that one tick takes at most; a larger position is taken alone.
    """

    def __init__(self, max_tick_rows: int) -> None:
        self._max_tick_rows = max_tick_rows
        self._lanes: dict[Lane, OrderedDict[Hashable, deque[_Waiting[Item]]]] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(self, lane: Lane, client: Hashable, item: Item, rows: int, positions: int = 1) -> None:
        """Puts work that is ready at the end of its client's line.

        Args:
            rows: of each position.
            positions: independent parts of the item, at least 1.
        """
        clients = self._lanes.get(lane)
        if clients is None:
            clients = self._lanes[lane] = OrderedDict()
        line = clients.get(client)
        if line is None:
            line = clients[client] = deque()
        line.append(_Waiting(item, rows, positions))

    def next_tick(self) -> tuple[Lane, list[Taken[Item]]]:
        """Takes the work of the next tick, of the lane whose turn it is.

        Raises:
            LookupError: nothing is ready.
        """
        if not self._lanes:
            raise LookupError("nothing is ready")
        lane = next(iter(self._lanes))
        clients = self._lanes.pop(lane)
        taken = self._deal(clients)
        if clients:
            self._lanes[lane] = clients  # At the end of the dict: the other lanes come first.
        return lane, taken

    def _deal(self, clients: OrderedDict[Hashable, deque[_Waiting[Item]]]) -> list[Taken[Item]]:
        taken: list[Taken[Item]] = []
        left = self._max_tick_rows
        while clients and left > 0:
            share = max(left // len(clients), 1)
            left_before = left
            for client in list(clients):
                line = clients[client]
                # One position is due to everyone, if it fits at all; if it never would, it is taken alone.
                allowed = min(max(share, line[0].rows), left) if taken else max(share, line[0].rows)
                used = _take(line, allowed, taken)
                if used:
                    clients.move_to_end(client)
                    left -= used
                if not line:
                    del clients[client]
                if left <= 0:
                    break
            if left == left_before:
                break  # Nobody's next position fits any more.
        return taken


def _take(line: deque[_Waiting[Item]], rows: int, taken: list[Taken[Item]]) -> int:
    """Takes up to so many rows from a line; returns how many."""
    used = 0
    while line:
        first = line[0]
        positions = min((rows - used) // first.rows, first.positions)
        if positions <= 0:
            break
        taken.append(Taken(first.item, positions))
        used += positions * first.rows
        first.positions -= positions
        if first.positions:
            break
        line.popleft()
    return used
