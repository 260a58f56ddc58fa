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
    ACTIVATION_HARD_SIGMOID: _ClassVar[Activation]
    ACTIVATION_LEAKY_RELU: _ClassVar[Activation]
    ACTIVATION_HARD_SIGMOID_RELU6: _ClassVar[Activation]
    ACTIVATION_RELU6: _ClassVar[Activation]
    ACTIVATION_ELU: _ClassVar[Activation]
    ACTIVATION_SELU: _ClassVar[Activation]
    ACTIVATION_SOFTPLUS: _ClassVar[Activation]
    ACTIVATION_SOFTSIGN: _ClassVar[Activation]
    ACTIVATION_SILU: _ClassVar[Activation]
    ACTIVATION_MISH: _ClassVar[Activation]
    ACTIVATION_EXPONENTIAL: _ClassVar[Activation]
ACTIVATION_UNSPECIFIED: Activation
ACTIVATION_TANH: Activation
ACTIVATION_RELU: Activation
ACTIVATION_SIGMOID: Activation
ACTIVATION_IDENTITY: Activation
ACTIVATION_HARD_SIGMOID: Activation
ACTIVATION_LEAKY_RELU: Activation
ACTIVATION_HARD_SIGMOID_RELU6: Activation
ACTIVATION_RELU6: Activation
ACTIVATION_ELU: Activation
ACTIVATION_SELU: Activation
ACTIVATION_SOFTPLUS: Activation
ACTIVATION_SOFTSIGN: Activation
ACTIVATION_SILU: Activation
ACTIVATION_MISH: Activation
ACTIVATION_EXPONENTIAL: Activation

class Cell(_message.Message):
    __slots__ = ("basic_rnn_cell", "basic_lstm_cell", "gru_cell", "multi_rnn_cell", "output_projection_wrapper", "lstm_cell", "cudnn_compatible_gru_cell", "layer_norm_basic_lstm_cell", "residual_wrapper", "dropout_wrapper", "input_projection_wrapper", "embedding_wrapper", "min_gru_cell", "min_lstm_cell", "name", "share_id")
    BASIC_RNN_CELL_FIELD_NUMBER: _ClassVar[int]
    BASIC_LSTM_CELL_FIELD_NUMBER: _ClassVar[int]
    GRU_CELL_FIELD_NUMBER: _ClassVar[int]
    MULTI_RNN_CELL_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PROJECTION_WRAPPER_FIELD_NUMBER: _ClassVar[int]
    LSTM_CELL_FIELD_NUMBER: _ClassVar[int]
    CUDNN_COMPATIBLE_GRU_CELL_FIELD_NUMBER: _ClassVar[int]
    LAYER_NORM_BASIC_LSTM_CELL_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_WRAPPER_FIELD_NUMBER: _ClassVar[int]
    DROPOUT_WRAPPER_FIELD_NUMBER: _ClassVar[int]
    INPUT_PROJECTION_WRAPPER_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_WRAPPER_FIELD_NUMBER: _ClassVar[int]
    MIN_GRU_CELL_FIELD_NUMBER: _ClassVar[int]
    MIN_LSTM_CELL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHARE_ID_FIELD_NUMBER: _ClassVar[int]
    basic_rnn_cell: BasicRnnCell
    basic_lstm_cell: BasicLstmCell
    gru_cell: GruCell
    multi_rnn_cell: MultiRnnCell
    output_projection_wrapper: OutputProjectionWrapper
    lstm_cell: LstmCell
    cudnn_compatible_gru_cell: CudnnCompatibleGruCell
    layer_norm_basic_lstm_cell: LayerNormBasicLstmCell
    residual_wrapper: ResidualWrapper
    dropout_wrapper: DropoutWrapper
    input_projection_wrapper: InputProjectionWrapper
    embedding_wrapper: EmbeddingWrapper
    min_gru_cell: MinGruCell
    min_lstm_cell: MinLstmCell
    name: str
    share_id: int
    def __init__(self, basic_rnn_cell: _Optional[_Union[BasicRnnCell, _Mapping]] = ..., basic_lstm_cell: _Optional[_Union[BasicLstmCell, _Mapping]] = ..., gru_cell: _Optional[_Union[GruCell, _Mapping]] = ..., multi_rnn_cell: _Optional[_Union[MultiRnnCell, _Mapping]] = ..., output_projection_wrapper: _Optional[_Union[OutputProjectionWrapper, _Mapping]] = ..., lstm_cell: _Optional[_Union[LstmCell, _Mapping]] = ..., cudnn_compatible_gru_cell: _Optional[_Union[CudnnCompatibleGruCell, _Mapping]] = ..., layer_norm_basic_lstm_cell: _Optional[_Union[LayerNormBasicLstmCell, _Mapping]] = ..., residual_wrapper: _Optional[_Union[ResidualWrapper, _Mapping]] = ..., dropout_wrapper: _Optional[_Union[DropoutWrapper, _Mapping]] = ..., input_projection_wrapper: _Optional[_Union[InputProjectionWrapper, _Mapping]] = ..., embedding_wrapper: _Optional[_Union[EmbeddingWrapper, _Mapping]] = ..., min_gru_cell: _Optional[_Union[MinGruCell, _Mapping]] = ..., min_lstm_cell: _Optional[_Union[MinLstmCell, _Mapping]] = ..., name: _Optional[str] = ..., share_id: _Optional[int] = ...) -> None: ...

