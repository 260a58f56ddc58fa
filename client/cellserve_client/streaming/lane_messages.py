"""One ``Steps`` of many lanes: how it is made, and how its answers reach those who wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cellserve.errors import CellServeError, error_of
from cellserve.v1 import stream_pb2
from cellserve_client.ids import new_run_id
from cellserve_client.streaming.columns import draw_run_ids
from cellserve_client.streaming.lanes import (
    UNKNOWN,
    Lane,
    LaneGroup,
    LostRun,
    Outcome,
    StepRefused,
    Verdict,
    verdict_of,
)


class LaneMessage:
    """A ``Steps`` under way. It is the stream's sink for its answers.

    Args:
        on_answer: told after each answer: the message, how many positions it answered, and whether it was the last.
        seq: its number.
        group: that all the lanes are of.
        lanes: one for each position, each with a step to send.
        now: on the connection's clock.

    Attributes:
        unanswered: the positions without an answer.
    """

    def __init__(
        self,
        on_answer: Callable[[LaneMessage, int, bool], None],
        seq: int,
        group: LaneGroup,
        lanes: list[Lane],
        now: float,
    ) -> None:
        self._on_answer = on_answer
        self.seq = seq
        self.unanswered = len(lanes)
        self._group = group
        self._lanes: list[Lane | LostRun | None] = list(lanes)
        self._sent = lanes
        self._run_ids: list[int] = [new_run_id()] if len(lanes) == 1 else draw_run_ids(len(lanes)).tolist()
        for position, lane in enumerate(lanes):
            if lane.run_id:
                self._run_ids[position] = lane.run_id
        self._positions: dict[Lane, int] | None = None
        self._now = now

    def request(self) -> stream_pb2.StreamStepsRequest:
        """The message."""
        lanes, now = self._sent, self._now
        request = stream_pb2.StreamStepsRequest()
        steps = request.steps
        steps.seq = self.seq
        steps.group = self._group.number
        steps.handles.extend([lane.handle for lane in lanes])
        steps.expected_steps.extend([lane.step_count for lane in lanes])
        steps.run_ids.extend(self._run_ids)
        # At least 1: 0 would mean for ever.
        lefts_s = [lane.deadline_at - now for lane in lanes]
        steps.timeouts_ms.extend([int(left_s * 1000) + 1 if left_s > 0 else 1 for left_s in lefts_s])
        steps.inputs.extend(self._group.columns.join([lane.data for lane in lanes]))
        return request

    def stepped(self, message: stream_pb2.Stepped) -> bool:
        """As ``Sink.stepped``."""
        before = self.unanswered
        if message.positions or message.errors:
            self._take_part(message)
        elif message.HasField("status"):
            for position in range(len(self._lanes)):
                self._fail(position, error_of(message.status))
            self.unanswered = 0
        else:
            _tell(self._lanes, message.step_counts, self._rows(message, len(self._lanes)))
            self.unanswered = 0
        is_last = self.unanswered == 0
        self._on_answer(self, before - self.unanswered, is_last)
        return is_last

    def broken(self, error: CellServeError) -> None:
        """As ``Sink.broken``: the mux was told before, and has the lanes in line again."""

    def _rows(self, message: stream_pb2.Stepped, count: int) -> list[object]:
        return self._group.columns.rows(message.outputs, count)

    def _take_part(self, message: stream_pb2.Stepped) -> None:
        positions = list(message.positions)
        if positions:
            answered = [self._lanes[position] for position in positions]
            _tell(answered, message.step_counts, self._rows(message, len(positions)))
            for position in positions:
                self._lanes[position] = None
        for failed in message.errors:
            self._fail(failed.position, error_of(failed.status))
        self.unanswered -= len(positions) + len(message.errors)

    def _fail(self, position: int, error: CellServeError) -> None:
        lane, self._lanes[position] = self._lanes[position], None
        assert lane is not None, "a position is answered once"
        waiter = lane.waiter
        assert waiter is not None, "a lane under way has somebody who waits"
        if isinstance(lane, LostRun) or isinstance(waiter, LostRun) or waiter.done():
            lane.hear(verdict_of(error))
            return
        lane.run_id = self._run_ids[position]
        waiter.set_exception(StepRefused(error))

    def lose(self, lane: Lane) -> tuple[int, LostRun] | None:
        """Its caller gives a step up.

        Returns:
            Its position, and what will tell what became of it; None: it is not here, or was answered.
        """
        if self._positions is None:
            self._positions = {sent: position for position, sent in enumerate(self._sent)}
        position = self._positions.get(lane)
        if position is None or self._lanes[position] is not lane:
            return None
        lost = LostRun(self._run_ids[position])
        self._lanes[position] = lost
        return position, lost

    def waiting(self) -> Iterator[Lane]:
        """The lanes without an answer whose callers wait."""
        for lane in self._lanes if self.unanswered else ():
            if isinstance(lane, Lane) and lane.is_waited_for:
                yield lane

    def broken_lanes(self) -> list[Lane]:
        """The stream has ended: the lanes whose steps are to be sent again; those that nobody waits for are told."""
        again: list[Lane] = []
        for position, lane in enumerate(self._lanes):
            if lane is None:
                continue
            if isinstance(lane, LostRun) or not lane.is_waited_for:
                lane.hear(UNKNOWN)
            else:
                lane.run_id = self._run_ids[position]
                lane.may_be_applied = True
                again.append(lane)
        self._lanes = []
        self.unanswered = 0
        return again


def _tell(lanes: Sequence[Lane | LostRun | None], step_counts: Sequence[int], rows: Sequence[object]) -> None:
    for lane, step_count, row in zip(lanes, step_counts, rows, strict=True):
        assert lane is not None, "a position is answered once"
        waiter = lane.waiter
        if waiter.done():  # type: ignore[union-attr]  # a lane under way has somebody who waits
            lane.hear(Verdict(Outcome.APPLIED, step_count))
        else:
            lane.step_count = step_count  # type: ignore[union-attr]  # nobody waits for a lost run
            waiter.set_result(row)  # type: ignore[union-attr]
