"""One tree of exceptions, the same on both sides of the wire, and its mapping to ``google.rpc.Status``.

The server raises these and the client raises them again: code, reason, message and metadata survive the way.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "cellserve"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
# The status travels in a header, its message in another one too, and peers refuse headers above 8 KiB in all.
MESSAGE_LIMIT_BYTES = 1000
METADATA_LIMIT_BYTES = 200  # of each value
METADATA_LIMIT_ENTRIES = 16
# What a message shows of a caller's text: it may have millions of characters, and the message is logged whole.
SHOWN_CHARS = 80


def shown(text: str) -> str:
    """A caller's text for a message: quoted, and cut where it is long."""
    return repr(text) if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]!r}... ({len(text)} characters)"


class CellServeError(Exception):
    """The root of every error that CellServe raises on purpose.

    Attributes:
        code: the gRPC status code.
        reason: the word of ``google.rpc.ErrorInfo``, UPPER_SNAKE_CASE; empty where there is none.
        message: for people: names the field, what was expected and what came.
        metadata: the same facts for programs, as strings.
        retry_after_s: seconds after which a retry is worth it; None when a retry is of no use.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    reason: ClassVar[str] = ""

    def __init__(
        self, message: str, *, metadata: dict[str, str] | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s


class InvalidArgumentError(CellServeError, ValueError):
    """The request can never succeed as it is."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class ShapeMismatchError(InvalidArgumentError):
    """An array has another shape than is due."""

    reason = "SHAPE_MISMATCH"


class DtypeMismatchError(InvalidArgumentError):
    """An array has another element type than is due."""

    reason = "DTYPE_MISMATCH"


class FieldInvalidError(InvalidArgumentError):
    """A field is missing, out of its range, or not of its form."""

    reason = "FIELD_INVALID"


class NotFoundError(CellServeError, LookupError):
    """What the request names is not there."""

    code = grpc.StatusCode.NOT_FOUND


class SessionNotFoundError(NotFoundError):
    """No such session; the message says whether it expired, was deleted, was reset or never was."""

    reason = "SESSION_NOT_FOUND"


class ModelNotFoundError(NotFoundError):
    """No such model or version."""

    reason = "MODEL_NOT_FOUND"


class AlreadyExistsError(CellServeError):
    """What the request would make is there already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class SessionExistsError(AlreadyExistsError):
    """The session's id is taken."""

    reason = "SESSION_EXISTS"


class AbortedError(CellServeError):
    """The request met another state of affairs than it was made for."""

    code = grpc.StatusCode.ABORTED


class StepOutOfOrderError(AbortedError):
    """The session is at another step than the run expected; ``metadata`` has ``expected_step`` and ``step_count``."""

    reason = "STEP_OUT_OF_ORDER"


class SessionMovedError(AbortedError):
    """Another replica owns the session now; ``metadata`` may have ``owner``."""

    reason = "SESSION_MOVED"


class StateRolledBackError(AbortedError):
    """The session lost steps in a crash (durability ``async``). The run was not applied; feed it again from there."""

    reason = "STATE_ROLLED_BACK"

    @property
    def expected_step(self) -> int:
        """The step count that the run expected; -1 when it was not told."""
        return _number_in(self.metadata, "expected_step")

    @property
    def step_count(self) -> int:
        """The step count that the session has now, from which its steps are to be fed again; -1: not told."""
        return _number_in(self.metadata, "step_count")


class FailedPreconditionError(CellServeError):
    """The system is not in the state that the request needs."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ModelChangedError(FailedPreconditionError):
    """The model under a stored session is no longer the one that it began on."""

    reason = "MODEL_CHANGED"


class ModelBrokenError(FailedPreconditionError):
    """The model's files cannot be served; the message says why."""

    reason = "MODEL_BROKEN"


class UnimplementedError(CellServeError):
    """The server does not do that."""

    code = grpc.StatusCode.UNIMPLEMENTED


class ModelNotSteppableError(UnimplementedError):
    """The model cannot be stepped: it needs whole sequences."""

    reason = "MODEL_NOT_STEPPABLE"


class DeadlineExceededError(CellServeError, TimeoutError):
    """The time for the answer was over."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class RunCancelledError(CellServeError):
    """The caller took the request back before it was done."""

    code = grpc.StatusCode.CANCELLED


class ResourceExhaustedError(CellServeError):
    """A limit is reached."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class QueueFullError(ResourceExhaustedError):
    """The server's queue is full; try again after ``retry_after_s``."""

    reason = "QUEUE_FULL"


class QuotaExceededError(ResourceExhaustedError):
    """A quota is used up; ``metadata`` has ``quota`` and ``limit``."""

    reason = "QUOTA_EXCEEDED"


class UnavailableError(CellServeError, ConnectionError):
    """The server cannot answer now; a retry may find it again."""

    code = grpc.StatusCode.UNAVAILABLE


class TlsError(UnavailableError):
    """TLS with the server does not come about, and no retry helps: the message says why. The client's own."""


class DrainingError(UnavailableError):
    """The server is stopping and takes no new work."""

    reason = "DRAINING"


class StoreUnavailableError(UnavailableError):
    """The server cannot reach its store."""

    reason = "STORE_UNAVAILABLE"


class DataLossError(CellServeError):
    """Stored bytes are damaged."""

    code = grpc.StatusCode.DATA_LOSS


