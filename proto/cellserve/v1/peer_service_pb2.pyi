from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReleaseSessionsRequest(_message.Message):
    __slots__ = ("sessions", "taker", "holder")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    TAKER_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[HeldSession]
    taker: str
    holder: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[HeldSession, _Mapping]]] = ..., taker: _Optional[str] = ..., holder: _Optional[str] = ...) -> None: ...

class HeldSession(_message.Message):
    __slots__ = ("tenant", "id", "epoch")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    id: str
    epoch: int
    def __init__(self, tenant: _Optional[str] = ..., id: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class ReleaseSessionsResponse(_message.Message):
    __slots__ = ("released_count",)
    RELEASED_COUNT_FIELD_NUMBER: _ClassVar[int]
    released_count: int
    def __init__(self, released_count: _Optional[int] = ...) -> None: ...
