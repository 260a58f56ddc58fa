"""What a server may answer to garbage: the errors of DESIGN.md with their reasons, and never INTERNAL or UNKNOWN."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from cellserve.errors import DOMAIN, all_reasons, error_of
from cellserve.v1 import stream_pb2

# What a caller's own deadline or cancellation, or a missing identity, ends with says enough.
WITHOUT_REASON = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,  # a replica without a store, asked for a session
}
NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


def complaints(status: status_pb2.Status) -> Iterator[str]:
    """What is wrong with an error of ours; nothing, where it is one of those that are documented."""
    error = error_of(status)
    shown = f"{error.code.name} {error.reason or 'without a reason'}: {error.message[:300]}"
    if error.code in NEVER:
        yield f"an error that garbage must not cause: {shown}"
    elif error.code not in WITHOUT_REASON and error.reason not in all_reasons():
        yield f"an error without one of the documented reasons: {shown}"
    elif not error.message:
        yield f"an error without a word: {shown}"
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain != DOMAIN:
            yield f"an error of a strange domain, {info.domain!r}: {shown}"


def statuses_in(answer: Message) -> Iterator[status_pb2.Status]:
    """The statuses within an answer that is itself OK: those of a stream's messages."""
    if not isinstance(answer, stream_pb2.StreamStepsResponse):
        return
    kind = answer.WhichOneof("kind")
    if kind is None or kind == "draining":
        return
    part = getattr(answer, kind)
    if part.HasField("status"):
        yield part.status
    for error in getattr(part, "errors", ()):
        yield error.status


def call_complaints(
    is_ours: bool, code: grpc.StatusCode, status: status_pb2.Status | None, answers: Iterable[Message]
) -> list[str]:
    """What is wrong with how a call ended.

    Args:
        is_ours: whether it was of a service of ours, whose errors have details.
        code: it ended with.
        status: in its trailers; None: there was none.
        answers: that came before.
    """
    wrong = [f"it ended as {code.name}"] if code in NEVER else []
    if not is_ours:
        return wrong
    if status is not None:
        wrong += complaints(status)
    elif code is not grpc.StatusCode.OK:
        wrong.append(f"it ended as {code.name}, without details")
    for answer in answers:
        for inner in statuses_in(answer):
            wrong += complaints(inner)
    return wrong
