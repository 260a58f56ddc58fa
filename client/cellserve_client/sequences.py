"""Sequences without a session: RunSequence from a state that is sent along, in as many pieces as it takes."""

from __future__ import annotations

from collections.abc import Sequence

from cellserve.states import NestedState, leaf_sizes
from cellserve.tensors import Array, array_from_tensor
from cellserve.v1 import recurrent_service_pb2 as pb
from cellserve.v1 import sequence_pb2, state_pb2
from cellserve_client import methods
from cellserve_client.arrays import own_state, to_tensors
from cellserve_client.deadlines import Deadline
from cellserve_client.fleet import Fleet
from cellserve_client.models import ModelInfo
from cellserve_client.pieces import Gathered, Piece, cut, lengths_within, row_bytes, selection_of, steps_per_piece


def longest_piece(fleet: Fleet, info: ModelInfo, rows: int, outputs: str, with_state: bool) -> int:
    """How many steps one RunSequence of a model may have."""
    return steps_per_piece(
        info.limits,
        rows=rows,
        input_bytes=row_bytes(info.inputs),
        output_bytes=row_bytes(info.outputs) if outputs == "all" else 0,
        state_bytes=info.state_bytes_per_row if with_state else 0,
        tensors=max(len(info.inputs), len(info.outputs)) + (len(leaf_sizes(info.state_size)) if with_state else 0),
        max_message_bytes=fleet.max_message_bytes,
    )


def piece_of(inputs: Sequence[Array], lengths: Array | None, piece: Piece) -> sequence_pb2.Sequence:
    """Packs one piece of ``[batch, time, ...]`` inputs with its lengths."""
    within = lengths_within(lengths, piece)
    return sequence_pb2.Sequence(
        values=to_tensors([array[:, piece.start : piece.stop] for array in inputs]),
        lengths=() if within is None else within.tolist(),
    )


async def run_stateless(
    fleet: Fleet,
    info: ModelInfo,
    inputs: Sequence[Array],
    lengths: Array | None,
    initial_state: state_pb2.State | None,
    deadline: Deadline,
    *,
    for_each_piece: bool,
) -> tuple[list[Array], NestedState]:
    """Runs a whole sequence from a state.

    Args:
        inputs: one ``[batch, time, ...]`` array for each input of the model.
        lengths: int64 ``[batch]``, 0 to time; None: all steps of all rows.
        initial_state: None: zeros.
        deadline: of the whole call.
        for_each_piece: it is that of the first piece only; each later one has the connection's timeout to itself.

    Returns:
        The outputs, ``[batch, time, ...]`` each, and the nested state after each row's last step.

    Raises:
        CellServeError: nothing is kept; the whole call can be made again.
    """
    rows, steps = inputs[0].shape[:2]
    # A model that needs whole sequences cannot go on from a state: the server says what it takes at most.
    longest = longest_piece(fleet, info, rows, "all", with_state=True) if info.steppable else max(steps, 1)
    gathered = Gathered("all", info.outputs, rows, steps)
    state = initial_state
    for piece in cut(steps, lengths, longest):
        if for_each_piece and piece.start > 0:
            deadline = fleet.deadline(None)
        request = pb.RunSequenceRequest(
            model=info.resource_name,
            inputs=piece_of(inputs, lengths, piece),
            initial_state=state,
            outputs=selection_of("all"),
        )
        answer: pb.RunSequenceResponse = await fleet.invoke(
            methods.RUN_SEQUENCE, request, deadline, model=info.resource_name
        )
        gathered.add(piece, lengths_within(lengths, piece), answer_arrays(answer))
        state = answer.state
    assert state is not None, "there is always a piece"
    return gathered.whole() or [], own_state(info.state_size, state)


def answer_arrays(answer: pb.RunSequenceResponse) -> list[Array]:
    """The outputs of one piece; they look into the message."""
    return [array_from_tensor(tensor, "outputs") for tensor in answer.outputs.values]
