"""A client written from the .proto files alone: generated stubs, ``struct`` and ``math``, no package of ours.

It defines a tiny BasicRNNCell with weights of its own, steps it in every way that the contract has, and compares what
comes with the same recurrence computed here in plain Python. It runs as a program too, with any stubs that Python
finds under ``cellserve.v1``:

    python wire_reader.py HOST:PORT
"""

from __future__ import annotations

import math
import queue
import random
import struct
import sys
import uuid
from collections.abc import Iterator

import grpc

from cellserve.v1 import (
    cell_pb2,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    recurrent_service_pb2,
    recurrent_service_pb2_grpc,
    sequence_pb2,
    session_pb2,
    state_pb2,
    stream_pb2,
    tensor_pb2,
)

DEPTH, UNITS = 2, 3
TIMEOUT_S = 20.0
TOLERANCE = 1e-5

Row = list[float]


def floats(*rows: Row) -> bytes:
    """Rows as little-endian float32, one after the other."""
    values = [value for row in rows for value in row]
    return struct.pack(f"<{len(values)}f", *values)


def rows_of(data: bytes, width: int) -> list[Row]:
    values = struct.unpack(f"<{len(data) // 4}f", data)
    return [list(values[start : start + width]) for start in range(0, len(values), width)]


def tensor(data: bytes, *shape: int) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=shape, data=data)


def expect_tensor(found: tensor_pb2.Tensor, expected: list[Row], *shape: int) -> None:
    expect(found.data_type == tensor_pb2.DATA_TYPE_FLOAT32, f"data type {found.data_type}")
    expect(list(found.shape) == list(shape), f"shape {list(found.shape)}, not {list(shape)}")
    expect_rows(found.data, expected)


def expect_rows(data: bytes, expected: list[Row]) -> None:
    found = rows_of(data, UNITS)
    expect(len(found) == len(expected), f"{len(found)} rows, not {len(expected)}")
    for row, other in zip(found, expected, strict=True):
        for value, wanted in zip(row, other, strict=True):
            expect(abs(value - wanted) <= TOLERANCE, f"{value}, not {wanted}")


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


class TinyCell:
    """The recurrence h' = tanh([x, h] kernel + bias), computed number by number."""

    def __init__(self, numbers: random.Random) -> None:
        def draw(count: int) -> Row:
            # Through float32 and back, so that both sides have the same weights.
            drawn = [numbers.uniform(-1, 1) for _ in range(count)]
            return list(struct.unpack(f"<{count}f", floats(drawn)))

        self.draw = draw
        self.kernel = [draw(UNITS) for _ in range(DEPTH + UNITS)]
        self.bias = draw(UNITS)

    def step(self, x: Row, h: Row) -> Row:
        together = [*x, *h]
        return [
            math.tanh(sum(value * weights[unit] for value, weights in zip(together, self.kernel, strict=True)) + bias)
            for unit, bias in enumerate(self.bias)
        ]

    def run(self, inputs: list[Row], h: Row) -> list[Row]:
        outputs = []
        for x in inputs:
            h = self.step(x, h)
            outputs.append(h)
        return outputs


