"""The methods of the services, as the client names them: each gives a connection's stub of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from operator import attrgetter
from typing import Any, TypeAlias

# From a ``Transport`` to the callable that sends a request of this method on it; the generated stubs carry no types.
Method: TypeAlias = Callable[[Any], Callable[..., Awaitable[Any]]]

CALL: Method = attrgetter("recurrent.Call")
STEP: Method = attrgetter("recurrent.Step")
RUN_SEQUENCE: Method = attrgetter("recurrent.RunSequence")
CREATE_SESSION: Method = attrgetter("recurrent.CreateSession")
GET_SESSION: Method = attrgetter("recurrent.GetSession")
LIST_SESSIONS: Method = attrgetter("recurrent.ListSessions")
DELETE_SESSION: Method = attrgetter("recurrent.DeleteSession")
RESET_SESSION: Method = attrgetter("recurrent.ResetSession")
FORK_SESSION: Method = attrgetter("recurrent.ForkSession")
SET_SESSION_STATE: Method = attrgetter("recurrent.SetSessionState")
LIST_MODELS: Method = attrgetter("models.ListModels")
GET_MODEL: Method = attrgetter("models.GetModel")
DEFINE_MODEL: Method = attrgetter("models.DefineModel")
