"""What the next tick takes. Pure: no clock, no arrays, no I/O.

Work lies in lanes (models), there in queues (the single steps of one batch size, the longer runs), and there in lines,
one for each client. A tick takes from one queue. Lanes take turns. Within a lane clients do, and each client's queues:
the queue of the client whose turn it is is the tick's, and whoever has work in that queue shares the tick, each an
equal part of its rows; what is left over goes round again. Who was served goes to the end.

So with L lanes that have work and C clients in a lane, a client waits for at most L * C ticks, however long the
sequences are and whatever the others have in line; usually for L, or 2 L where there are longer runs, since most share
each tick.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

Lane = TypeVar("Lane", bound=Hashable)
Queue = TypeVar("Queue", bound=Hashable)
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


class _Work(Generic[Queue, Item]):
    """The work of a lane.

    Attributes:
        turns: the clients in the order of their turns, each with its queues in the order of theirs.
        lines: for each queue the clients that have work in it, in the order in which they are dealt to.
    """

    def __init__(self) -> None:
        self.turns: OrderedDict[Hashable, OrderedDict[Queue, None]] = OrderedDict()
        self.lines: dict[Queue, OrderedDict[Hashable, deque[_Waiting[Item]]]] = {}

    def add(self, queue: Queue, client: Hashable, waiting: _Waiting[Item]) -> None:
        """Puts work at the end of its client's line."""
        clients = self.lines.setdefault(queue, OrderedDict())
        if client in clients:
            clients[client].append(waiting)
        else:
            clients[client] = deque((waiting,))
            self.turns.setdefault(client, OrderedDict())[queue] = None

    def take(self, rows: int) -> tuple[Queue, list[Taken[Item]]]:
        """Takes a tick of at most so many rows; a larger position is taken alone."""
        client, queues = next(iter(self.turns.items()))
        queue = next(iter(queues))
        self.lines[queue].move_to_end(client, last=False)
        return queue, self.take_of(queue, rows)

    def take_of(self, queue: Queue, rows: int) -> list[Taken[Item]]:
        """Takes at most so many rows of a queue that has work, of each client its part."""
        clients = self.lines[queue]
        taken, served = _deal(clients, rows)
        for name in served:
            self._note_served(name, queue)
        if not clients:
            del self.lines[queue]
        return taken

    def _note_served(self, client: Hashable, queue: Queue) -> None:
        queues = self.turns[client]
        if self.lines[queue].get(client):
            queues.move_to_end(queue)
        else:
            del self.lines[queue][client], queues[queue]
        if queues:
            self.turns.move_to_end(client)
        else:
            del self.turns[client]


class Scheduler(Generic[Lane, Queue, Item]):
    """Ready work by lane, queue and client.

    Args:
        tick_rows: the rows that a tick of a lane takes at most; a larger position is taken alone.
    """

    def __init__(self, tick_rows: Callable[[Lane], int]) -> None:
        self._tick_rows = tick_rows
        self._lanes: dict[Lane, _Work[Queue, Item]] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(self, lane: Lane, queue: Queue, client: Hashable, item: Item, rows: int, positions: int = 1) -> None:
        """Puts work that is ready at the end of its client's line.

        Args:
            rows: of each position.
            positions: independent parts of the item, at least 1.
        """
        work = self._lanes.get(lane)
        if work is None:
            work = self._lanes[lane] = _Work()
        work.add(queue, client, _Waiting(item, rows, positions))

    def next_tick(self) -> tuple[Lane, Queue, list[Taken[Item]]]:
        """Takes the work of the next tick, of the lane whose turn it is.

        Raises:
            LookupError: nothing is ready.
        """
        if not self._lanes:
            raise LookupError("nothing is ready")
        lane = next(iter(self._lanes))
        work = self._lanes.pop(lane)
        queue, taken = work.take(self._tick_rows(lane))
        if work.turns:
            self._lanes[lane] = work  # At the end of the dict: the other lanes come first.
        return lane, queue, taken

    def has(self, lane: Lane, queue: Queue) -> bool:
        """Whether there is work of a queue that no tick has taken."""
        work = self._lanes.get(lane)
        return work is not None and queue in work.lines

    def more(self, lane: Lane, queue: Queue, rows: int) -> list[Taken[Item]]:
        """Takes so many rows more for the same tick, in the place of what was not to be done after all."""
        if not self.has(lane, queue):
            return []
        work = self._lanes[lane]
        taken = work.take_of(queue, rows)
        if not work.turns:
            del self._lanes[lane]
        return taken


def _deal(
    clients: OrderedDict[Hashable, deque[_Waiting[Item]]], rows: int
) -> tuple[list[Taken[Item]], dict[Hashable, None]]:
    """Deals a tick's rows out. Lines that become empty stay, for the caller to see.

    Returns:
        What is taken, and the clients that were served; these stand at the end now.
    """
    taken: list[Taken[Item]] = []
    served: dict[Hashable, None] = {}
    hungry = list(clients)
    left = rows
    while hungry and left > 0:
        share = max(left // len(hungry), 1)
        round_, hungry = hungry, []
        for client in round_:
            line = clients[client]
            # One position is due to everyone, if it fits; one that never would is taken alone.
            allowed = max(share, line[0].rows)
            used = _take(line, min(allowed, left) if taken else allowed, taken)
            if used:
                left -= used
                served[client] = None
                clients.move_to_end(client)
                if line:
                    hungry.append(client)
            if left <= 0:
                break
    return taken, served


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
