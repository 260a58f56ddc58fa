"""Requests for steps -> runs: decoded, and checked for everything that can be said before they are queued."""

from __future__ import annotations

from typing import NamedTuple

from cellserve.errors import FieldInvalidError
from cellserve.tensors import Array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve_server.config import ServerConfig
from cellserve_server.edge.decoding import sequence_inputs, state_leaves, step_inputs
from cellserve_server.edge.encoding import require_answer_fits
from cellserve_server.edge.fields import output_mode_of, require_steppable, step_number_of
from cellserve_server.engine.runs import Run
from cellserve_server.keys import Client
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.session import Session

SMALLER_BATCH = "use a smaller batch"
SHORTER_SEQUENCE = "ask for outputs LAST or NONE, or send the sequence in shorter pieces"


class Caller(NamedTuple):
    """Who waits for an answer.

    Attributes:
        client: who sent the request; tenants and clients share ticks fairly.
        deadline: until when the answer is of use, on the engine's clock; None: for ever.
    """

    client: Client
    deadline: float | None


def run_of_call(request: messages.CallRequest, model: LoadedModel, caller: Caller, config: ServerConfig) -> Run:
    """One step from a state that comes along.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
        ModelNotSteppableError: the model needs whole sequences.
    """
    require_steppable(model, "a single step")
    inputs, rows = step_inputs(model, request.inputs, None, config)
    leaves = state_leaves(model, request.state, rows, "state") if request.HasField("state") else None
    run = Run(
        model,
        inputs,
        rows=rows,
        initial_leaves=leaves,
        deadline=caller.deadline,
        return_state=True,
        client=caller.client,
    )
    return _fitting(run, config, SMALLER_BATCH)


class Step(NamedTuple):
    """One step of a session, checked.

    Attributes:
        session: whose.
        inputs: one ``[rows, 1, ...]`` for each input of the model.
        rows: the batch size, at least 1.
        expected_step: the steps applied before it; None: not checked.
        run_id: 0: none.
        uid: the life that is meant; empty: whichever there is.
    """

    session: Session
    inputs: list[Array]
    rows: int
    expected_step: int | None
    run_id: int
    uid: str


def step_of(request: messages.StepRequest, session: Session, config: ServerConfig) -> Step:
    """One step of a session.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
    """
    inputs, rows = step_inputs(session.model, request.inputs, session.batch_size, config)
    require_answer_fits(session.model, rows=rows, steps=1, with_state=False, config=config, advice=SMALLER_BATCH)
    return Step(session, inputs, rows, _expected_step_of(request), request.run_id, request.uid)


def run_of_step(step: Step, caller: Caller) -> Run:
    """The step as a run."""
    return Run(
        step.session.model,
        step.inputs,
        rows=step.rows,
        session=step.session,
        uid=step.uid,
        expected_step=step.expected_step,
        run_id=step.run_id,
        deadline=caller.deadline,
        client=caller.client,
    )


def run_of_session_sequence(
    request: messages.RunSequenceRequest, session: Session, caller: Caller, config: ServerConfig
) -> Run:
    """Many steps of a session.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
    """
    if request.HasField("initial_state"):
        raise FieldInvalidError("initial_state: expected none with a session, which has a state of its own")
    sequence = sequence_inputs(session.model, request.inputs, session.rows, config)
    run = Run(
        session.model,
        sequence.arrays,
        rows=sequence.rows,
        session=session,
        uid=request.uid,
        lengths=sequence.lengths,
        expected_step=_expected_step_of(request),
        run_id=request.run_id,
        deadline=caller.deadline,
        client=caller.client,
        outputs=output_mode_of(request.outputs),
        return_state=request.return_state,
    )
    return _fitting(run, config, SHORTER_SEQUENCE)


def run_of_plain_sequence(
    request: messages.RunSequenceRequest, model: LoadedModel, caller: Caller, config: ServerConfig
) -> Run:
    """Many steps without a session. Its run_id is not read: nothing moves, so a repeat is harmless.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
    """
    for field, given in (("uid", bool(request.uid)), ("expected_step", request.HasField("expected_step"))):
        if given:
            raise FieldInvalidError(f"{field}: expected none without a session", metadata={"field": field})
    sequence = sequence_inputs(model, request.inputs, None, config)
    leaves = None
    if request.HasField("initial_state"):
        leaves = state_leaves(model, request.initial_state, sequence.rows, "initial_state")
    run = Run(
        model,
        sequence.arrays,
        rows=sequence.rows,
        initial_leaves=leaves,
        lengths=sequence.lengths,
        deadline=caller.deadline,
        client=caller.client,
        outputs=output_mode_of(request.outputs),
        return_state=True,
    )
    return _fitting(run, config, SHORTER_SEQUENCE)


def _fitting(run: Run, config: ServerConfig, advice: str) -> Run:
    require_answer_fits(
        run.model,
        rows=run.rows,
        steps=run.output_time(),
        with_state=run.return_state,
        config=config,
        advice=advice,
    )
    return run


def _expected_step_of(request: messages.StepRequest | messages.RunSequenceRequest) -> int | None:
    if not request.HasField("expected_step"):
        return None
    return step_number_of(request.expected_step, "expected_step")
