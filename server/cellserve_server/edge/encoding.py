"""Arrays, sessions and outcomes -> messages, and how long a message will get."""

from __future__ import annotations

import math
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cellserve.errors import FieldInvalidError
from cellserve.specs import ArraySpec
from cellserve.states import state_to_proto
from cellserve.tensors import Array, tensor_from_array
from cellserve.v1 import model_pb2, sequence_pb2, session_pb2, state_pb2, tensor_pb2
from cellserve_server.config import ServerConfig
from cellserve_server.edge.fields import SESSION_PREFIX
from cellserve_server.engine.runs import RunResult
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.session import SessionSnapshot

# What a tensor takes besides its data at most: tags and lengths, the type, and eight dimensions.
TENSOR_OVERHEAD_BYTES = 128
ANSWER_OVERHEAD_BYTES = 256


def step_bytes(spec: ArraySpec, rows: int) -> int:
    """The bytes of one step of so many rows of an input or output."""
    return rows * math.prod(spec.shape) * spec.dtype.itemsize


def state_bytes(model: LoadedModel, rows: int) -> int:
    """How long the message of a state can get."""
    return rows * model.state_bytes_per_row + len(model.leaf_sizes) * TENSOR_OVERHEAD_BYTES


def require_answer_fits(
    model: LoadedModel, *, rows: int, steps: int, with_state: bool, config: ServerConfig, advice: str
) -> None:
    """Refuses what would give an answer above ``max_message_bytes``, before it is computed.

    Args:
        steps: the length of the time dimension of the outputs that are wanted; 0: none are.
        advice: what to do instead.

    Raises:
        FieldInvalidError: with both sizes and the advice.
    """
    wanted = ANSWER_OVERHEAD_BYTES
    if steps:
        wanted += rows * steps * model.output_bytes_per_row + len(model.outputs) * TENSOR_OVERHEAD_BYTES
    if with_state:
        wanted += state_bytes(model, rows)
    if wanted > config.max_message_bytes:
        raise FieldInvalidError(
            f"the answer would take {wanted} bytes; expected at most {config.max_message_bytes} "
            f"(max_message_bytes): {advice}",
            metadata={"answer_bytes": str(wanted), "max_message_bytes": str(config.max_message_bytes)},
        )


def step_outputs(model: LoadedModel, outputs: Sequence[Array], rows: int | None) -> list[tensor_pb2.Tensor]:
    """The outputs of one step.

    Args:
        outputs: one for each output of the model, with all its elements in their order.
        rows: the first dimension; None: there is none.
    """
    lead = () if rows is None else (rows,)
    return [
        tensor_from_array(array.reshape(*lead, *spec.shape), spec.name)
        for array, spec in zip(outputs, model.outputs, strict=True)
    ]


def sequence_message(model: LoadedModel, result: RunResult) -> sequence_pb2.Sequence:
    """The outputs of a run of many steps; no values where none were wanted."""
    # Not strict: a run of which no outputs are wanted has none.
    pairs = zip(result.outputs, model.outputs, strict=False)
    return sequence_pb2.Sequence(values=[tensor_from_array(array, spec.name) for array, spec in pairs])


def state_message(model: LoadedModel, leaves: Sequence[Array] | None) -> state_pb2.State | None:
    """The state of a model; None stays None, and so the field stays unset."""
    return None if leaves is None else state_to_proto(model.structure, leaves)


def session_message(session: SessionSnapshot, steps_per_second: float = 0.0) -> session_pb2.Session:
    """The session as clients see it, with its state when the snapshot has it, and its rate where it is known."""
    return session_pb2.Session(
        name=SESSION_PREFIX + session.key.id,
        uid=session.uid,
        model=session.model_name,
        batch_size=session.batch_size,
        step_count=session.step_count,
        ttl=duration_of(session.ttl_s),
        expire_time=_timestamp_of(session.expire_time),
        create_time=_timestamp_of(session.create_time),
        state=None if session.model is None else state_message(session.model, session.leaves),
        last_run_id=session.last_run_id,
        last_used_time=_timestamp_of(session.last_used_time),
        steps_per_second=steps_per_second,
    )


def limits_message(config: ServerConfig, durability: session_pb2.Durability) -> model_pb2.ModelLimits:
    """What the server takes at most."""
    return model_pb2.ModelLimits(
        max_sequence_steps=config.max_sequence_steps,
        max_rows=config.max_rows,
        max_message_bytes=config.max_message_bytes,
        durability=durability,
    )


def duration_of(seconds: float) -> Duration:
    """Seconds as a message, rounded to microseconds."""
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration


def _timestamp_of(unix_s: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(round(unix_s * 1e6))
    return stamp
