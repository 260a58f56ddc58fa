from cellserve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OutputSelection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_SELECTION_UNSPECIFIED: _ClassVar[OutputSelection]
    OUTPUT_SELECTION_ALL: _ClassVar[OutputSelection]
    OUTPUT_SELECTION_LAST: _ClassVar[OutputSelection]
    OUTPUT_SELECTION_NONE: _ClassVar[OutputSelection]
OUTPUT_SELECTION_UNSPECIFIED: OutputSelection
OUTPUT_SELECTION_ALL: OutputSelection
OUTPUT_SELECTION_LAST: OutputSelection
OUTPUT_SELECTION_NONE: OutputSelection

class Sequence(_message.Message):
    __slots__ = ("values", "lengths")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., lengths: _Optional[_Iterable[int]] = ...) -> None: ...
