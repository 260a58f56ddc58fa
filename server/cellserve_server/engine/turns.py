"""A turn: an operation on a session that waits behind the runs that arrived before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Turn:
    """A deferred call whose outcome goes to a future.

    Args:
        action: what to do when the turn comes; must not wait.
        future: gets what the action returned or raised; cancelled: the action is left out.
    """

    __slots__ = ("_action", "_future")

    def __init__(self, action: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        self._action = action
        self._future = future

    def take(self) -> None:
        """Does it, unless its caller has gone."""
        if self._future.done():
            return
        try:
            self._future.set_result(self._action())
        except Exception as error:  # The caller's to handle, whatever it is: the engine's loop goes on.
            self._future.set_exception(error)