class WireReader:
    """Talks to one server and compares."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.recurrent = recurrent_service_pb2_grpc.RecurrentServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)
        self.cell = TinyCell(random.Random(20))
        self.model = self.define()
        self.zero = [0.0] * UNITS

    def define(self) -> str:
        """Sends the cell with its weights, the kernel in two pieces, and gives the model's name."""
        x = tensor_pb2.TensorSpec(name="x", data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=[DEPTH])
        cell = cell_pb2.Cell(basic_rnn_cell=cell_pb2.BasicRnnCell(num_units=UNITS))
        listed = model_service_pb2.WeightList(
            variables=[
                tensor_pb2.TensorSpec(name=name, data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=shape)
                for name, shape in {
                    "basic_rnn_cell/kernel": [DEPTH + UNITS, UNITS],
                    "basic_rnn_cell/bias": [UNITS],
                }.items()
            ]
        )
        header = model_service_pb2.DefineModelHeader(
            spec=model_pb2.ModelSpec(inputs=[x], layers=[model_pb2.Layer(cell=cell)]), listed=listed
        )
        kernel = floats(*self.cell.kernel)
        pieces = [
            ("basic_rnn_cell/kernel", kernel[:7]),
            ("basic_rnn_cell/bias", floats(self.cell.bias)),
            ("basic_rnn_cell/kernel", kernel[7:]),
        ]
        requests = [model_service_pb2.DefineModelRequest(header=header)]
        for variable, data in pieces:
            chunk = model_service_pb2.WeightChunk(variable=variable, data=data)
            requests.append(model_service_pb2.DefineModelRequest(chunk=chunk))
        model = self.models.DefineModel(iter(requests), timeout=TIMEOUT_S).model
        expect(model.defined and model.state == model_pb2.MODEL_STATE_READY, f"model {model}")
        expect(list(model.state_spec.tensor.shape) == [UNITS], f"state {model.state_spec}")
        expect(model.parameter_count == (DEPTH + UNITS + 1) * UNITS, f"{model.parameter_count} parameters")
        return str(model.name)

    def create(self, batch_size: int) -> session_pb2.Session:
        session = session_pb2.Session(model=self.model, batch_size=batch_size)
        session_id = f"wire-{uuid.uuid4()}"
        request = recurrent_service_pb2.CreateSessionRequest(session_id=session_id, session=session)
        made: session_pb2.Session = self.recurrent.CreateSession(request, timeout=TIMEOUT_S).session
        expect(made.name == f"sessions/{session_id}" and made.uid != "" and made.step_count == 0, f"session {made}")
        return made

    def delete(self, session: session_pb2.Session) -> None:
        request = recurrent_service_pb2.DeleteSessionRequest(name=session.name, uid=session.uid)
        self.recurrent.DeleteSession(request, timeout=TIMEOUT_S)

    def check_call(self) -> None:
        """One step without a session, two rows, the state sent along."""
        inputs, states = [self.cell.draw(DEPTH) for _ in range(2)], [self.cell.draw(UNITS) for _ in range(2)]
        request = recurrent_service_pb2.CallRequest(
            model=self.model,
            inputs=[tensor(floats(*inputs), 2, DEPTH)],
            state=state_pb2.State(tensor=tensor(floats(*states), 2, UNITS)),
        )
        answer = self.recurrent.Call(request, timeout=TIMEOUT_S)
        expected = [self.cell.step(x, h) for x, h in zip(inputs, states, strict=True)]
        expect_tensor(answer.outputs[0], expected, 2, UNITS)
        expect_tensor(answer.state.tensor, expected, 2, UNITS)

    def check_steps(self) -> None:
        """A session of one row without a batch dimension: steps, a repeat, a wrong step, its state, its end."""
        session = self.create(0)
        inputs = [self.cell.draw(DEPTH) for _ in range(4)]
        expected = self.cell.run(inputs, self.zero)
        for index, x in enumerate(inputs):
            request = recurrent_service_pb2.StepRequest(
                name=session.name,
                uid=session.uid,
                inputs=[tensor(floats(x), DEPTH)],
                expected_step=index,
                run_id=1000 + index,
            )
            for replayed in (False, True):
                answer = self.recurrent.Step(request, timeout=TIMEOUT_S)
                expect_tensor(answer.outputs[0], [expected[index]], UNITS)
                expect((answer.step_count, answer.replayed) == (index + 1, replayed), f"answer {answer}")
        request.run_id = 1
        code = self.code_of_step(request)
        expect(code == grpc.StatusCode.ABORTED, f"another run at a taken step is {code}")
        read = recurrent_service_pb2.GetSessionRequest(name=session.name, view=session_pb2.SESSION_VIEW_FULL)
        found = self.recurrent.GetSession(read, timeout=TIMEOUT_S).session
        expect((found.step_count, found.uid) == (4, session.uid), f"session {found}")
        expect_rows(found.state.tensor.data, [expected[-1]])
        self.delete(session)

    def code_of_step(self, request: recurrent_service_pb2.StepRequest) -> grpc.StatusCode:
        try:
            self.recurrent.Step(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def check_run(self) -> None:
        """A sequence of two rows of different lengths, on a session."""
        session = self.create(2)
        time, lengths = 5, [5, 2]
        sequences = [[self.cell.draw(DEPTH) for _ in range(time)] for _ in lengths]
        values = tensor(floats(*(x for sequence in sequences for x in sequence)), 2, time, DEPTH)
        request = recurrent_service_pb2.RunSequenceRequest(
            session=session.name,
            uid=session.uid,
            inputs=sequence_pb2.Sequence(values=[values], lengths=lengths),
            expected_step=0,
            run_id=7,
            return_state=True,
        )
        answer = self.recurrent.RunSequence(request, timeout=TIMEOUT_S)
        runs = [self.cell.run(xs[:length], self.zero) for xs, length in zip(sequences, lengths, strict=True)]
        padded = [output for run in runs for output in [*run, *[self.zero] * (time - len(run))]]
        expect_tensor(answer.outputs.values[0], padded, 2, time, UNITS)
        expect_tensor(answer.state.tensor, [run[-1] for run in runs], 2, UNITS)
        expect((answer.steps_applied, answer.step_count) == (time, time), f"answer {answer}")
        self.delete(session)

    def check_stream(self) -> None:
        """Three sessions on one stream, two of them stepped twice in one message."""
        names = [f"sessions/wire-{uuid.uuid4()}" for _ in range(3)]
        handles, order = [7, 1, 300], [0, 2, 1, 0, 2]
        stream = Stream(self.recurrent)
        opening = stream_pb2.Open(
            seq=1, group=4, model=self.model, names=names, handles=handles, create_if_missing=True
        )
        (opened,) = (answer.opened for answer in stream.ask(stream_pb2.StreamStepsRequest(open=opening), 1))
        expect((opened.seq, opened.group, len(opened.uids), len(opened.errors)) == (1, 4, 3, 0), f"opened {opened}")
        expect(list(opened.inputs[0].shape) == [DEPTH] and list(opened.outputs[0].shape) == [UNITS], f"{opened}")

        inputs = [self.cell.draw(DEPTH) for _ in order]
        steps = stream_pb2.Steps(
            seq=2,
            group=4,
            handles=[handles[index] for index in order],
            expected_steps=[order[:position].count(index) for position, index in enumerate(order)],
            run_ids=range(50, 50 + len(order)),
            inputs=[floats(*inputs)],
        )
        outputs: dict[int, Row] = {}
        for answer in stream.ask(stream_pb2.StreamStepsRequest(steps=steps), len(order)):
            part = answer.stepped
            expect((part.seq, part.group, len(part.errors), part.HasField("status")) == (2, 4, 0, False), f"{part}")
            positions = list(part.positions) or list(range(len(order)))
            outputs.update(zip(positions, rows_of(part.outputs[0], UNITS), strict=True))
        state = dict.fromkeys(order, self.zero)
        for position, (index, x) in enumerate(zip(order, inputs, strict=True)):
            state[index] = self.cell.step(x, state[index])
            expect_rows(floats(outputs[position]), [state[index]])

        closing = stream_pb2.StreamStepsRequest(close=stream_pb2.Close(seq=3, group=4, delete_sessions=True))
        (closed,) = (answer.closed for answer in stream.ask(closing, 1))
        expect((closed.seq, closed.HasField("status")) == (3, False), f"closed {closed}")
        stream.end()

    def check_all(self) -> None:
        for check in (self.check_call, self.check_steps, self.check_run, self.check_stream):
            check()


class Stream:
    """One StreamSteps call: sends a message, gives the answers to it."""

    def __init__(self, recurrent: recurrent_service_pb2_grpc.RecurrentServiceStub) -> None:
        self._requests: queue.SimpleQueue[stream_pb2.StreamStepsRequest | None] = queue.SimpleQueue()
        self._answers = recurrent.StreamSteps(iter(self._requests.get, None), timeout=TIMEOUT_S)

    def ask(self, request: stream_pb2.StreamStepsRequest, positions: int) -> Iterator[stream_pb2.StreamStepsResponse]:
        """The answers until all positions are answered. No positions in a Stepped means all; others answer as one."""
        self._requests.put(request)
        while positions > 0:
            answer = next(self._answers)
            positions -= len(answer.stepped.positions) + len(answer.stepped.errors) or positions
            yield answer

    def end(self) -> None:
        """Ends our side; the server ends its own."""
        self._requests.put(None)
        expect(not list(self._answers), "answers nobody asked for")


def main(address: str) -> None:
    """Checks a server; raises at the first difference."""
    with grpc.insecure_channel(address) as channel:
        WireReader(channel).check_all()


if __name__ == "__main__":
    main(sys.argv[1])
