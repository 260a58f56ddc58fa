"""Requests that are nearly right, over the wire to a server process: ``python -m tests.fuzz.wire --seconds 60``.

Calls of every method, of seeded choices; every so often the server's canary has to be right, and its sessions are
made anew. At the end the server has to hold what it held before. The last line is JSON.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2

from cellserve.errors import STATUS_DETAILS_KEY
from cellserve_server.app import App
from cellserve_server.config import ServerConfig
from tests.fuzz.messages import Call, Maker
from tests.fuzz.methods import Method, answer_class_of, handlers_of, method_of
from tests.fuzz.oracle import call_complaints
from tests.fuzz.reports import Report
from tests.fuzz.victim import Victim, victim

ANSWERED_WITHIN_S = 10.0
LOOKED_AFTER_CALLS = 200
# Small, so that limits are met.
SETTINGS = (
    *("--max-message-bytes", "1048576", "--max-sessions", "8", "--max-state-bytes", "16777216"),
    *("--max-rows", "64", "--max-sequence-steps", "200", "--max-tombstones", "100"),
    *("--max-remembered-requests", "100", "--max-stream-groups", "8", "--max-stream-handles", "128"),
    *("--max-defined-models", "8", "--max-defined-model-bytes", "1048576", "--define-idle-timeout-s", "5"),
)
# Answers without end: one is enough.
ENDLESS = "/grpc.health.v1.Health/Watch"


def served_methods() -> dict[str, Method]:
    """All methods of a server, by path."""
    handlers = handlers_of(App(ServerConfig(port=0, http_port=-1)))
    return {path: method_of(path, handlers[path]) for path in sorted(handlers)}


class Wire:
    """Makes calls of a server, and judges how they end.

    Args:
        channel: to it.
        methods: all of it.

    Attributes:
        methods: as given.
        endings: by the name of the code, how many calls ended so.
        slowest_s: the longest call.
    """

    def __init__(self, channel: grpc.Channel, methods: dict[str, Method]) -> None:
        self._channel = channel
        self.methods = methods
        self.endings: Counter[str] = Counter()
        self.slowest_s = 0.0

    def call(self, call: Call) -> list[str]:
        """Makes a call; what is wrong with how it ended."""
        method = self.methods[call.path]
        answers: list[Message] = []
        began = time.monotonic()
        try:
            for answer in self._answers(method, call.requests):
                answers.append(answer)
                if call.path == ENDLESS:
                    break
            code, status = grpc.StatusCode.OK, None
        except grpc.RpcError as error:
            code, status = error.code(), _status_of(error)
        took_s = time.monotonic() - began
        self.slowest_s = max(self.slowest_s, took_s)
        self.endings[code.name] += 1
        if took_s > ANSWERED_WITHIN_S:
            return [f"no answer within {ANSWERED_WITHIN_S:g} s"]
        return call_complaints(method.is_ours, code, status, answers)

    def _answers(self, method: Method, requests: Sequence[bytes]) -> Iterable[Message]:
        kind = f"{_word(method.streams_requests)}_{_word(method.streams_answers)}"
        rpc = getattr(self._channel, kind)(
            method.path, request_serializer=None, response_deserializer=answer_class_of(method.path).FromString
        )
        answer: Any = rpc(iter(requests) if method.streams_requests else requests[0], timeout=2 * ANSWERED_WITHIN_S)
        if not method.streams_answers:
            return [answer]
        return _cancelled_at_the_end(answer)


def _cancelled_at_the_end(answers: Any) -> Iterable[Message]:
    try:
        yield from answers
    finally:
        answers.cancel()


def _word(is_stream: bool) -> str:
    return "stream" if is_stream else "unary"


def _status_of(error: grpc.RpcError) -> status_pb2.Status | None:
    trailers: Any = error.trailing_metadata() or ()
    for key, value in trailers:
        if key == STATUS_DETAILS_KEY:
            return status_pb2.Status.FromString(value)
    return None


def send(target: Victim, wire: Wire, calls: Iterable[Call], seconds: float, report: Report) -> None:
    """Makes calls until the time is over or something is found."""
    give_up = time.monotonic() + seconds
    for number, call in enumerate(calls, 1):
        report.inputs[call.path] = report.inputs.get(call.path, 0) + 1
        if wrong := wire.call(call):
            requests = [request.hex() for request in call.requests]
            report.findings.append(f"{call.path}: {'; '.join(wrong)}; {requests}")
        if number % LOOKED_AFTER_CALLS == 0 and (harm := target.is_unharmed()):
            report.findings.append(harm)
        if report.findings or time.monotonic() > give_up:
            break
        if number % LOOKED_AFTER_CALLS == 0:
            target.set_stage()
    report.endings = dict(wire.endings.most_common())
    report.slowest_s = round(wire.slowest_s, 3)


def run(seconds: float, seed: int) -> Report:
    """Makes calls of seeded choices of a server of their own, for so long."""
    report = Report("requests over the wire")
    methods = served_methods()
    maker = Maker(random.Random(seed))
    with victim(*SETTINGS) as target, grpc.insecure_channel(target.address) as channel:
        wire = Wire(channel, methods)
        for part in (0.1, 0.9):  # What the first tenth makes the server grow by is its warmth.
            calls = iter(lambda: maker.call(list(methods.values())), None)
            send(target, wire, calls, part * seconds, report)
            if report.findings:
                return report
            target.set_stage()
            if part < 0.5:
                target.take_as_before()
        target.complete(report)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = run(options.seconds, options.seed)
    print(report.line())
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
