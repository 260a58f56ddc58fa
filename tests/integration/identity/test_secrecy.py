"""No token, and no JWT, stands in a log, an error, a metric or a span."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
import jwt
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from cellserve.v1 import model_service_pb2, stream_pb2
from cellserve_client import connect, rnn
from cellserve_server.security.tokens import digest_of, line_of
from tests.servers import RPC_TIMEOUT_S, ServerProcess, Stubs, stubs_for

UNITS, DEPTH = 3, 2
# In all that is shown here, so that it is found wherever it comes to stand, whole or in part.
MARK = "Recognisable"
GOOD, WRONG = f"cs_{MARK}-good", f"cs_{MARK}-wrong"


def server_with_identity(folder: Path, key: ec.EllipticCurvePrivateKey) -> ServerProcess:
    """A server that logs and traces all that it can, and knows ``GOOD`` and what the key signs."""
    keys, tokens, models = folder / "keys.json", folder / "tokens", folder / "models"
    models.mkdir()
    keys.write_text(json.dumps({"keys": [ECAlgorithm.to_jwk(key.public_key(), as_dict=True)]}), encoding="utf-8")
    tokens.write_text(line_of(GOOD, "clinic", frozenset()) + "\n", encoding="utf-8")
    known = ["--tokens-file", str(tokens), "--jwks-file", str(keys), "--jwt-issuer", "i", "--jwt-audience", "a"]
    told = ["--log-level", "debug", "--tracing", "console", "--http-port", "0", "--models", str(models)]
    return ServerProcess([*known, *told], {"OTEL_TRACES_SAMPLER": "always_on"})


def refusals(stubs: Stubs, authorizations: list[str]) -> list[str]:
    """What whoever shows these is told, by an RPC and by a stream."""
    asks: list[Callable[[tuple[tuple[str, str], ...]], object]] = [
        lambda shown: stubs.models.ListModels(
            model_service_pb2.ListModelsRequest(), metadata=shown, timeout=RPC_TIMEOUT_S
        ),
        lambda shown: next(
            stubs.recurrent.StreamSteps(iter([stream_pb2.StreamStepsRequest()]), metadata=shown, timeout=RPC_TIMEOUT_S)
        ),
    ]
    told = []
    for value in authorizations:
        for ask in asks:
            with pytest.raises(grpc.RpcError) as caught:
                ask((("authorization", value),))
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            told += [str(caught.value), str(caught.value.trailing_metadata())]
    return told


def work(address: str, token: str) -> list[str]:
    """Does what a client may, and something that it may not."""
    with connect(address, token=token) as remote:
        cell = remote.cell(rnn.BasicLSTMCell(UNITS), seed=1, input_size=DEPTH)
        with remote.session(cell) as session:
            session.step(np.zeros(DEPTH, np.float32))
            told = [repr(remote), repr(session), repr(remote.session_info(session.id))]
    request = model_service_pb2.UnloadModelRequest(name="models/none")
    with stubs_for(address) as stubs, pytest.raises(grpc.RpcError) as caught:
        stubs.models.UnloadModel(request, metadata=(("authorization", f"Bearer {token}"),), timeout=RPC_TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    return [*told, str(caught.value)]


@pytest.mark.slow
def test_nothing_that_is_shown_is_told(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    claims = {"iss": "i", "aud": "a", "exp": time.time() + 600, "tenant": "clinic"}
    signed = jwt.encode(claims, key, "ES256")
    forged = f"{signed.rpartition('.')[0]}.{MARK}"
    with closing(server_with_identity(tmp_path, key)) as server:
        page = re.search(r'http://[^"]+/metrics', server.errors())
        assert page is not None
        shown = [GOOD, f"Digest {GOOD}", f"Basic {GOOD}", *(f"Bearer {token}" for token in (WRONG, forged, f"{GOOD}="))]
        with stubs_for(server.address) as stubs:
            told = refusals(stubs, shown)
        told += [*work(server.address, GOOD), *work(server.address, signed)]
        # Somebody takes the file for the place of the tokens themselves.
        (tmp_path / "tokens").write_text(f"{GOOD}\n", encoding="utf-8")
        metrics = ""
        while 'cellserve_identity_reloads_total{outcome="failed"} 1.0' not in metrics:
            with urllib.request.urlopen(page.group(), timeout=RPC_TIMEOUT_S) as answer:
                metrics = answer.read().decode()
        server.process.terminate()
        assert server.wait() == 0
        assert server.process.stdout is not None
        told += [metrics, server.process.stdout.read(), server.errors()]
    everything = "\n".join(told)
    # It has told what it was to tell ...
    for word in ("authentication_failed", "identity_reload_failed", '"trace_id"', "grpc_server_handled_total"):
        assert word in everything
    # ... and of what was shown neither the whole nor a part, nor its digest.
    _, claims_part, signature = signed.split(".")
    for secret in (MARK, claims_part, signature, digest_of(GOOD).hex(), digest_of(signed).hex()):
        assert secret not in everything
