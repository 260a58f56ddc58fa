from cellserve.v1 import sequence_pb2 as _sequence_pb2
from cellserve.v1 import session_pb2 as _session_pb2
from cellserve.v1 import state_pb2 as _state_pb2
from cellserve.v1 import stream_pb2 as _stream_pb2
from cellserve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CallRequest(_message.Message):
    __slots__ = ("model", "inputs", "state")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    model: str
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    state: _state_pb2.State
    def __init__(self, model: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., state: _Optional[_Union[_state_pb2.State, _Mapping]] = ...) -> None: ...

class CallResponse(_message.Message):
    __slots__ = ("outputs", "state")
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    outputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    state: _state_pb2.State
    def __init__(self, outputs: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., state: _Optional[_Union[_state_pb2.State, _Mapping]] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("name", "uid", "inputs", "expected_step", "run_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_STEP_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    expected_step: int
    run_id: int
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., expected_step: _Optional[int] = ..., run_id: _Optional[int] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("outputs", "step_count", "replayed")
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    outputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    step_count: int
    replayed: bool
    def __init__(self, outputs: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., step_count: _Optional[int] = ..., replayed: bool = ...) -> None: ...

class RunSequenceRequest(_message.Message):
    __slots__ = ("session", "model", "uid", "inputs", "initial_state", "outputs", "expected_step", "run_id", "return_state")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_STATE_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_STEP_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RETURN_STATE_FIELD_NUMBER: _ClassVar[int]
    session: str
    model: str
    uid: str
    inputs: _sequence_pb2.Sequence
    initial_state: _state_pb2.State
    outputs: _sequence_pb2.OutputSelection
    expected_step: int
    run_id: int
    return_state: bool
    def __init__(self, session: _Optional[str] = ..., model: _Optional[str] = ..., uid: _Optional[str] = ..., inputs: _Optional[_Union[_sequence_pb2.Sequence, _Mapping]] = ..., initial_state: _Optional[_Union[_state_pb2.State, _Mapping]] = ..., outputs: _Optional[_Union[_sequence_pb2.OutputSelection, str]] = ..., expected_step: _Optional[int] = ..., run_id: _Optional[int] = ..., return_state: bool = ...) -> None: ...

class RunSequenceResponse(_message.Message):
    __slots__ = ("outputs", "state", "steps_applied", "step_count", "replayed")
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEPS_APPLIED_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    outputs: _sequence_pb2.Sequence
    state: _state_pb2.State
    steps_applied: int
    step_count: int
    replayed: bool
    def __init__(self, outputs: _Optional[_Union[_sequence_pb2.Sequence, _Mapping]] = ..., state: _Optional[_Union[_state_pb2.State, _Mapping]] = ..., steps_applied: _Optional[int] = ..., step_count: _Optional[int] = ..., replayed: bool = ...) -> None: ...

class CreateSessionRequest(_message.Message):
    __slots__ = ("session_id", "session", "request_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    session: _session_pb2.Session
    request_id: str
    def __init__(self, session_id: _Optional[str] = ..., session: _Optional[_Union[_session_pb2.Session, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.Session
    def __init__(self, session: _Optional[_Union[_session_pb2.Session, _Mapping]] = ...) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("name", "view")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    name: str
    view: _session_pb2.SessionView
    def __init__(self, name: _Optional[str] = ..., view: _Optional[_Union[_session_pb2.SessionView, str]] = ...) -> None: ...

class GetSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.Session
    def __init__(self, session: _Optional[_Union[_session_pb2.Session, _Mapping]] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "model", "order_by", "id_contains")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    ID_CONTAINS_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    model: str
    order_by: str
    id_contains: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., model: _Optional[str] = ..., order_by: _Optional[str] = ..., id_contains: _Optional[str] = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "next_page_token", "total_size")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[_session_pb2.Session]
    next_page_token: str
    total_size: int
    def __init__(self, sessions: _Optional[_Iterable[_Union[_session_pb2.Session, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_size: _Optional[int] = ...) -> None: ...

class DeleteSessionRequest(_message.Message):
    __slots__ = ("name", "uid", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResetSessionRequest(_message.Message):
    __slots__ = ("name", "uid", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ResetSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.Session
    def __init__(self, session: _Optional[_Union[_session_pb2.Session, _Mapping]] = ...) -> None: ...

class ForkSessionRequest(_message.Message):
    __slots__ = ("name", "uid", "session_id", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    session_id: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., session_id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ForkSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.Session
    def __init__(self, session: _Optional[_Union[_session_pb2.Session, _Mapping]] = ...) -> None: ...

class SetSessionStateRequest(_message.Message):
    __slots__ = ("name", "uid", "state", "step_count", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    state: _state_pb2.State
    step_count: int
    request_id: str
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., state: _Optional[_Union[_state_pb2.State, _Mapping]] = ..., step_count: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class SetSessionStateResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.Session
    def __init__(self, session: _Optional[_Union[_session_pb2.Session, _Mapping]] = ...) -> None: ...