class RecordCorruptError(DataLossError):
    """A stored session fails its checksum."""

    reason = "RECORD_CORRUPT"


class UnauthenticatedError(CellServeError):
    """No or wrong credentials."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(CellServeError):
    """Not yours to do."""

    code = grpc.StatusCode.PERMISSION_DENIED


class InternalError(CellServeError):
    """A bug of ours; the message has the id under which the server logged it."""

    code = grpc.StatusCode.INTERNAL
    reason = "INTERNAL"


class PartialRunError(CellServeError):
    """A long sequence, sent in several pieces, failed after some of them were applied.

    Attributes:
        steps_applied: how many of the sequence's steps the session has taken.
        outputs: the outputs of those steps, as the whole call would have given them; None where none were wanted.
        cause: the error that ended it, also ``__cause__``.
    """

    def __init__(self, steps_applied: int, outputs: object, cause: CellServeError) -> None:
        super().__init__(
            f"the sequence stopped after {steps_applied} applied steps: {cause.message}",
            metadata=cause.metadata,
            retry_after_s=cause.retry_after_s,
        )
        self.steps_applied = steps_applied
        self.outputs = outputs
        self.cause = cause


class GroupStepError(CellServeError):
    """Some members of a session group could not be stepped; all others were. Raised once every member is answered.

    Attributes:
        errors: why, by the member's index.
        outputs: as the call would have returned them, with zeros in the rows of those that failed.
        applied: bool, one for each row of ``outputs``: whether its member is known to have taken the step.
    """

    def __init__(self, errors: dict[int, CellServeError], outputs: Any, applied: Any) -> None:
        index, first = next(iter(errors.items()))
        super().__init__(
            f"{len(errors)} members of the group were not stepped; the first is member {index}: {first.message}",
            metadata=first.metadata,
            retry_after_s=first.retry_after_s,
        )
        self.errors = errors
        self.outputs = outputs
        self.applied = applied


def _number_in(metadata: dict[str, str], key: str) -> int:
    """A number from 0 in the metadata; -1: it is not there."""
    text = metadata.get(key, "")
    return int(text) if text.isascii() and text.isdigit() else -1


# The client's own: they wrap what came over the wire, or say why nothing came.
_NEVER_SENT = (PartialRunError, GroupStepError, TlsError)


def _descendants(cls: type[CellServeError]) -> list[type[CellServeError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in _descendants(child))]


def all_reasons() -> frozenset[str]:
    """Every word that ``reason`` may be, the empty one apart."""
    return frozenset(cls.reason for cls in _descendants(CellServeError) if cls.reason)


def _class_for(code: grpc.StatusCode, reason: str) -> type[CellServeError]:
    candidates = [cls for cls in _descendants(CellServeError) if cls.code is code and cls not in _NEVER_SENT]
    for cls in candidates:
        if reason and cls.reason == reason:
            return cls
    # The first class of a code is the general one; INTERNAL has no more general class than its only one.
    return candidates[0] if candidates else CellServeError


def status_of(error: CellServeError) -> status_pb2.Status:
    """Packs an error as ``google.rpc.Status`` with ``ErrorInfo`` and, where a retry is of use, ``RetryInfo``.

    What is too long for a header is cut: the message, each value of the metadata, and the number of these.
    """
    number: int = error.code.value[0]
    status = status_pb2.Status(code=number, message=_cut(error.message, MESSAGE_LIMIT_BYTES))
    if error.reason:
        kept = itertools.islice(error.metadata.items(), METADATA_LIMIT_ENTRIES)
        metadata = {key: _cut(value, METADATA_LIMIT_BYTES) for key, value in kept}
        info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
        status.details.add().Pack(info)
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _cut(text: str, limit_bytes: int) -> str:
    """The begin of a text, at most so many bytes of UTF-8; no character is cut in two."""
    return text.encode(errors="replace")[:limit_bytes].decode(errors="ignore")


def error_of(status: status_pb2.Status) -> CellServeError:
    """Unpacks a ``google.rpc.Status`` into the exception that was packed, or the nearest one."""
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    reason, metadata, retry_after_s = "", {}, None
    for detail in status.details:
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    # A number that is no code of gRPC can only come from a newer or a broken peer.
    name = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else "UNKNOWN"
    cls = _class_for(grpc.StatusCode[name], reason)
    error = cls(status.message, metadata=metadata, retry_after_s=retry_after_s)
    if cls.code.name != name:
        # No class of ours has this code (OUT_OF_RANGE, say, from a proxy): keep what came.
        error.code = grpc.StatusCode[name]  # type: ignore[misc]
    return error


def trailers_of(error: CellServeError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries an error's details."""
    return ((STATUS_DETAILS_KEY, status_of(error).SerializeToString()),)


def from_rpc_error(error: grpc.RpcError) -> CellServeError:
    """Turns what grpc raised (``grpc.RpcError`` or ``grpc.aio.AioRpcError``) into an exception of this tree."""
    code = error.code()
    trailers: Any = error.trailing_metadata() or ()
    for key, value in trailers:
        if key != STATUS_DETAILS_KEY:
            continue
        try:
            return error_of(status_pb2.Status.FromString(value))
        except DecodeError:
            break  # Details that do not parse say nothing; the plain code and message still do.
    number: int = code.value[0]
    return error_of(status_pb2.Status(code=number, message=error.details() or code.name))
