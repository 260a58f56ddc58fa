"""What the client's package offers, and what it needs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import requires

import pytest

import cellserve_client

EXPORTED = {
    "cellserve_client": {
        "ArraySpec",
        "Cell",
        "CellServeError",
        "ConnectionSettings",
        "LSTMStateTuple",
        "Model",
        "ModelInfo",
        "ModelLimits",
        "PartialRunError",
        "RetryPolicy",
        "Server",
        "Session",
        "SessionGroup",
        "SessionInfo",
        "TlsSettings",
        "aio",
        "connect",
        "errors",
        "rnn",
    },
    "cellserve_client.aio": {"Cell", "Model", "Server", "Session", "SessionGroup", "connect"},
    "cellserve_client.client": {"Cell", "Model", "Server", "Session", "SessionGroup", "connect"},
    "cellserve_client.load": {"LoadDocument", "LoadPlan", "Progress", "run_load", "run_load_async"},
    "cellserve_client.rnn": {
        "BasicLSTMCell",
        "BasicRNNCell",
        "CudnnCompatibleGRUCell",
        "DropoutWrapper",
        "EmbeddingWrapper",
        "GRUCell",
        "InputProjectionWrapper",
        "LSTMCell",
        "LSTMStateTuple",
        "LayerNormBasicLSTMCell",
        "MinGRUCell",
        "MinLSTMCell",
        "MultiRNNCell",
        "OutputProjectionWrapper",
        "ResidualWrapper",
        "bidirectional_dynamic_rnn",
        "dynamic_rnn",
        "raw_rnn",
        "static_rnn",
    },
}
# Modules that the interpreter has anyhow, and those of the declared dependencies.
IMPORT_BLOCKER = """
import sys

ALLOWED = {"cellserve", "cellserve_client", "grpc", "google", "numpy", "typing_extensions"}


class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        # numpy and grpc try C extensions and optional helpers of their own under other names.
        if top in ALLOWED or top in sys.stdlib_module_names or top.startswith("_"):
            return None
        raise ModuleNotFoundError(f"blocked: {name}", name=name)


sys.meta_path.insert(0, Blocker())
import cellserve_client
import cellserve_client.aio
import cellserve_client.rnn

print(cellserve_client.rnn.BasicLSTMCell(2).state_size)
for name in ("click", "rich", "hdrh", "plotext", "cellserve_server"):
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        assert "blocked" in str(error), error
    else:
        raise AssertionError(name)
"""


@pytest.mark.parametrize("module", EXPORTED)
def test_exported_names(module: str) -> None:
    loaded = importlib.import_module(module)
    assert set(loaded.__all__) == EXPORTED[module]
    assert all(hasattr(loaded, name) for name in loaded.__all__)


def test_both_clients_have_the_same_calls() -> None:
    for name in ("Server", "Cell", "Model", "Session", "SessionGroup"):
        blocking, coroutines = getattr(cellserve_client, name), getattr(cellserve_client.aio, name)
        calls = {call for call in dir(coroutines) if not call.startswith("_")}
        elsewhere = {"model", "batch_size", "stepper"}
        assert calls <= {call for call in dir(blocking) if not call.startswith("_")} | elsewhere, name


def test_it_imports_with_its_declared_dependencies_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_BLOCKER], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "LSTMStateTuple(c=2, h=2)\n"


def test_it_declares_no_more_than_that() -> None:
    declared = {line.split(";")[0].strip() for line in requires("cellserve-client") or [] if "extra ==" not in line}
    names = {line.partition("=")[0].partition(">")[0].partition("<")[0] for line in declared}
    assert names == {"cellserve-proto", "grpcio", "protobuf", "numpy"}
