from cellserve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(_message.Message):
    __slots__ = ("tensor", "lstm", "tuple")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    LSTM_FIELD_NUMBER: _ClassVar[int]
    TUPLE_FIELD_NUMBER: _ClassVar[int]
    tensor: _tensor_pb2.Tensor
    lstm: LstmState
    tuple: TupleState
    def __init__(self, tensor: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., lstm: _Optional[_Union[LstmState, _Mapping]] = ..., tuple: _Optional[_Union[TupleState, _Mapping]] = ...) -> None: ...

class LstmState(_message.Message):
    __slots__ = ("c", "h")
    C_FIELD_NUMBER: _ClassVar[int]
    H_FIELD_NUMBER: _ClassVar[int]
    c: _tensor_pb2.Tensor
    h: _tensor_pb2.Tensor
    def __init__(self, c: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., h: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class TupleState(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[State]
    def __init__(self, items: _Optional[_Iterable[_Union[State, _Mapping]]] = ...) -> None: ...

class StateSpec(_message.Message):
    __slots__ = ("tensor", "lstm", "tuple")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    LSTM_FIELD_NUMBER: _ClassVar[int]
    TUPLE_FIELD_NUMBER: _ClassVar[int]
    tensor: _tensor_pb2.TensorSpec
    lstm: LstmStateSpec
    tuple: TupleStateSpec
    def __init__(self, tensor: _Optional[_Union[_tensor_pb2.TensorSpec, _Mapping]] = ..., lstm: _Optional[_Union[LstmStateSpec, _Mapping]] = ..., tuple: _Optional[_Union[TupleStateSpec, _Mapping]] = ...) -> None: ...

class LstmStateSpec(_message.Message):
    __slots__ = ("c", "h")
    C_FIELD_NUMBER: _ClassVar[int]
    H_FIELD_NUMBER: _ClassVar[int]
    c: _tensor_pb2.TensorSpec
    h: _tensor_pb2.TensorSpec
    def __init__(self, c: _Optional[_Union[_tensor_pb2.TensorSpec, _Mapping]] = ..., h: _Optional[_Union[_tensor_pb2.TensorSpec, _Mapping]] = ...) -> None: ...

class TupleStateSpec(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[StateSpec]
    def __init__(self, items: _Optional[_Iterable[_Union[StateSpec, _Mapping]]] = ...) -> None: ...
