from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Activation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTIVATION_UNSPECIFIED: _ClassVar[Activation]
    ACTIVATION_TANH: _ClassVar[Activation]
    ACTIVATION_RELU: _ClassVar[Activation]
    ACTIVATION_SIGMOID: _ClassVar[Activation]
    ACTIVATION_IDENTITY: _ClassVar[Activation]
ACTIVATION_UNSPECIFIED: Activation
ACTIVATION_TANH: Activation
ACTIVATION_RELU: Activation
ACTIVATION_SIGMOID: Activation
ACTIVATION_IDENTITY: Activation

class Cell(_message.Message):
    __slots__ = ("basic_rnn_cell", "basic_lstm_cell", "gru_cell", "multi_rnn_cell", "output_projection_wrapper", "name", "share_id")
    BASIC_RNN_CELL_FIELD_NUMBER: _ClassVar[int]
    BASIC_LSTM_CELL_FIELD_NUMBER: _ClassVar[int]
    GRU_CELL_FIELD_NUMBER: _ClassVar[int]
    MULTI_RNN_CELL_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PROJECTION_WRAPPER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHARE_ID_FIELD_NUMBER: _ClassVar[int]
    basic_rnn_cell: BasicRnnCell
    basic_lstm_cell: BasicLstmCell
    gru_cell: GruCell
    multi_rnn_cell: MultiRnnCell
    output_projection_wrapper: OutputProjectionWrapper
    name: str
    share_id: int
    def __init__(self, basic_rnn_cell: _Optional[_Union[BasicRnnCell, _Mapping]] = ..., basic_lstm_cell: _Optional[_Union[BasicLstmCell, _Mapping]] = ..., gru_cell: _Optional[_Union[GruCell, _Mapping]] = ..., multi_rnn_cell: _Optional[_Union[MultiRnnCell, _Mapping]] = ..., output_projection_wrapper: _Optional[_Union[OutputProjectionWrapper, _Mapping]] = ..., name: _Optional[str] = ..., share_id: _Optional[int] = ...) -> None: ...

class BasicRnnCell(_message.Message):
    __slots__ = ("num_units", "activation")
    NUM_UNITS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    num_units: int
    activation: Activation
    def __init__(self, num_units: _Optional[int] = ..., activation: _Optional[_Union[Activation, str]] = ...) -> None: ...

class BasicLstmCell(_message.Message):
    __slots__ = ("num_units", "forget_bias", "activation", "state_is_concatenated")
    NUM_UNITS_FIELD_NUMBER: _ClassVar[int]
    FORGET_BIAS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    STATE_IS_CONCATENATED_FIELD_NUMBER: _ClassVar[int]
    num_units: int
    forget_bias: float
    activation: Activation
    state_is_concatenated: bool
    def __init__(self, num_units: _Optional[int] = ..., forget_bias: _Optional[float] = ..., activation: _Optional[_Union[Activation, str]] = ..., state_is_concatenated: bool = ...) -> None: ...

class GruCell(_message.Message):
    __slots__ = ("num_units", "activation")
    NUM_UNITS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    num_units: int
    activation: Activation
    def __init__(self, num_units: _Optional[int] = ..., activation: _Optional[_Union[Activation, str]] = ...) -> None: ...

class MultiRnnCell(_message.Message):
    __slots__ = ("cells", "state_is_concatenated")
    CELLS_FIELD_NUMBER: _ClassVar[int]
    STATE_IS_CONCATENATED_FIELD_NUMBER: _ClassVar[int]
    cells: _containers.RepeatedCompositeFieldContainer[Cell]
    state_is_concatenated: bool
    def __init__(self, cells: _Optional[_Iterable[_Union[Cell, _Mapping]]] = ..., state_is_concatenated: bool = ...) -> None: ...

class OutputProjectionWrapper(_message.Message):
    __slots__ = ("cell", "output_size", "activation")
    CELL_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SIZE_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    cell: Cell
    output_size: int
    activation: Activation
    def __init__(self, cell: _Optional[_Union[Cell, _Mapping]] = ..., output_size: _Optional[int] = ..., activation: _Optional[_Union[Activation, str]] = ...) -> None: ...
