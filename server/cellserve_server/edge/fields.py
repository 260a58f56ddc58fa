"""Names, numbers and choices in requests, checked. Pure.

Every error names the field, what was expected and what came.
"""

from __future__ import annotations

import base64
import binascii
import re

from google.protobuf.duration_pb2 import Duration

from cellserve.errors import FieldInvalidError, ModelNotSteppableError, shown
from cellserve.v1 import sequence_pb2
from cellserve_server.config import ServerConfig
from cellserve_server.engine.runs import OutputMode
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.activity import ORDER_FIELDS, Order

SESSION_PREFIX = "sessions/"
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
# So far below 2^63 that no session can step its way to it.
MAX_STEP_COUNT = 1 << 62
_MAX_ID_CHARS = 128
_SESSION_ID = re.compile(rf"[A-Za-z0-9\-_.~:]{{1,{_MAX_ID_CHARS}}}")
_ID_RULE = f"1 to {_MAX_ID_CHARS} letters, digits, '-', '_', '.', '~' or ':'"
_BY_NAME = "name"
_DESCENDING = "desc"
_MODES: dict[int, OutputMode] = {
    sequence_pb2.OUTPUT_SELECTION_UNSPECIFIED: OutputMode.ALL,
    sequence_pb2.OUTPUT_SELECTION_ALL: OutputMode.ALL,
    sequence_pb2.OUTPUT_SELECTION_LAST: OutputMode.LAST,
    sequence_pb2.OUTPUT_SELECTION_NONE: OutputMode.NONE,
}


def session_id(text: str, field: str = "session_id") -> str:
    """A session's id.

    Raises:
        FieldInvalidError: it is not of the form.
    """
    if not _SESSION_ID.fullmatch(text):
        raise FieldInvalidError(f"{field}: expected {_ID_RULE}; got {shown(text)}", metadata={"field": field})
    return text


def session_id_of(name: str, field: str = "name") -> str:
    """The id in ``sessions/{session}``.

    Raises:
        FieldInvalidError: the name is not of the form.
    """
    if not name.startswith(SESSION_PREFIX):
        raise FieldInvalidError(f"{field}: expected sessions/{{session}}; got {shown(name)}", metadata={"field": field})
    return session_id(name[len(SESSION_PREFIX) :], field)


def seconds_of(ttl: Duration, maximum_s: float, field: str) -> float:
    """A ttl in seconds.

    Raises:
        FieldInvalidError: it is not above 0, or above the maximum.
    """
    seconds = ttl.seconds + ttl.nanos / 1e9
    if not 0 < seconds <= maximum_s:
        raise FieldInvalidError(
            f"{field}: expected above 0 and at most {maximum_s:g} seconds; got {seconds:g}", metadata={"field": field}
        )
    return seconds


def batch_size_of(value: int, config: ServerConfig, field: str) -> int:
    """A session's batch size.

    Raises:
        FieldInvalidError: it is not 0 to ``max_rows``.
    """
    if not 0 <= value <= config.max_rows:
        raise FieldInvalidError(f"{field}: expected 0 to {config.max_rows}; got {value}", metadata={"field": field})
    return value


def step_number_of(value: int, field: str) -> int:
    """A count of steps.

    Raises:
        FieldInvalidError: it is negative, or larger than any session can get.
    """
    if not 0 <= value <= MAX_STEP_COUNT:
        raise FieldInvalidError(f"{field}: expected 0 to {MAX_STEP_COUNT}; got {value}", metadata={"field": field})
    return value


def output_mode_of(selection: int) -> OutputMode:
    """Which outputs are wanted.

    Raises:
        FieldInvalidError: an unknown selection.
    """
    mode = _MODES.get(selection)
    if mode is None:
        raise FieldInvalidError(f"outputs: expected ALL, LAST or NONE; got number {selection}")
    return mode


def require_steppable(model: LoadedModel, wish: str) -> None:
    """Raises ``ModelNotSteppableError`` for a model that needs whole sequences; ``wish`` says what was wanted."""
    if not model.steppable:
        raise ModelNotSteppableError(
            f"{model.resource_name} needs whole sequences: {wish} is not possible, RunSequence without a session is",
            metadata={"model": model.resource_name},
        )


def page_size_of(value: int) -> int:
    """How many entries a page has at most.

    Raises:
        FieldInvalidError: it is negative.
    """
    if value < 0:
        raise FieldInvalidError(f"page_size: expected 0 or more; got {value}", metadata={"field": "page_size"})
    return min(value or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def order_of(text: str) -> Order | None:
    """An ``order_by`` of sessions (AIP-132: a field, then ``desc`` or nothing); None: by name.

    Raises:
        FieldInvalidError: it names another field, or more than one.
    """
    words = text.split() or [_BY_NAME]
    if words == [_BY_NAME]:
        return None
    field = next((field for field in ORDER_FIELDS if field == words[0]), None)
    if field is None or words[1:] not in ([], [_DESCENDING]):
        raise FieldInvalidError(
            f"order_by: expected name, or one of {', '.join(ORDER_FIELDS)}, which may be followed by desc; "
            f"got {shown(text)}",
            metadata={"field": "order_by"},
        )
    return Order(field, descending=len(words) > 1)


def id_part_of(text: str) -> str:
    """What is to be in sessions' ids; empty: anything is.

    Raises:
        FieldInvalidError: it is longer than any id.
    """
    if len(text) > _MAX_ID_CHARS:
        raise FieldInvalidError(
            f"id_contains: expected at most {_MAX_ID_CHARS} characters; got {shown(text)}",
            metadata={"field": "id_contains"},
        )
    return text


def page_token_of(last: str) -> str:
    """The token of the page that begins after an entry. Opaque: callers are not to build on what is in it."""
    return base64.urlsafe_b64encode(last.encode()).decode()


def last_of_page_token(token: str) -> str:
    """The entry after which a page begins; empty: the first page.

    Raises:
        FieldInvalidError: the token is none that we gave out.
    """
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, UnicodeEncodeError) as error:
        raise FieldInvalidError(
            f"page_token: expected the next_page_token of the page before; got {shown(token)}",
            metadata={"field": "page_token"},
        ) from error
