"""Requests that are nearly right: of every message, from its descriptor, so that a field that is added is tried too.

All choices are those of one ``random.Random``. A seeded one makes thousands of requests a second; Hypothesis hands in
one whose choices it makes smaller until only what matters is left; a fuzzer one that reads its bytes (``ByteChoices``).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cellserve.specs import model_to_proto
from cellserve.tensors import tensor_from_array
from cellserve.v1 import (
    cell_pb2,
    model_pb2,
    recurrent_service_pb2,
    sequence_pb2,
    session_pb2,
    state_pb2,
    tensor_pb2,
)
from tests.fuzz.methods import Method
from tests.fuzz.stage import CANARY_MODEL, DEPTH, MODEL_NAMES, ROWS, SESSIONS
from tests.unit.model_samples import RNN

MAX_REQUESTS = 8
MAX_ITEMS = 3
MANY = 3000
SHORT = 100
MAX_DEPTH = 4
DEEP = (10, 20, 40)  # A state is two messages; protobuf reads a hundred within each other.
FLOATS = (float("nan"), float("inf"), float("-inf"), 1e38, -1e38, 1e-42, 0.0, 1.0)
IDS = (*SESSIONS, "new", "other")
MODELS = (*(f"models/{name}" for name in MODEL_NAMES), "models/rnn/versions/1", "models/none", "")
TEXTS: dict[str, Sequence[str]] = {
    "name": (*(f"sessions/{id_}" for id_ in IDS), *MODELS),
    "names": tuple(f"sessions/{id_}" for id_ in IDS),
    "session": (*(f"sessions/{id_}" for id_ in IDS), ""),
    "model": MODELS,
    "session_id": (*IDS, ""),
    "uid": ("", "", "", "id-1", "id-2"),
    "request_id": ("", "", "r1", "r2", "r" * 129),
    "page_token": ("", "YQ==", "Yg", "cm5uLzE=", "!", "A" * 1000),
    "tenant": ("default", "default", ""),
    "id": IDS,
    "taker": ("127.0.0.1:1", "", "nobody"),
    "variable": ("rnn/basic_rnn_cell/kernel", "rnn/basic_rnn_cell/bias", "kernel"),
}
HOSTILE = (
    "\0",
    "../../etc/passwd",
    "sessions/",
    "models/../x",
    "%s%n{}{0.__class__}",
    "é" * 200,
    "a" * 100_000,
    "\u202e",
    "١٢٣",  # digits, to isdigit
)
WHOLE_NUMBERS = {
    FieldDescriptor.TYPE_INT32: (32, True),
    FieldDescriptor.TYPE_SINT32: (32, True),
    FieldDescriptor.TYPE_SFIXED32: (32, True),
    FieldDescriptor.TYPE_INT64: (64, True),
    FieldDescriptor.TYPE_SINT64: (64, True),
    FieldDescriptor.TYPE_SFIXED64: (64, True),
    FieldDescriptor.TYPE_UINT32: (32, False),
    FieldDescriptor.TYPE_FIXED32: (32, False),
    FieldDescriptor.TYPE_UINT64: (64, False),
    FieldDescriptor.TYPE_FIXED64: (64, False),
}


# Those of Python's descriptors and of C's are two classes.
Descriptor: TypeAlias = Any


class Call(NamedTuple):
    """A call: the method's path and its requests."""

    path: str
    requests: tuple[bytes, ...]


