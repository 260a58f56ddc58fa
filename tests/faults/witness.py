"""One session that is stepped at replicas of the test's choice, by hand, each answer compared as it comes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import grpc
import grpc.aio
import numpy as np

from cellserve.errors import CellServeError, from_rpc_error
from cellserve.tensors import Array, array_from_tensor, tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import recurrent_service_pb2_grpc, session_pb2
from tests.faults.check import TOLERANCE
from tests.faults.feed import DEPTH, uninterrupted

RPC_TIMEOUT_S = 10.0


class WrongStepError(AssertionError):
    """A replica has answered a step that it must not have answered, or with another output."""


class Witness:
    """A session.

    Args:
        session_id: its id.
        model: the model's name.
        seed: of its inputs.

    Attributes:
        applied: the inputs of the steps that were acknowledged, in order.
    """

    def __init__(self, session_id: str, model: str, seed: int) -> None:
        self.name = f"sessions/{session_id}"
        self.applied: list[Array] = []
        self._id = session_id
        self._model = model
        self._random = np.random.default_rng([seed, len(session_id)])
        self._run_ids = itertools.count(1)
        self._last: tuple[Array, int] = np.zeros(DEPTH, np.float32), 0
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def create(self, address: str) -> None:
        """Makes it at a replica.

        Raises:
            CellServeError: it was not made.
        """
        request = messages.CreateSessionRequest(session_id=self._id, session=session_pb2.Session(model=self._model))
        try:
            await self._stub(address).CreateSession(request, timeout=RPC_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def step(self, address: str, *, expected_step: int | None = None, again: bool = False) -> int:
        """The next step, with an input of its own, at a replica. Returns the step count.

        Args:
            expected_step: None: that of all that was acknowledged.
            again: the last one, whose outcome is not known, is sent again as it was.

        Raises:
            CellServeError: it was refused.
            WrongStepError: it was answered with another output, or count, than that of an uninterrupted run.
        """
        if not again:
            self._last = self._random.standard_normal(DEPTH, np.float32), next(self._run_ids)
        inputs, run_id = self._last
        expected = len(self.applied) if expected_step is None else expected_step
        request = messages.StepRequest(
            name=self.name, inputs=[tensor_from_array(inputs)], expected_step=expected, run_id=run_id
        )
        try:
            answer: messages.StepResponse = await self._stub(address).Step(request, timeout=RPC_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        self.applied.append(inputs)
        output = array_from_tensor(answer.outputs[0], "outputs[0]")
        if answer.step_count != len(self.applied) or not np.allclose(output, self._wanted(), TOLERANCE, TOLERANCE):
            raise WrongStepError(f"{self.name}: step {answer.step_count} of {len(self.applied)} at {address} is wrong")
        return answer.step_count

    async def refusal(self, address: str, *, expected_step: int | None = None) -> CellServeError:
        """Why a step at a replica is refused.

        Raises:
            WrongStepError: it was not.
        """
        try:
            count = await self.step(address, expected_step=expected_step)
        except CellServeError as error:
            return error
        raise WrongStepError(f"{self.name}: step {count} was answered at {address}, which cannot know of it")

    def roll_back(self, count: int) -> None:
        """A replica has said that only so many steps are left."""
        del self.applied[count:]

    async def close(self) -> None:
        """Closes its connections; the session stays."""
        for channel in self._channels.values():
            await channel.close()

    def _wanted(self) -> Array:
        inputs: Iterator[Array] = (one[np.newaxis] for one in self.applied)
        *_, (output, _) = uninterrupted(inputs, 1)
        wanted: Array = output[0]
        return wanted

    def _stub(self, address: str) -> recurrent_service_pb2_grpc.RecurrentServiceStub:
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address)
        return recurrent_service_pb2_grpc.RecurrentServiceStub(self._channels[address])