class BasicRnnCell(_message.Message):
    __slots__ = ("num_units", "activation", "preactivation_clip")
    NUM_UNITS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    PREACTIVATION_CLIP_FIELD_NUMBER: _ClassVar[int]
    num_units: int
    activation: Activation
    preactivation_clip: float
    def __init__(self, num_units: _Optional[int] = ..., activation: _Optional[_Union[Activation, str]] = ..., preactivation_clip: _Optional[float] = ...) -> None: ...

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
    __slots__ = ("num_units", "activation", "recurrent_activation", "preactivation_clip")
    NUM_UNITS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    RECURRENT_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    PREACTIVATION_CLIP_FIELD_NUMBER: _ClassVar[int]
    num_units: int
    activation: Activation
    recurrent_activation: Activation
    preactivation_clip: float
    def __init__(self, num_units: _Optional[int] = ..., activation: _Optional[_Union[Activation, str]] = ..., recurrent_activation: _Optional[_Union[Activation, str]] = ..., preactivation_clip: _Optional[float] = ...) -> None: ...

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

class LstmCell(_message.Message):
    __slots__ = ("num_units", "use_peepholes", "cell_clip", "num_proj", "proj_clip", "forget_bias", "activation", "state_is_concatenated", "recurrent_activation", "output_activation", "preactivation_clip")
    NUM_UNITS_FIELD_NUMBER: _ClassVar[int]
    USE_PEEPHOLES_FIELD_NUMBER: _ClassVar[int]
    CELL_CLIP_FIELD_NUMBER: _ClassVar[int]
    NUM_PROJ_FIELD_NUMBER: _ClassVar[int]
    PROJ_CLIP_FIELD_NUMBER: _ClassVar[int]
    FORGET_BIAS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    STATE_IS_CONCATENATED_FIELD_NUMBER: _ClassVar[int]
    RECURRENT_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    PREACTIVATION_CLIP_FIELD_NUMBER: _ClassVar[int]
    num_units: int
    use_peepholes: bool
    cell_clip: float
    num_proj: int
    proj_clip: float
    forget_bias: float
    activation: Activation
    state_is_concatenated: bool
    recurrent_activation: Activation
    output_activation: Activation
    preactivation_clip: float
    def __init__(self, num_units: _Optional[int] = ..., use_peepholes: bool = ..., cell_clip: _Optional[float] = ..., num_proj: _Optional[int] = ..., proj_clip: _Optional[float] = ..., forget_bias: _Optional[float] = ..., activation: _Optional[_Union[Activation, str]] = ..., state_is_concatenated: bool = ..., recurrent_activation: _Optional[_Union[Activation, str]] = ..., output_activation: _Optional[_Union[Activation, str]] = ..., preactivation_clip: _Optional[float] = ...) -> None: ...

