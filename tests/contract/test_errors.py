"""The tree of exceptions: each survives the way over the wire, and each condition of the design has its class."""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from cellserve import errors
from cellserve.errors import (
    DOMAIN,
    MESSAGE_LIMIT_BYTES,
    METADATA_LIMIT_BYTES,
    METADATA_LIMIT_ENTRIES,
    STATUS_DETAILS_KEY,
    CellServeError,
    FieldInvalidError,
    GroupStepError,
    InternalError,
    InvalidArgumentError,
    PartialRunError,
    QueueFullError,
    ShapeMismatchError,
    StepOutOfOrderError,
    TlsError,
    UnavailableError,
    all_reasons,
    error_of,
    from_rpc_error,
    status_of,
    trailers_of,
)


def all_classes() -> list[type[CellServeError]]:
    """Every class that crosses the wire. The others are the client's own: they wrap what came, or say why none did."""
    found = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, CellServeError)]
    return [cls for cls in found if cls not in (PartialRunError, GroupStepError, TlsError)]


class Row(NamedTuple):
    """A row of the design's table of errors."""

    code: grpc.StatusCode
    reason: str


TABLE = [
    Row(grpc.StatusCode.INVALID_ARGUMENT, "SHAPE_MISMATCH"),
    Row(grpc.StatusCode.INVALID_ARGUMENT, "DTYPE_MISMATCH"),
    Row(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
    Row(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"),
    Row(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    Row(grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS"),
    Row(grpc.StatusCode.ABORTED, "STEP_OUT_OF_ORDER"),
    Row(grpc.StatusCode.ABORTED, "SESSION_MOVED"),
    Row(grpc.StatusCode.ABORTED, "STATE_ROLLED_BACK"),
    Row(grpc.StatusCode.FAILED_PRECONDITION, "MODEL_CHANGED"),
    Row(grpc.StatusCode.FAILED_PRECONDITION, "MODEL_BROKEN"),
    Row(grpc.StatusCode.UNIMPLEMENTED, "MODEL_NOT_STEPPABLE"),
    Row(grpc.StatusCode.DEADLINE_EXCEEDED, ""),
    Row(grpc.StatusCode.CANCELLED, ""),
    Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"),
    Row(grpc.StatusCode.UNAVAILABLE, "DRAINING"),
    Row(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
    Row(grpc.StatusCode.DATA_LOSS, "RECORD_CORRUPT"),
    Row(grpc.StatusCode.UNAUTHENTICATED, ""),
    Row(grpc.StatusCode.PERMISSION_DENIED, ""),
    Row(grpc.StatusCode.INTERNAL, "INTERNAL"),
]


class PlainRpcError(grpc.RpcError):
    """What grpc raises, with chosen contents."""

    def __init__(self, code: grpc.StatusCode, details: str | None, trailers: tuple[tuple[str, bytes], ...] | None):
        super().__init__()
        self._parts = (code, details, trailers)

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str | None:
        return self._parts[1]

    def trailing_metadata(self) -> Any:
        return self._parts[2]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.code.name}-{row.reason}")
def test_every_condition_of_the_design_has_a_class(row: Row) -> None:
    matching = [cls for cls in all_classes() if cls.code is row.code and cls.reason == row.reason]
    assert len(matching) == 1


def test_no_class_has_a_reason_that_the_table_does_not_know() -> None:
    assert {cls.reason for cls in all_classes()} == {row.reason for row in TABLE}
    with_reason = [cls.reason for cls in all_classes() if cls.reason]
    assert len(with_reason) == len(set(with_reason)), "a reason means one class"
    assert all_reasons() == set(with_reason)


@pytest.mark.parametrize("cls", all_classes(), ids=lambda cls: cls.__name__)
def test_every_class_survives_the_wire(cls: type[CellServeError]) -> None:
    sent = cls("inputs: expected [32, 100]; got [32, 99]", metadata={"field": "inputs"}, retry_after_s=0.25)
    status = status_pb2.Status.FromString(status_of(sent).SerializeToString())
    received = error_of(status)
    assert type(received) is cls
    assert (received.code, received.reason, received.message) == (cls.code, cls.reason, sent.message)
    assert received.retry_after_s == 0.25
    # ErrorInfo goes with a reason; without one there is nothing to put the metadata in.
    assert received.metadata == ({"field": "inputs"} if cls.reason else {})
    assert str(received) == sent.message


@pytest.mark.parametrize("cls", all_classes(), ids=lambda cls: cls.__name__)
def test_every_class_comes_out_of_what_grpc_raises(cls: type[CellServeError]) -> None:
    sent = cls("what happened")
    trailers = (("other", b"x"), *trailers_of(sent))
    assert type(from_rpc_error(PlainRpcError(cls.code, "what happened", trailers))) is cls


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: str(code.name))
def test_a_code_without_details_gives_its_general_class(code: grpc.StatusCode) -> None:
    error = from_rpc_error(PlainRpcError(code, None, None))
    assert error.code is code
    assert error.message == code.name
    assert not error.reason or type(error) is InternalError
    if code not in {cls.code for cls in all_classes()}:
        assert type(error) is CellServeError


def test_details_that_do_not_parse_leave_code_and_message() -> None:
    trailers = ((STATUS_DETAILS_KEY, b"\xff\xff\xff"),)
    error = from_rpc_error(PlainRpcError(grpc.StatusCode.UNAVAILABLE, "no connection", trailers))
    assert type(error) is UnavailableError
    assert error.message == "no connection"


def test_an_unknown_reason_or_code_gives_the_nearest_class() -> None:
    newer = status_pb2.Status(code=grpc.StatusCode.ABORTED.value[0], message="new")
    newer.details.add().Pack(error_details_pb2.ErrorInfo(reason="FROM_THE_FUTURE", domain=DOMAIN))
    assert type(error_of(newer)) is errors.AbortedError
    assert error_of(status_pb2.Status(code=99, message="odd")).code is grpc.StatusCode.UNKNOWN


def test_anothers_error_info_is_not_taken_for_ours() -> None:
    status = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="proxy")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="SHAPE_MISMATCH", domain="example.com"))
    assert type(error_of(status)) is InvalidArgumentError


