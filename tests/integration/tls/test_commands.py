"""The commands with TLS and a token: by options, and by the environment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellserve_client import connect
from cellserve_client.cli.models import main as models
from cellserve_client.cli.sessions import main as sessions
from cellserve_client.cli.top import main as top
from tests.certificates import Authority, Pair, with_tls
from tests.integration.client.fleet.fake_replicas import MODEL, WIDTH, fake_fleet
from tests.integration.tls.using import Start
from tests.servers import TEST_CONFIG, LoopThread


def test_options_and_environment_say_the_same(
    start_server: Start,
    authority: Authority,
    pair: Pair,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = start_server(with_tls(TEST_CONFIG, pair, clients=authority)).address
    own = authority.issue("operator", "operator.example")
    options = [f"--tls-ca={authority.file}", f"--tls-cert={own.cert}", f"--tls-key={own.key}"]
    plain = ["list", "--json", "--address", address]
    assert models([*plain, *options]) == 0
    assert models([*plain, *options, "--no-tls"]) == 1
    assert "it speaks TLS, and was spoken to without" in capsys.readouterr().err
    assert models([*plain, *options, "--tls-server-name", "b.example"]) == 1
    assert "not for 'b.example'" in capsys.readouterr().err
    assert models([*plain, "--tls-cert", str(own.cert)]) == 1
    assert (
        capsys.readouterr().err
        == "cellserve models: tls.key_file: expected a file, since cert_file is given; got none\n"
    )
    assert models([*plain, "--tls"]) == 1
    assert "whom this machine does not trust" in capsys.readouterr().err
    for name, value in (("CA", authority.file), ("CERT", own.cert), ("KEY", own.key)):
        monkeypatch.setenv(f"CELLSERVE_TLS_{name}", str(value))
    assert models(plain) == 0
    # An option goes before its variable; the others stay as the environment has them.
    assert models([*plain, "--tls-server-name", "localhost"]) == 0
    assert top([address, "--once"]) == 0
    assert " serving " in capsys.readouterr().out
    assert top([address, "--once", "--no-tls"]) == 1
    assert "it speaks TLS, and was spoken to without" in capsys.readouterr().err
    with connect(address) as server:
        assert server.models() == []


def test_the_token_of_a_file(
    loop_thread: LoopThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text("secret-one\n", encoding="ascii")
    with fake_fleet(loop_thread, 1) as fleet:
        replica = fleet.replicas[0]
        plain = ["list", "--json", "--address", replica.address]
        assert sessions([*plain, "--token-file", str(file)]) == 0
        assert sessions(plain) == 0
        monkeypatch.setenv("CELLSERVE_TOKEN_FILE", str(file))
        assert sessions(plain) == 0
        assert [shown for _, shown in replica.shown] == ["Bearer secret-one", "", "Bearer secret-one"]
        with connect(replica.address) as server, server.session(MODEL) as session:
            session.step(np.zeros(WIDTH, np.float32))
        assert {shown for _, shown in replica.shown[3:]} == {"Bearer secret-one"}
    capsys.readouterr()
    assert sessions(["list", "--address", "cells.example:50051"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("cellserve sessions: token: expected TLS to cells.example:50051, ")
    assert "secret-one" not in error
