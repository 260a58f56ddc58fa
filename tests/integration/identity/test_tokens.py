"""Tokens that come, go and expire while a server runs, and the streams that were begun with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from cellserve.errors import PermissionDeniedError, UnauthenticatedError
from cellserve.v1 import model_service_pb2, stream_pb2
from cellserve_client import connect, rnn
from tests.clocks import ManualClock
from tests.identities import TokenBook, metadata_of
from tests.integration.tls.using import Start
from tests.servers import RPC_TIMEOUT_S, RunningApp, error_of_call

UNITS, DEPTH = 3, 2
FRAME = np.zeros(DEPTH, np.float32)


def is_let_in(server: RunningApp, token: str) -> bool:
    """Whether an RPC is answered."""
    try:
        server.stubs.models.ListModels(
            model_service_pb2.ListModelsRequest(), metadata=metadata_of(token), timeout=RPC_TIMEOUT_S
        )
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
            raise
        return False
    return True


def look(server: RunningApp) -> None:
    """What the server does once a second."""
    server.loop.run(server.app.look_at_identities())


def failures(server: RunningApp) -> dict[str, float]:
    """How many were not let in, by reason."""
    return counted(server.app.metrics.registry, "cellserve_authentication_failures", "reason")


def counted(registry: CollectorRegistry, name: str, label: str) -> dict[str, float]:
    """What a counter has counted, by a label, without zeros."""
    samples = [sample for family in registry.collect() if family.name == name for sample in family.samples]
    return {sample.labels[label]: sample.value for sample in samples if sample.name.endswith("_total") and sample.value}


def test_the_file_is_read_again_when_it_changes(start_server: Start, book: TokenBook) -> None:
    first = book.issue("clinic")
    server = start_server(book.config())
    second = book.issue("shop")
    assert (is_let_in(server, first), is_let_in(server, second)) == (True, False)
    look(server)
    assert (is_let_in(server, first), is_let_in(server, second)) == (True, True)
    book.take_back(0)
    look(server)
    assert (is_let_in(server, first), is_let_in(server, second)) == (False, True)
    assert failures(server) == {"unknown": 2}


@pytest.mark.parametrize("content", ["{", '{"tenant": "clinic"}', "cs_a-token-by-mistake", None])
def test_a_file_that_cannot_be_used_leaves_what_was_before(
    start_server: Start, book: TokenBook, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    token = book.issue("clinic")
    server = start_server(book.config())
    if content is None:
        book.path.unlink()
    else:
        book.path.write_text(content, encoding="utf-8")
    look(server)
    assert is_let_in(server, token)
    reloads = counted(server.app.metrics.registry, "cellserve_identity_reloads", "outcome")
    assert reloads == {"failed": 1}
    assert "identity_reload_failed" in (log := capsys.readouterr().out)
    assert "by-mistake" not in log
    book.take_back(0)
    look(server)
    assert not is_let_in(server, token)


def test_a_token_is_good_until_its_time(start_server: Start, book: TokenBook, clock: ManualClock) -> None:
    token = book.issue("clinic", expire_time=clock() + 100)
    server = start_server(book.config())
    clock.advance(99)
    assert is_let_in(server, token)
    clock.advance(1)
    assert not is_let_in(server, token)
    assert failures(server) == {"expired": 1}


@pytest.mark.parametrize(
    "end", ["taken back", *(pytest.param(end, marks=pytest.mark.slow) for end in ("expired", "fewer rights"))]
)
def test_a_stream_ends_with_its_token(start_server: Start, book: TokenBook, clock: ManualClock, end: str) -> None:
    doomed = book.issue("clinic", "metrics", expire_time=clock() + 100)
    other = book.issue("clinic")
    server = start_server(book.config())
    over = threading.Event()
    begin = server.stubs.recurrent.StreamSteps
    streams = [begin(silence(over), metadata=metadata_of(token)) for token in (doomed, other)]
    lasting = server.app.interceptor.lasting
    server.wait_until(lambda: len(lasting) == 2)
    look(server)
    assert len(lasting) == 2
    if end == "expired":
        clock.advance(100)
    else:
        line = book.lines[0].replace('"rights": ["metrics"], ', "")
        book.take_back(0)
        if end == "fewer rights":
            book.lines.append(line)
            book.issue("somebody")
    # Nobody has it look: it does so by itself.
    error = error_of_call(lambda: next(streams[0]))
    assert type(error) is UnauthenticatedError
    words = "have expired" if end == "expired" else "are no longer good"
    assert error.message == f"authorization: the credentials {words}"
    assert server.loop.call(lambda: len(lasting)) == 1
    assert streams[1].is_active()
    over.set()
    server.wait_until(lambda: len(lasting) == 0)
    assert failures(server) == {"expired" if end == "expired" else "revoked": 1}


def silence(over: threading.Event) -> Iterator[stream_pb2.StreamStepsRequest]:
    """The requests of a client that says nothing until it is over."""
    over.wait(RPC_TIMEOUT_S)
    yield from ()


@pytest.mark.slow
def test_a_client_whose_token_is_replaced_goes_on(start_server: Start, book: TokenBook, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(book.issue("clinic"), encoding="ascii")
    server = start_server(book.config())
    with connect(server.address, token=file) as remote:
        cell = remote.cell(rnn.BasicLSTMCell(UNITS), seed=1, input_size=DEPTH)
        session = remote.session(cell)
        session.step(FRAME)
        file.write_text(book.issue("clinic"), encoding="ascii")
        book.take_back(0)
        look(server)
        session.step(FRAME)
        assert session.step_count == 2
        book.take_back(0)
        look(server)
        with pytest.raises(UnauthenticatedError):
            session.step(FRAME)


def test_what_a_right_allows(start_server: Start, book: TokenBook) -> None:
    tokens = [book.issue("clinic"), book.issue("clinic", "metrics"), book.issue("clinic", "admin")]
    server = start_server(book.config())
    request = model_service_pb2.UnloadModelRequest(name="models/none")
    unload = server.stubs.models.UnloadModel
    errors = [
        type(error_of_call(partial(unload, request, metadata=metadata_of(token), timeout=RPC_TIMEOUT_S)))
        for token in tokens
    ]
    assert errors[:2] == [PermissionDeniedError] * 2
    assert errors[2] is not PermissionDeniedError