class ByteChoices(random.Random):
    """Makes its choices by some bytes, and where these end the first of whatever there is.

    Args:
        data: the bytes.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data = data
        self._next = 0

    def getrandbits(self, k: int) -> int:
        """The next bytes, as many as ``k`` bits take."""
        count = -(-k // 8)
        piece = self._data[self._next : self._next + count]
        self._next += count
        return int.from_bytes(piece, "little") & ((1 << k) - 1)

    def random(self) -> float:
        """A number from 0 to 1, 1 not among them, of the next four bytes."""
        return self.getrandbits(32) / (1 << 32)


class Maker:
    """Makes calls.

    Args:
        choices: makes all choices.
    """

    def __init__(self, choices: random.Random) -> None:
        self._choices = choices

    def call(self, methods: Sequence[Method]) -> Call:
        """A call of one of these methods: of one request, or of several in any order."""
        method = self._choices.choice(methods)
        count = self._choices.randint(1, MAX_REQUESTS) if method.streams_requests else 1
        requests = [self.message(method.request.DESCRIPTOR) for _ in range(count)]
        return Call(method.path, tuple(request.SerializeToString() for request in requests))

    def message(self, descriptor: Descriptor, depth: int = 0) -> Message:
        """A message of a type, within so many others."""
        match descriptor.full_name:
            case "cellserve.v1.Tensor":
                return self._tensor()
            case "cellserve.v1.State":
                return self._state(0)
            case "cellserve.v1.ModelSpec" if not self._once_in(3):
                return self._model()
            case "cellserve.v1.Session" if not self._once_in(3):
                return self._session()
            case "cellserve.v1.StepRequest" if not self._once_in(3):
                return self._step()
            case "cellserve.v1.RunSequenceRequest" if not self._once_in(3):
                return self._sequence()
            case "cellserve.v1.Open" | "cellserve.v1.Steps" | "cellserve.v1.Close" if not self._once_in(4):
                return self._columns(descriptor, depth)
        return self._by_fields(descriptor, depth)

    def _once_in(self, parts: int) -> bool:
        return self._choices.randrange(parts) == parts - 1

    def _by_fields(self, descriptor: Descriptor, depth: int) -> Message:
        message: Message = GetMessageClass(descriptor)()
        real = [one for one in descriptor.oneofs if len(one.fields) > 1]
        chosen = {one.name: self._choices.choice([*one.fields, None]) for one in real}
        for field in descriptor.fields:
            oneof = field.containing_oneof
            is_chosen = oneof is not None and chosen.get(oneof.name) is field
            is_left_out = oneof is not None and oneof.name in chosen and not is_chosen
            if is_left_out or (field.message_type is not None and depth >= MAX_DEPTH):
                continue
            if is_chosen or not self._once_in(4):
                self._set(message, field, depth)
        return message

    def _set(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        target = getattr(message, field.name)
        if field.is_repeated:
            if field.message_type is None and self._once_in(30):
                target.extend(self._many(field, depth))
            else:
                target.extend(self._value(field, depth) for _ in range(self._choices.randrange(MAX_ITEMS + 1)))
        elif field.message_type is not None:
            target.CopyFrom(self.message(field.message_type, depth + 1))
        else:
            setattr(message, field.name, self._value(field, depth))

    def _many(self, field: FieldDescriptor, depth: int) -> list[Any]:
        value = self._value(field, depth)
        is_long = isinstance(value, (str, bytes)) and len(value) > SHORT
        return [value] * (1 if is_long else MANY)

    def _value(self, field: FieldDescriptor, depth: int) -> Any:
        if field.message_type is not None:
            return self.message(field.message_type, depth + 1)
        if field.type in WHOLE_NUMBERS:
            return self._whole_number(*WHOLE_NUMBERS[field.type])
        match field.type:
            case FieldDescriptor.TYPE_STRING:
                return self._text(field.name)
            case FieldDescriptor.TYPE_BYTES:
                return self._step_data()
            case FieldDescriptor.TYPE_BOOL:
                return self._once_in(2)
            case FieldDescriptor.TYPE_ENUM:
                assert field.enum_type is not None
                numbers = [value.number for value in field.enum_type.values]
                return self._choices.choice([-1, 99] if self._once_in(8) else numbers)
        assert field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE), field.full_name
        return self._choices.choice(FLOATS)

    def _whole_number(self, bits: int, is_signed: bool) -> int:
        if not self._once_in(5):
            return self._choices.randrange(6)
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)
        ends = [low, high, high - 1, *((-1, -2, 1 << 30) if is_signed else (1 << 31,))]
        number: int = self._choices.choice([*ends, self._choices.getrandbits(bits - 1)])
        return number

    def _text(self, name: str) -> str:
        if name in TEXTS and not self._once_in(8):
            return self._choices.choice(TEXTS[name])
        if self._once_in(3):
            return self._choices.choice(HOSTILE)
        # No surrogates: they are no text to protobuf.
        return "".join(chr(self._choices.randrange(0xD800)) for _ in range(self._choices.randrange(12)))

    def _step_data(self) -> bytes:
        if self._once_in(5):
            return self._choices.randbytes(self._choices.randrange(64))
        return struct.pack("<f", self._choices.choice(FLOATS)) * DEPTH * self._choices.randrange(4)

    def _tensor(self) -> tensor_pb2.Tensor:
        """One of the models' shapes and types; with bad numbers; such as lie about their shapes."""
        lead = self._choices.choice([(), (), (ROWS,), (1,), (ROWS, 4), (2, 0), (0,)])
        shape = (*lead, *self._choices.choice([(DEPTH,), (DEPTH,), (2,), ()]))
        dtype = np.dtype(self._choices.choice(["<f4", "<f4", "<f8", "<i4", "<i8"]))
        values = [0.5, *FLOATS] if dtype.kind == "f" else [0, 3, 9, 10, -1, 1 << 30]
        tensor = tensor_from_array(np.full(shape, self._choices.choice(values), dtype))
        if self._once_in(6):
            lies = [0, 1, 3, -1, 1 << 20, 1 << 40, 1 << 62]
            tensor.shape[:] = [self._choices.choice(lies) for _ in range(self._choices.randrange(10))]
        if self._once_in(12):
            tensor.data_type = self._choices.choice([0, 1, 2, 3, 4, 99, -1])  # type: ignore[assignment]
        if self._once_in(12):
            tensor.data = self._choices.randbytes(self._choices.randrange(40))
        return tensor

    def _state(self, depth: int) -> state_pb2.State:
        """One of the models' nesting, another, or a very deep one."""
        kind = self._choices.choice(["tensor", "lstm", "tuple", "none", "deep"])
        if kind == "deep" and depth == 0:
            state = state_pb2.State()
            for _ in range(self._choices.choice(DEEP)):
                state = state_pb2.State(tuple=state_pb2.TupleState(items=[state]))
            return state
        if kind == "lstm":
            return state_pb2.State(lstm=state_pb2.LstmState(c=self._tensor(), h=self._tensor()))
        if kind == "tuple" and depth < MAX_DEPTH:
            items = [self._state(depth + 1) for _ in range(self._choices.randrange(MAX_ITEMS + 1))]
            return state_pb2.State(tuple=state_pb2.TupleState(items=items))
        return state_pb2.State() if kind == "none" else state_pb2.State(tensor=self._tensor())

    def _session(self) -> Message:
        """One that can be made."""
        model = self._choices.choice(["models/rnn", "models/stack", "models/ids"])
        return session_pb2.Session(model=model, batch_size=self._choices.randrange(3))

    def _step(self) -> Message:
        """One that a session of vectors takes, if its number is right."""
        inputs = np.full(DEPTH, self._choices.choice(FLOATS), np.float32)
        request = recurrent_service_pb2.StepRequest(
            name=self._choices.choice(["sessions/a", "sessions/new"]),
            inputs=[tensor_from_array(inputs)],
            run_id=self._choices.randrange(3),
        )
        if self._once_in(3):
            request.expected_step = self._choices.randrange(3)
        return request

    def _sequence(self) -> Message:
        """One that a session of vectors takes, or its model without one."""
        time = self._choices.randrange(6)
        inputs = np.full((1, time, DEPTH), self._choices.choice(FLOATS), np.float32)
        request = recurrent_service_pb2.RunSequenceRequest(
            inputs=sequence_pb2.Sequence(values=[tensor_from_array(inputs)]), return_state=self._once_in(2)
        )
        if self._once_in(2):
            request.inputs.lengths.append(self._choices.randrange(8))
        if self._once_in(2):
            request.session, request.run_id = "sessions/a", self._choices.randrange(3)
        else:
            request.model = self._choices.choice(["models/rnn", "models/bi"])
        return request

    def _columns(self, descriptor: Descriptor, depth: int) -> Message:
        """A message of a stream whose columns fit each other, about a group and handles that others are about too."""
        made = self._by_fields(descriptor, depth)
        message: Any = made
        count = self._choices.randrange(MAX_ITEMS + 1)
        message.group = self._choices.randrange(2)
        message.handles[:] = self._choices.sample(range(2 * MAX_ITEMS), count)
        if descriptor.name == "Open":
            message.names[:] = [self._text("names") for _ in range(count)]
            message.model, message.batch_size = "models/rnn", 0
            message.ClearField("ttl")
        elif descriptor.name == "Steps":
            value = struct.pack("<f", self._choices.choice(FLOATS))
            message.inputs[:] = [value * DEPTH * count]
            for column in (message.expected_steps, message.run_ids, message.timeouts_ms):
                if column:
                    column[:] = [self._choices.choice(column) for _ in range(count)]
        return made

    def _model(self) -> model_pb2.ModelSpec:
        """A good description, of which something is put otherwise."""
        spec = model_to_proto(self._choices.choice([RNN, CANARY_MODEL]))
        if self._once_in(2):
            cell = self._by_fields(cell_pb2.Cell.DESCRIPTOR, 1)
            assert isinstance(cell, cell_pb2.Cell)
            spec.layers[0].cell.CopyFrom(cell)
        if self._once_in(4):
            spec.outputs[0].shape[:] = [self._whole_number(64, True) for _ in range(self._choices.randrange(4))]
        return spec