class CudnnCompatibleGruCell(_message.Message):
    __slots__ = ("num_units", "activation", "recurrent_activation", "preactivation_clip")
    NUM_UNITS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    RECURRENT_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    PREACTIVATION_CLIP_FIELD_NUMBER: _ClassVar[int]
    num_units: int
    activation: Activation
    recurrent_activation: Activation
    preactivation_clip: float
    def __init__(self, num_units: _Optional[int] = ..., activation: _Optional[_Union[Activation, str]] = ..., recurrent_activation: _Optional[_Union[Activation, str]] = ..., preactivation_clip: _Optional[float] = ...) -> None: ...

class LayerNormBasicLstmCell(_message.Message):
    __slots__ = ("num_units", "forget_bias", "activation", "layer_norm", "norm_gain", "norm_shift")
    NUM_UNITS_FIELD_NUMBER: _ClassVar[int]
    FORGET_BIAS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    LAYER_NORM_FIELD_NUMBER: _ClassVar[int]
    NORM_GAIN_FIELD_NUMBER: _ClassVar[int]
    NORM_SHIFT_FIELD_NUMBER: _ClassVar[int]
    num_units: int
    forget_bias: float
    activation: Activation
    layer_norm: bool
    norm_gain: float
    norm_shift: float
    def __init__(self, num_units: _Optional[int] = ..., forget_bias: _Optional[float] = ..., activation: _Optional[_Union[Activation, str]] = ..., layer_norm: bool = ..., norm_gain: _Optional[float] = ..., norm_shift: _Optional[float] = ...) -> None: ...

class ResidualWrapper(_message.Message):
    __slots__ = ("cell",)
    CELL_FIELD_NUMBER: _ClassVar[int]
    cell: Cell
    def __init__(self, cell: _Optional[_Union[Cell, _Mapping]] = ...) -> None: ...

class DropoutWrapper(_message.Message):
    __slots__ = ("cell", "input_keep_prob", "output_keep_prob", "state_keep_prob")
    CELL_FIELD_NUMBER: _ClassVar[int]
    INPUT_KEEP_PROB_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_KEEP_PROB_FIELD_NUMBER: _ClassVar[int]
    STATE_KEEP_PROB_FIELD_NUMBER: _ClassVar[int]
    cell: Cell
    input_keep_prob: float
    output_keep_prob: float
    state_keep_prob: float
    def __init__(self, cell: _Optional[_Union[Cell, _Mapping]] = ..., input_keep_prob: _Optional[float] = ..., output_keep_prob: _Optional[float] = ..., state_keep_prob: _Optional[float] = ...) -> None: ...

class InputProjectionWrapper(_message.Message):
    __slots__ = ("cell", "num_proj", "activation")
    CELL_FIELD_NUMBER: _ClassVar[int]
    NUM_PROJ_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    cell: Cell
    num_proj: int
    activation: Activation
    def __init__(self, cell: _Optional[_Union[Cell, _Mapping]] = ..., num_proj: _Optional[int] = ..., activation: _Optional[_Union[Activation, str]] = ...) -> None: ...

class EmbeddingWrapper(_message.Message):
    __slots__ = ("cell", "embedding_classes", "embedding_size")
    CELL_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_CLASSES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_SIZE_FIELD_NUMBER: _ClassVar[int]
    cell: Cell
    embedding_classes: int
    embedding_size: int
    def __init__(self, cell: _Optional[_Union[Cell, _Mapping]] = ..., embedding_classes: _Optional[int] = ..., embedding_size: _Optional[int] = ...) -> None: ...

class MinGruCell(_message.Message):
    __slots__ = ("num_units", "linear_candidate")
    NUM_UNITS_FIELD_NUMBER: _ClassVar[int]
    LINEAR_CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    num_units: int
    linear_candidate: bool
    def __init__(self, num_units: _Optional[int] = ..., linear_candidate: bool = ...) -> None: ...

class MinLstmCell(_message.Message):
    __slots__ = ("num_units", "linear_candidate")
    NUM_UNITS_FIELD_NUMBER: _ClassVar[int]
    LINEAR_CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    num_units: int
    linear_candidate: bool
    def __init__(self, num_units: _Optional[int] = ..., linear_candidate: bool = ...) -> None: ...
