"""A server process that garbage is sent to, and what it has to be like afterwards: alive, right, and no larger."""

from __future__ import annotations

import re
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from tests.fuzz.methods import answer_class_of
from tests.fuzz.readings import Reading, reading_of
from tests.fuzz.reports import GROWTH_MIB, MIB, Report
from tests.fuzz.sockets import Port
from tests.fuzz.stage import Canary, set_stage, write_models
from tests.servers import ServerProcess, server_process

ALIVE_WITHIN_S = 5.0
BACK_WITHIN_S = 20.0
# Connections of the channels here, and of the pages just read, that come and go.
SPARE_FILES = 3
SPARE_THREADS = 3
_PAGE = re.compile(r"http://[\w.\-]+:\d+/metrics")


class Victim:
    """The server, and a channel over which its canary is asked.

    Args:
        process: the server.
        channel: to it.
    """

    def __init__(self, process: ServerProcess, channel: grpc.Channel) -> None:
        self.address = process.address
        self._process = process
        self._channel = channel
        page = _PAGE.search(process.errors())
        assert page is not None, process.errors()
        self._page = page[0]
        self._canary = Canary(self.call)
        set_stage(self.call)
        self._read_page()
        self._before = self.reading()

    @property
    def port(self) -> Port:
        """Of the RPCs."""
        return Port.of(self.address)

    @property
    def page_port(self) -> Port:
        """Of the metrics page."""
        return Port.of(self._page.split("/")[2])

    def reading(self) -> Reading:
        """What the server holds now."""
        return reading_of(self._process.process.pid)

    def take_as_before(self) -> None:
        """Takes what the server holds now, warm, for what it may hold at the end."""
        self._before = self.reading()

    def call(self, path: str, request: Message) -> Message | None:
        """A call that has to end well, in time; None: NOT_FOUND."""
        rpc: Any = self._channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer_class_of(path).FromString,
        )
        try:
            answer: Message = rpc(request, timeout=ALIVE_WITHIN_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise AssertionError(f"{path}: {error.code().name}: {error.details()}") from error
        return answer

    def is_unharmed(self) -> str:
        """Looks whether the server lives, and its canary is right, also for a new caller; what is wrong, or nothing."""
        if self._process.process.poll() is not None:
            return f"the server has ended with {self._process.process.returncode}"
        try:
            self._canary.step()
            with grpc.insecure_channel(self.address) as channel:
                grpc.channel_ready_future(channel).result(ALIVE_WITHIN_S)
            self._read_page()
        except (AssertionError, OSError, grpc.FutureTimeoutError) as error:
            return f"the server is harmed: {type(error).__name__}: {error}"
        return ""

    def set_stage(self) -> None:
        """Has the server have its models and sessions again, and no others."""
        set_stage(self.call)

    def complete(self, report: Report) -> None:
        """Waits until the server has let go of what it held for others, and notes what it has not."""
        give_up = time.monotonic() + BACK_WITHIN_S
        while True:
            now = self.reading()
            report.files_left = now.files - self._before.files
            report.threads_left = now.threads - self._before.threads
            if report.files_left <= SPARE_FILES and report.threads_left <= SPARE_THREADS:
                break
            if time.monotonic() > give_up:
                report.findings.append(
                    f"left behind: {report.files_left} open files, {report.threads_left} threads ({now})"
                )
                break
            time.sleep(0.05)  # Another process's state: there is nothing to wait on.
        report.rss_growth_mib = round((now.rss_bytes - self._before.rss_bytes) / MIB, 1)
        if report.rss_growth_mib > GROWTH_MIB:
            report.findings.append(f"the server has grown by {report.rss_growth_mib} MiB")
        if (incidents := self._process.errors().count("incident")) > 0:
            report.findings.append(f"{incidents} bugs in the server's log: {self._process.errors()[-3000:]}")

    def _read_page(self) -> None:
        """Reads the metrics; a page whose connections are all taken is asked again, as a scraper does."""
        give_up = time.monotonic() + BACK_WITHIN_S
        while True:
            try:
                with urllib.request.urlopen(self._page, timeout=BACK_WITHIN_S) as answer:
                    assert b"cellserve_" in answer.read()
                return
            except OSError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)  # As above.


@contextmanager
def victim(*arguments: str) -> Iterator[Victim]:
    """Runs a server with the models of ``stage``, and settings besides."""
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        with (
            server_process(["--models", folder, "--http-port", "0", "--models-poll-s", "0", *arguments]) as process,
            grpc.insecure_channel(process.address) as channel,
        ):
            yield Victim(process, channel)
