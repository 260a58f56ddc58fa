import datetime

from cellserve.v1 import cell_pb2 as _cell_pb2
from cellserve.v1 import session_pb2 as _session_pb2
from cellserve.v1 import state_pb2 as _state_pb2
from cellserve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MergeMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MERGE_MODE_UNSPECIFIED: _ClassVar[MergeMode]
    MERGE_MODE_CONCAT: _ClassVar[MergeMode]
    MERGE_MODE_SUM: _ClassVar[MergeMode]
    MERGE_MODE_MUL: _ClassVar[MergeMode]
    MERGE_MODE_AVERAGE: _ClassVar[MergeMode]

class DenseActivation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DENSE_ACTIVATION_UNSPECIFIED: _ClassVar[DenseActivation]
    DENSE_ACTIVATION_NONE: _ClassVar[DenseActivation]
    DENSE_ACTIVATION_SOFTMAX: _ClassVar[DenseActivation]
    DENSE_ACTIVATION_SIGMOID: _ClassVar[DenseActivation]
    DENSE_ACTIVATION_TANH: _ClassVar[DenseActivation]
    DENSE_ACTIVATION_RELU: _ClassVar[DenseActivation]

class Capability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAPABILITY_UNSPECIFIED: _ClassVar[Capability]
    CAPABILITY_STEP: _ClassVar[Capability]
    CAPABILITY_SESSION: _ClassVar[Capability]
    CAPABILITY_SEQUENCE: _ClassVar[Capability]

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_READY: _ClassVar[ModelState]
    MODEL_STATE_BROKEN: _ClassVar[ModelState]
    MODEL_STATE_UNLOADING: _ClassVar[ModelState]
MERGE_MODE_UNSPECIFIED: MergeMode
MERGE_MODE_CONCAT: MergeMode
MERGE_MODE_SUM: MergeMode
MERGE_MODE_MUL: MergeMode
MERGE_MODE_AVERAGE: MergeMode
DENSE_ACTIVATION_UNSPECIFIED: DenseActivation
DENSE_ACTIVATION_NONE: DenseActivation
DENSE_ACTIVATION_SOFTMAX: DenseActivation
DENSE_ACTIVATION_SIGMOID: DenseActivation
DENSE_ACTIVATION_TANH: DenseActivation
DENSE_ACTIVATION_RELU: DenseActivation
CAPABILITY_UNSPECIFIED: Capability
CAPABILITY_STEP: Capability
CAPABILITY_SESSION: Capability
CAPABILITY_SEQUENCE: Capability
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_READY: ModelState
MODEL_STATE_BROKEN: ModelState
MODEL_STATE_UNLOADING: ModelState

class ModelSpec(_message.Message):
    __slots__ = ("data_type", "inputs", "layers", "outputs")
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    data_type: _tensor_pb2.DataType
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    outputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    def __init__(self, data_type: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("standardise", "embedding", "cell", "bidirectional", "dense")
    STANDARDISE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    BIDIRECTIONAL_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    standardise: Standardise
    embedding: Embedding
    cell: _cell_pb2.Cell
    bidirectional: Bidirectional
    dense: Dense
    def __init__(self, standardise: _Optional[_Union[Standardise, _Mapping]] = ..., embedding: _Optional[_Union[Embedding, _Mapping]] = ..., cell: _Optional[_Union[_cell_pb2.Cell, _Mapping]] = ..., bidirectional: _Optional[_Union[Bidirectional, _Mapping]] = ..., dense: _Optional[_Union[Dense, _Mapping]] = ...) -> None: ...

class Standardise(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("vocabulary_size", "depth")
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    vocabulary_size: int
    depth: int
    def __init__(self, vocabulary_size: _Optional[int] = ..., depth: _Optional[int] = ...) -> None: ...

class Bidirectional(_message.Message):
    __slots__ = ("forward", "backward", "merge_mode")
    FORWARD_FIELD_NUMBER: _ClassVar[int]
    BACKWARD_FIELD_NUMBER: _ClassVar[int]
    MERGE_MODE_FIELD_NUMBER: _ClassVar[int]
    forward: _cell_pb2.Cell
    backward: _cell_pb2.Cell
    merge_mode: MergeMode
    def __init__(self, forward: _Optional[_Union[_cell_pb2.Cell, _Mapping]] = ..., backward: _Optional[_Union[_cell_pb2.Cell, _Mapping]] = ..., merge_mode: _Optional[_Union[MergeMode, str]] = ...) -> None: ...

class Dense(_message.Message):
    __slots__ = ("units", "activation")
    UNITS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    units: int
    activation: DenseActivation
    def __init__(self, units: _Optional[int] = ..., activation: _Optional[_Union[DenseActivation, str]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "description", "spec", "state_spec", "capabilities", "state", "error", "parameter_count", "state_bytes_per_row", "digest", "load_time", "defined", "expire_time", "limits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_SPEC_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_PER_ROW_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LOAD_TIME_FIELD_NUMBER: _ClassVar[int]
    DEFINED_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    spec: ModelSpec
    state_spec: _state_pb2.StateSpec
    capabilities: _containers.RepeatedScalarFieldContainer[Capability]
    state: ModelState
    error: str
    parameter_count: int
    state_bytes_per_row: int
    digest: str
    load_time: _timestamp_pb2.Timestamp
    defined: bool
    expire_time: _timestamp_pb2.Timestamp
    limits: ModelLimits
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., spec: _Optional[_Union[ModelSpec, _Mapping]] = ..., state_spec: _Optional[_Union[_state_pb2.StateSpec, _Mapping]] = ..., capabilities: _Optional[_Iterable[_Union[Capability, str]]] = ..., state: _Optional[_Union[ModelState, str]] = ..., error: _Optional[str] = ..., parameter_count: _Optional[int] = ..., state_bytes_per_row: _Optional[int] = ..., digest: _Optional[str] = ..., load_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., defined: bool = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., limits: _Optional[_Union[ModelLimits, _Mapping]] = ...) -> None: ...

class ModelLimits(_message.Message):
    __slots__ = ("max_sequence_steps", "max_rows", "max_message_bytes", "durability")
    MAX_SEQUENCE_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    max_sequence_steps: int
    max_rows: int
    max_message_bytes: int
    durability: _session_pb2.Durability
    def __init__(self, max_sequence_steps: _Optional[int] = ..., max_rows: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., durability: _Optional[_Union[_session_pb2.Durability, str]] = ...) -> None: ...
