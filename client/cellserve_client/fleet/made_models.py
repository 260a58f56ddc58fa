"""The models that this client has described: made again at a replica that does not know them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

from google.protobuf.message import Message

from cellserve_client import methods
from cellserve_client.deadlines import Deadline
from cellserve_client.fleet.replica import Replica


class MadeModel:
    """How a model is made. Whoever may need it again holds it: the cell, its sessions and its groups.

    Args:
        requests: makes the messages of a DefineModel, weights and all.
    """

    def __init__(self, requests: Callable[[], Iterable[Message]]) -> None:
        self.requests = requests


class MadeModels:
    """Those of one client, by the names that the servers gave them, which are made of their contents."""

    def __init__(self) -> None:
        self._by_name: weakref.WeakValueDictionary[str, MadeModel] = weakref.WeakValueDictionary()

    def note(self, name: str, made: MadeModel) -> MadeModel:
        """Notes how a model was made. Returns what is to be held: that of an equal model, if there is one already."""
        return self._by_name.setdefault(name, made)

    def of(self, name: str) -> MadeModel | None:
        """How a model was made; None: this client has not described it."""
        return self._by_name.get(name)

    async def make(self, replica: Replica, name: str, deadline: Deadline) -> bool:
        """Has a replica make a model. False: this client has not described it.

        Raises:
            CellServeError: it could not be made.
        """
        made = self._by_name.get(name)
        if made is None:
            return False

        async def define() -> None:
            await replica.transport.send(methods.DEFINE_MODEL, made.requests, deadline)

        await replica.make(name, define)
        return True
