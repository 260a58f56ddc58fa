import datetime

from cellserve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamStepsRequest(_message.Message):
    __slots__ = ("open", "steps", "cancel", "close")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    open: Open
    steps: Steps
    cancel: Cancel
    close: Close
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., steps: _Optional[_Union[Steps, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ...) -> None: ...

class StreamStepsResponse(_message.Message):
    __slots__ = ("opened", "stepped", "closed", "draining")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    STEPPED_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    stepped: Stepped
    closed: Closed
    draining: Draining
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., stepped: _Optional[_Union[Stepped, _Mapping]] = ..., closed: _Optional[_Union[Closed, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("seq", "group", "model", "names", "handles", "batch_size", "ttl", "create_if_missing")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    CREATE_IF_MISSING_FIELD_NUMBER: _ClassVar[int]
    seq: int
    group: int
    model: str
    names: _containers.RepeatedScalarFieldContainer[str]
    handles: _containers.RepeatedScalarFieldContainer[int]
    batch_size: int
    ttl: _duration_pb2.Duration
    create_if_missing: bool
    def __init__(self, seq: _Optional[int] = ..., group: _Optional[int] = ..., model: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., handles: _Optional[_Iterable[int]] = ..., batch_size: _Optional[int] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., create_if_missing: bool = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("seq", "group", "model", "inputs", "outputs", "uids", "step_counts", "errors", "status")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    UIDS_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    group: int
    model: str
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    uids: _containers.RepeatedScalarFieldContainer[str]
    step_counts: _containers.RepeatedScalarFieldContainer[int]
    errors: _containers.RepeatedCompositeFieldContainer[PositionError]
    status: _status_pb2.Status
    def __init__(self, seq: _Optional[int] = ..., group: _Optional[int] = ..., model: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., uids: _Optional[_Iterable[str]] = ..., step_counts: _Optional[_Iterable[int]] = ..., errors: _Optional[_Iterable[_Union[PositionError, _Mapping]]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Steps(_message.Message):
    __slots__ = ("seq", "group", "handles", "expected_steps", "run_ids", "timeouts_ms", "inputs", "traces")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_STEPS_FIELD_NUMBER: _ClassVar[int]
    RUN_IDS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUTS_MS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TRACES_FIELD_NUMBER: _ClassVar[int]
    seq: int
    group: int
    handles: _containers.RepeatedScalarFieldContainer[int]
    expected_steps: _containers.RepeatedScalarFieldContainer[int]
    run_ids: _containers.RepeatedScalarFieldContainer[int]
    timeouts_ms: _containers.RepeatedScalarFieldContainer[int]
    inputs: _containers.RepeatedScalarFieldContainer[bytes]
    traces: _containers.RepeatedCompositeFieldContainer[PositionTrace]
    def __init__(self, seq: _Optional[int] = ..., group: _Optional[int] = ..., handles: _Optional[_Iterable[int]] = ..., expected_steps: _Optional[_Iterable[int]] = ..., run_ids: _Optional[_Iterable[int]] = ..., timeouts_ms: _Optional[_Iterable[int]] = ..., inputs: _Optional[_Iterable[bytes]] = ..., traces: _Optional[_Iterable[_Union[PositionTrace, _Mapping]]] = ...) -> None: ...

class Stepped(_message.Message):
    __slots__ = ("seq", "group", "positions", "step_counts", "outputs", "errors", "status", "replayed")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    seq: int
    group: int
    positions: _containers.RepeatedScalarFieldContainer[int]
    step_counts: _containers.RepeatedScalarFieldContainer[int]
    outputs: _containers.RepeatedScalarFieldContainer[bytes]
    errors: _containers.RepeatedCompositeFieldContainer[PositionError]
    status: _status_pb2.Status
    replayed: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, seq: _Optional[int] = ..., group: _Optional[int] = ..., positions: _Optional[_Iterable[int]] = ..., step_counts: _Optional[_Iterable[int]] = ..., outputs: _Optional[_Iterable[bytes]] = ..., errors: _Optional[_Iterable[_Union[PositionError, _Mapping]]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., replayed: _Optional[_Iterable[int]] = ...) -> None: ...

class PositionError(_message.Message):
    __slots__ = ("position", "status")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    position: int
    status: _status_pb2.Status
    def __init__(self, position: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class PositionTrace(_message.Message):
    __slots__ = ("position", "traceparent", "tracestate")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    position: int
    traceparent: str
    tracestate: str
    def __init__(self, position: _Optional[int] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("seq", "group", "positions")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    group: int
    positions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, seq: _Optional[int] = ..., group: _Optional[int] = ..., positions: _Optional[_Iterable[int]] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("seq", "group", "handles", "delete_sessions")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    DELETE_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    group: int
    handles: _containers.RepeatedScalarFieldContainer[int]
    delete_sessions: bool
    def __init__(self, seq: _Optional[int] = ..., group: _Optional[int] = ..., handles: _Optional[_Iterable[int]] = ..., delete_sessions: bool = ...) -> None: ...

class Closed(_message.Message):
    __slots__ = ("seq", "group", "status")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    group: int
    status: _status_pb2.Status
    def __init__(self, seq: _Optional[int] = ..., group: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ("group", "handles", "whole_stream", "grace", "successor")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    WHOLE_STREAM_FIELD_NUMBER: _ClassVar[int]
    GRACE_FIELD_NUMBER: _ClassVar[int]
    SUCCESSOR_FIELD_NUMBER: _ClassVar[int]
    group: int
    handles: _containers.RepeatedScalarFieldContainer[int]
    whole_stream: bool
    grace: _duration_pb2.Duration
    successor: str
    def __init__(self, group: _Optional[int] = ..., handles: _Optional[_Iterable[int]] = ..., whole_stream: bool = ..., grace: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., successor: _Optional[str] = ...) -> None: ...