def test_status_carries_error_info_and_retry_info() -> None:
    status = status_of(QueueFullError("full", retry_after_s=0.05))
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("QUEUE_FULL", "cellserve")
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 50
    assert len(status_of(StepOutOfOrderError("no retry helps")).details) == 1


def test_a_long_message_is_cut() -> None:
    assert status_of(FieldInvalidError("x" * 100_000)).message == "x" * MESSAGE_LIMIT_BYTES
    # Bytes count, not characters, and none is cut in two.
    assert status_of(FieldInvalidError("\N{EURO SIGN}" * 1000)).message == "\N{EURO SIGN}" * (MESSAGE_LIMIT_BYTES // 3)
    assert status_of(FieldInvalidError("\N{COLLISION SYMBOL}" * 501)).ByteSize() < MESSAGE_LIMIT_BYTES + 200


def test_metadata_is_cut_to_what_a_header_takes() -> None:
    error = FieldInvalidError("wrong", metadata={f"key_{index}": "\ud800" + "x" * 20_000 for index in range(50)})
    received = error_of(status_of(error))
    assert received.metadata.keys() == {f"key_{index}" for index in range(METADATA_LIMIT_ENTRIES)}
    assert set(received.metadata.values()) == {"?" + "x" * (METADATA_LIMIT_BYTES - 1)}
    assert len(trailers_of(FieldInvalidError("x" * 20_000, metadata=error.metadata))[0][1]) < 6000


def test_a_message_that_is_no_unicode_is_still_sent() -> None:
    assert status_of(FieldInvalidError("name: got '\ud800'")).message == "name: got '?'"


def test_classes_are_pythons_own_kinds_too() -> None:
    assert issubclass(ShapeMismatchError, ValueError)
    assert issubclass(errors.SessionNotFoundError, LookupError)
    assert issubclass(errors.DeadlineExceededError, TimeoutError)
    assert issubclass(errors.DrainingError, ConnectionError)


def test_a_partial_run_keeps_what_was_done_and_why_it_ended() -> None:
    cause = QueueFullError("full", metadata={"limit": "8"}, retry_after_s=1.0)
    error = PartialRunError(128, None, cause)
    assert (error.steps_applied, error.outputs, error.cause) == (128, None, cause)
    assert error.retry_after_s == 1.0
    assert "128" in str(error)
    assert "full" in str(error)


@given(
    message=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    metadata=st.dictionaries(
        st.text("abcdefgh_", min_size=1, max_size=8),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        max_size=16,
    ),
    retry_after_ms=st.none() | st.integers(0, 86_400_000),
)
def test_any_text_survives(message: str, metadata: dict[str, str], retry_after_ms: int | None) -> None:
    retry_after_s = None if retry_after_ms is None else retry_after_ms / 1000
    received = error_of(status_of(ShapeMismatchError(message, metadata=metadata, retry_after_s=retry_after_s)))
    assert (received.message, received.metadata, received.retry_after_s) == (message, metadata, retry_after_s)
