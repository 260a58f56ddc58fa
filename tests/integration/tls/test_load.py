"""Load tests of a server that asks for certificates, by processes that have to be told of all that it takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cellserve_client import connect, rnn
from cellserve_client.cli.load import main as load
from cellserve_client.connection import ConnectionSettings
from cellserve_client.load import LoadPlan, run_load
from tests.certificates import Authority, Pair
from tests.servers import server_process

TOKEN = "a-secret-token"


@pytest.mark.slow
def test_with_certificates_and_a_token(
    authority: Authority, pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = authority.issue("load-tester", "load.example")
    file = tmp_path / "token"
    file.write_text(TOKEN, encoding="ascii")
    tls = authority.trusted(own)
    arguments = ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--tls-client-ca", str(authority.file)]
    with server_process(arguments) as server:
        with connect(server.address, tls=tls) as remote:
            info = remote.cell(rnn.BasicRNNCell(4), seed=1, input_size=3).info
        assert info is not None
        settings = ConnectionSettings(server.address, tls=tls, token=TOKEN)
        document = run_load(LoadPlan(settings, model=info.name, sessions=4, seconds=0.3, warmup_s=0.1, processes=2))
        assert document.failure is None
        assert document.errors == {}
        assert document.settings["tls"] is True
        assert TOKEN not in json.dumps(document.to_json())
        options = [f"--tls-ca={authority.file}", f"--tls-cert={own.cert}", f"--tls-key={own.key}"]
        plain = [server.address, "--model", info.name, "--sessions", "4", "--seconds", "0.3", "--warmup", "0.1"]
        assert load([*plain, *options, f"--token-file={file}", "--transport", "mixed"]) == 0
        assert TOKEN not in "".join(capsys.readouterr())
        assert load([*plain, *options[:1]]) == 1
        assert "certificate" in capsys.readouterr().err
