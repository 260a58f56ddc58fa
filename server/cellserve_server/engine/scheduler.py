"""What the next tick takes. Pure: no clock, no arrays, no I/O.

Work lies in lanes (models), there in queues (the single steps of one batch size, the longer runs), and there in lines,
one for each client of each tenant. A tick takes from one queue. Lanes take turns. Within a lane tenants do, each
tenant's clients, and each client's queues: the queue of the client whose turn it is is the tick's, and whoever has work
in that queue shares the tick: tenants equal parts of its rows, and each tenant's clients equal parts of that; what is
left over goes round again, and with it who would have had too small a part. Who was served goes to the end.

So with L lanes that have work, T tenants in a lane and C clients of each, a client waits for at most L * T * C ticks,
however long the sequences are and whatever the others have in line; usually for L, or 2 L where there are longer runs,
since most share each tick. Between two of these ticks there may be small ones, of those who have little in line: how
many, whoever ticks says. How many clients others have does not matter to a tenant's part of a tick; and while there
are several tenants ticks are smaller, so that nobody waits long for what others have in the tick under way.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

Lane = TypeVar("Lane", bound=Hashable)
Queue = TypeVar("Queue", bound=Hashable)
Item = TypeVar("Item")

# Parts of a tick are no smaller, be there ever so many clients, or are this part of it: each answer is a message. Those
# who are not in this tick are in the next.
LEAST_SHARE_ROWS = 32
LEAST_PARTS = 4


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


class _Line(Generic[Item]):
    """What a client has in a queue; compared by identity.

    Args:
        tenant, client: whose it is.
    """

    __slots__ = ("client", "tenant", "waiting")

    def __init__(self, tenant: Hashable, client: Hashable) -> None:
        self.tenant = tenant
        self.client = client
        self.waiting: deque[_Waiting[Item]] = deque()

    def __bool__(self) -> bool:
        return bool(self.waiting)

    @property
    def next_rows(self) -> int:
        """The rows of the next position."""
        return self.waiting[0].rows

    def take(self, rows: int, taken: list[Taken[Item]], served: dict[_Line[Item], int]) -> int:
        """Takes up to so many rows; returns how many."""
        used = 0
        while self.waiting:
            first = self.waiting[0]
            positions = min((rows - used) // first.rows, first.positions)
            if positions <= 0:
                break
            taken.append(Taken(first.item, positions))
            used += positions * first.rows
            first.positions -= positions
            if first.positions:
                break
            self.waiting.popleft()
        if used:
            served[self] = served.get(self, 0) + used
        return used


Part = TypeVar("Part", bound="_Line[Any] | _Lines[Any]")


class _Lines(Generic[Part]):
    """Lines by whose they are, in the order in which they are dealt to: those of a tenant's clients, or of tenants."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: OrderedDict[Hashable, Part] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def next_rows(self) -> int:
        """The rows of the next position of whoever comes first."""
        return next(iter(self.parts.values())).next_rows

    def take(
        self,
        rows: int,
        taken: list[Taken[Any]],
        served: dict[_Line[Any], int],
        among: Collection[Hashable] | None = None,
    ) -> int:
        """Deals up to so many rows out, and forgets lines that become empty; returns how many rows were taken.

        Args:
            among: to these parts alone.
        """
        hungry = [name for name in self.parts if among is None or name in among]
        left = rows
        while hungry and left > 0:
            share = max(left // len(hungry), min(LEAST_SHARE_ROWS, rows // LEAST_PARTS), 1)
            round_, hungry = hungry, []
            for name in round_:
                part = self.parts[name]
                # One position is due to everyone, if it fits; one that never would is taken alone.
                allowed = max(share, part.next_rows)
                used = part.take(min(allowed, left) if taken else allowed, taken, served)
                if used and part:
                    self.parts.move_to_end(name)
                    hungry.append(name)
                elif not part:
                    del self.parts[name]
                left -= used
                if left <= 0:
                    break
        return rows - left


class _Work(Generic[Queue, Item]):
    """The work of a lane.

    Attributes:
        turns: the tenants in the order of their turns, each with its clients in that of theirs, and these with their
            queues in that of theirs.
        lines: for each queue the lines of the tenants that have work in it.
    """

    def __init__(self) -> None:
        self.turns: OrderedDict[Hashable, OrderedDict[Hashable, OrderedDict[Queue, None]]] = OrderedDict()
        self.lines: dict[Queue, _Lines[_Lines[_Line[Item]]]] = {}

    def add(self, queue: Queue, tenant: Hashable, client: Hashable, waiting: _Waiting[Item]) -> None:
        """Puts work at the end of its client's line."""
        tenants = self.lines.get(queue)
        if tenants is None:
            tenants = self.lines[queue] = _Lines()
        clients = tenants.parts.get(tenant)
        if clients is None:
            clients = tenants.parts[tenant] = _Lines()
        line = clients.parts.get(client)
        if line is None:
            line = clients.parts[client] = _Line(tenant, client)
            self.turns.setdefault(tenant, OrderedDict()).setdefault(client, OrderedDict())[queue] = None
        line.waiting.append(waiting)

    def next_queue(self) -> Queue:
        """The queue of the client whose turn it is; that client comes first."""
        tenant, clients = next(iter(self.turns.items()))
        client, queues = next(iter(clients.items()))
        queue = next(iter(queues))
        lines = self.lines[queue]
        lines.parts.move_to_end(tenant, last=False)
        lines.parts[tenant].parts.move_to_end(client, last=False)
        return queue

    def take_of(
        self, queue: Queue, rows: int, among: Collection[Hashable] | None = None
    ) -> tuple[list[Taken[Item]], dict[Hashable, int]]:
        """Takes at most so many rows of a queue that has work, of each tenant and client its part; a larger position is
        taken alone.

        Args:
            among: of these tenants alone.

        Returns:
            What was taken, and how many rows of each tenant.
        """
        lines = self.lines[queue]
        taken: list[Taken[Item]] = []
        served: dict[_Line[Item], int] = {}
        rows_of: dict[Hashable, int] = {}
        lines.take(rows, taken, served, among)
        for line, used in served.items():
            rows_of[line.tenant] = rows_of.get(line.tenant, 0) + used
            self._note_served(line, queue)
        if not lines:
            del self.lines[queue]
        return taken, rows_of

    def _note_served(self, line: _Line[Item], queue: Queue) -> None:
        clients = self.turns[line.tenant]
        queues = clients[line.client]
        if line:
            queues.move_to_end(queue)
        else:
            del queues[queue]
        if queues:
            clients.move_to_end(line.client)
        else:
            del clients[line.client]
        if clients:
            self.turns.move_to_end(line.tenant)
        else:
            del self.turns[line.tenant]


class _Small(Generic[Lane, Queue]):
    """Who has little in line, in the order of their turns, and where.

    Args:
        most_rows: that a tenant may have to be one of them.
    """

    def __init__(self, most_rows: int) -> None:
        self.turns: OrderedDict[Hashable, None] = OrderedDict()
        self._most_rows = most_rows
        self._rows: dict[Hashable, int] = {}
        self._places: dict[Hashable, OrderedDict[tuple[Lane, Queue], int]] = {}

    def place_of(self, tenant: Hashable) -> tuple[Lane, Queue]:
        """A lane and a queue where a tenant has work; another one the next time."""
        places = self._places[tenant]
        place = next(iter(places))
        places.move_to_end(place)
        return place

    def add(self, tenant: Hashable, lane: Lane, queue: Queue, rows: int) -> None:
        """A tenant has so many rows more there, or fewer; if it is small it comes last."""
        left = self._rows[tenant] = self._rows.get(tenant, 0) + rows
        places = self._places.setdefault(tenant, OrderedDict())
        places[lane, queue] = places.get((lane, queue), 0) + rows
        if not places[lane, queue]:
            del places[lane, queue]
        if not left:
            del self._rows[tenant], self._places[tenant]
        if 0 < left <= self._most_rows:
            if rows < 0:
                self.turns.pop(tenant, None)
            self.turns[tenant] = None
        else:
            self.turns.pop(tenant, None)


class Scheduler(Generic[Lane, Queue, Item]):
    """Ready work by lane, queue, tenant and client.

    Args:
        most_rows: rows that a lane's next tick takes at most; a larger position is taken alone.
        most_small_rows: that a tenant may have in line to be served between ticks.
        is_brief: whether what is in a queue may be served so.
    """

    def __init__(
        self,
        most_rows: Callable[[Lane], int],
        most_small_rows: int = 0,
        is_brief: Callable[[Queue], bool] = lambda _: True,
    ) -> None:
        self._most_rows = most_rows
        self._is_brief = is_brief
        self._small: _Small[Lane, Queue] = _Small(most_small_rows)
        self._lanes: dict[Lane, _Work[Queue, Item]] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(
        self,
        lane: Lane,
        queue: Queue,
        client: Hashable,
        item: Item,
        rows: int,
        positions: int = 1,
        tenant: Hashable = None,
    ) -> None:
        """Puts work that is ready at the end of its client's line.

        Args:
            rows: of each position.
            positions: independent parts of the item, at least 1.
            tenant: whose client it is.
        """
        work = self._lanes.get(lane)
        if work is None:
            work = self._lanes[lane] = _Work()
        work.add(queue, tenant, client, _Waiting(item, rows, positions))
        if self._is_brief(queue):
            self._small.add(tenant, lane, queue, rows * positions)

    def next_tick(self) -> tuple[Lane, Queue, list[Taken[Item]]]:
        """Takes the work of the next tick, of the lane whose turn it is.

        Raises:
            LookupError: nothing is ready.
        """
        if not self._lanes:
            raise LookupError("nothing is ready")
        lane, work = next(iter(self._lanes.items()))
        queue = work.next_queue()
        taken = self._take(lane, queue, self._most_rows(lane))
        if work.turns:
            del self._lanes[lane]
            self._lanes[lane] = work  # At the end of the dict: the other lanes come first.
        return lane, queue, taken

    def next_small(self) -> tuple[Lane, Queue, list[Taken[Item]]] | None:
        """Takes the work of a tick between others, of those who have little in line; no lane loses its turn by it.

        Returns:
            As ``next_tick``; None: nobody has little.
        """
        if not self._small.turns:
            return None
        lane, queue = self._small.place_of(next(iter(self._small.turns)))
        return lane, queue, self._take(lane, queue, self._most_rows(lane), self._small.turns)

    def has(self, lane: Lane, queue: Queue) -> bool:
        """Whether there is work of a queue that no tick has taken."""
        work = self._lanes.get(lane)
        return work is not None and queue in work.lines

    def more(self, lane: Lane, queue: Queue, rows: int) -> list[Taken[Item]]:
        """Takes so many rows more for the same tick, in the place of what was not to be done after all."""
        return self._take(lane, queue, rows) if self.has(lane, queue) else []

    def _take(
        self, lane: Lane, queue: Queue, rows: int, among: Collection[Hashable] | None = None
    ) -> list[Taken[Item]]:
        work = self._lanes[lane]
        taken, rows_of = work.take_of(queue, rows, among)
        if self._is_brief(queue):
            for tenant, used in rows_of.items():
                self._small.add(tenant, lane, queue, -used)
        if not work.turns:
            del self._lanes[lane]
        return taken
