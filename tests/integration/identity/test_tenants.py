"""What belongs to a tenant is there for nobody else, and what needs a right is done for nobody without it."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from cellserve.errors import UnauthenticatedError
from cellserve.v1 import model_service_pb2
from tests.identities import TokenBook, metadata_of
from tests.integration.tls.using import Start
from tests.servers import RPC_TIMEOUT_S, error_of_call


@pytest.fixture
def book(tmp_path: Path) -> TokenBook:
    return TokenBook.at(tmp_path / "tokens")


def test_a_token_lets_in_and_its_absence_does_not(start_server: Start, book: TokenBook) -> None:
    token = book.issue("clinic")
    server = start_server(book.config())
    list_models = server.stubs.models.ListModels
    request = model_service_pb2.ListModelsRequest()
    assert list_models(request, metadata=metadata_of(token), timeout=RPC_TIMEOUT_S).models == []
    for metadata in ((), metadata_of("wrong"), (("authorization", token),), metadata_of(token) * 2):
        error = error_of_call(lambda shown=metadata: list_models(request, metadata=shown, timeout=RPC_TIMEOUT_S))
        assert isinstance(error, UnauthenticatedError)
        assert token not in error.message
    assert error.code is grpc.StatusCode.UNAUTHENTICATED
