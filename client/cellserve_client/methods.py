"""The methods of the services, as the client names them: each gives a connection's stub of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from operator import attrgetter
from typing import Any

_SERVICES = {"recurrent": "RecurrentService", "models": "ModelService"}


class Method:
    """One method.

    Args:
        path: from a ``Transport`` to its stub's: ``recurrent.Step``.

    Attributes:
        full_name: as it is known to others: ``cellserve.v1.RecurrentService/Step``.
    """

    def __init__(self, path: str) -> None:
        stub, _, name = path.partition(".")
        self.full_name = f"cellserve.v1.{_SERVICES[stub]}/{name}"
        self._of = attrgetter(path)

    def __call__(self, transport: Any) -> Callable[..., Awaitable[Any]]:
        """What sends a request of this method on a ``Transport``; the generated stubs carry no types."""
        sender: Callable[..., Awaitable[Any]] = self._of(transport)
        return sender


CALL = Method("recurrent.Call")
STEP = Method("recurrent.Step")
RUN_SEQUENCE = Method("recurrent.RunSequence")
CREATE_SESSION = Method("recurrent.CreateSession")
GET_SESSION = Method("recurrent.GetSession")
LIST_SESSIONS = Method("recurrent.ListSessions")
DELETE_SESSION = Method("recurrent.DeleteSession")
RESET_SESSION = Method("recurrent.ResetSession")
FORK_SESSION = Method("recurrent.ForkSession")
SET_SESSION_STATE = Method("recurrent.SetSessionState")
LIST_MODELS = Method("models.ListModels")
GET_MODEL = Method("models.GetModel")
DEFINE_MODEL = Method("models.DefineModel")
