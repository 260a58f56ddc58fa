from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionRecord(_message.Message):
    __slots__ = ("uid", "model", "model_digest", "model_defined", "batch_size", "leaf_sizes", "dtype", "ttl", "create_time", "request_id", "request_fingerprint", "ended")
    UID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODEL_DEFINED_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEAF_SIZES_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    uid: str
    model: str
    model_digest: str
    model_defined: bool
    batch_size: int
    leaf_sizes: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    ttl: float
    create_time: float
    request_id: str
    request_fingerprint: bytes
    ended: str
    def __init__(self, uid: _Optional[str] = ..., model: _Optional[str] = ..., model_digest: _Optional[str] = ..., model_defined: bool = ..., batch_size: _Optional[int] = ..., leaf_sizes: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., ttl: _Optional[float] = ..., create_time: _Optional[float] = ..., request_id: _Optional[str] = ..., request_fingerprint: _Optional[bytes] = ..., ended: _Optional[str] = ...) -> None: ...

class ExportEntry(_message.Message):
    __slots__ = ("session", "model", "end")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    session: ExportedSession
    model: ExportedModel
    end: ExportEnd
    def __init__(self, session: _Optional[_Union[ExportedSession, _Mapping]] = ..., model: _Optional[_Union[ExportedModel, _Mapping]] = ..., end: _Optional[_Union[ExportEnd, _Mapping]] = ...) -> None: ...

class ExportedSession(_message.Message):
    __slots__ = ("tenant", "id", "record", "states")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    id: str
    record: bytes
    states: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, tenant: _Optional[str] = ..., id: _Optional[str] = ..., record: _Optional[bytes] = ..., states: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ExportedModel(_message.Message):
    __slots__ = ("tenant", "name", "content")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    name: str
    content: bytes
    def __init__(self, tenant: _Optional[str] = ..., name: _Optional[str] = ..., content: _Optional[bytes] = ...) -> None: ...

class ExportEnd(_message.Message):
    __slots__ = ("session_count", "model_count")
    SESSION_COUNT_FIELD_NUMBER: _ClassVar[int]
    MODEL_COUNT_FIELD_NUMBER: _ClassVar[int]
    session_count: int
    model_count: int
    def __init__(self, session_count: _Optional[int] = ..., model_count: _Optional[int] = ...) -> None: ...
