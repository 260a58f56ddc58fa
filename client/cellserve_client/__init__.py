"""The client of CellServe: recurrent models on a server, called as TensorFlow 1's cells or kept as sessions.

``connect`` gives the blocking client, ``aio.connect`` the one for asyncio; both have the same calls.
"""

from cellserve import errors
from cellserve.errors import CellServeError, PartialRunError
from cellserve.specs import ArraySpec
from cellserve.states import LSTMStateTuple
from cellserve_client import aio, rnn
from cellserve_client.client import Cell, Model, Server, Session, SessionGroup, connect
from cellserve_client.connection import ConnectionSettings
from cellserve_client.models import ModelInfo, ModelLimits
from cellserve_client.retry import RetryPolicy
from cellserve_client.session_info import SessionInfo
from cellserve_client.tls import TlsSettings

__all__ = [
    "ArraySpec",
    "Cell",
    "CellServeError",
    "ConnectionSettings",
    "LSTMStateTuple",
    "Model",
    "ModelInfo",
    "ModelLimits",
    "PartialRunError",
    "RetryPolicy",
    "Server",
    "Session",
    "SessionGroup",
    "SessionInfo",
    "TlsSettings",
    "aio",
    "connect",
    "errors",
    "rnn",
]
