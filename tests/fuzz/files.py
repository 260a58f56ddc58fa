"""Files and records that something has happened to: ``python -m tests.fuzz.files --seconds 60``.

Model files, the sources of every importer, sessions and models as stores keep them, exported sessions, certificates:
each is refused with an error of ours that says so, or it is what was written. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from cellserve.errors import ModelBrokenError, RecordCorruptError
from cellserve.v1 import record_pb2
from cellserve_server.binding import StartError
from cellserve_server.cells import draw_weights
from cellserve_server.importers import ImportRefusedError, import_model
from cellserve_server.keeping.model_records import decode_model, encode_model
from cellserve_server.keeping.session_files import SessionFileError, write_entry, write_header
from cellserve_server.keeping.session_moves import import_sessions
from cellserve_server.models.defined_models import defined_name
from cellserve_server.models.model_files import CELL_FILE, WEIGHTS_FILE, read_model
from cellserve_server.security.certificates import read_certificates
from cellserve_server.sessions.records import decode_meta, decode_state, encode_meta, encode_states
from cellserve_server.sessions.seats import COLUMNS, EXPIRE
from cellserve_server.stores.memory import MemoryStore
from tests.certificates import Authority
from tests.clocks import START_S
from tests.fuzz.damage import damaged, damaged_json
from tests.fuzz.readings import reading_of
from tests.fuzz.reports import GROWTH_MIB, MIB, Report
from tests.golden_cases import GOLDEN_FOLDER
from tests.servers import TEST_CONFIG
from tests.unit.model_samples import DEPTH, FLOAT32, RNN, classifier, put

SLOW_S = 5.0
ROWS, SIZES = 2, (3, 5)
SOURCES = (
    "keras_stacked_lstm_saved.keras",
    "keras_stacked_lstm_saved.weights.h5",
    "onnx_lstm.onnx",
    "onnx_gru_linear_before_reset_1.onnx",
    "onnx_lstm_bidirectional.onnx",
    "torch_gru.safetensors",
    "torch_lstm_3_layers.pt",
)
TENANT = "default"
CHECKPOINT = "tf1_checkpoint_2_basic_lstm"

Target: TypeAlias = Callable[[random.Random, Path], None]
"""Tries one damaged thing in an empty folder; raises what none may raise."""


def model_files(choices: random.Random, folder: Path) -> None:
    """A version's folder, one of its files damaged."""
    path = put(folder, "m", 1, classifier()) / choices.choice([CELL_FILE, WEIGHTS_FILE])
    if path.name == CELL_FILE and choices.randrange(2):
        path.write_text(json.dumps(damaged_json(json.loads(path.read_text()), choices)))
    else:
        path.write_bytes(damaged(path.read_bytes(), choices))
    try:
        read_model(folder, "m", 1)
    except ModelBrokenError as error:
        if str(folder) in str(error):
            raise AssertionError("a path of the server's is told") from error


def sources(choices: random.Random, folder: Path) -> None:
    """A file of a framework's, damaged."""
    name = choices.choice([*SOURCES, CHECKPOINT])
    source = folder / name
    if name == CHECKPOINT:
        shutil.copytree(GOLDEN_FOLDER / name, source)
        path = choices.choice(sorted(source.iterdir()))
    else:
        path = Path(shutil.copy(GOLDEN_FOLDER / name, source))
    path.write_bytes(damaged(path.read_bytes(), choices))
    models = folder / "models"
    try:
        import_model(source, "m", models=models)
    except ImportRefusedError:
        assert not models.exists(), "something was written"


def session_records(choices: random.Random, _: Path) -> None:
    """A session and its states as stores keep them: what is not refused is what was written."""
    meta, written = _session(choices.randrange(100))
    data = damaged(written, choices)
    with contextlib.suppress(RecordCorruptError):
        decode_state(data, SIZES, FLOAT32, ROWS)
        assert data == written, "another state was taken for what was written"
    data = damaged(meta, choices)
    with contextlib.suppress(RecordCorruptError):
        decode_meta(data)
        assert data == meta, "another session was taken for what was written"


def model_records(choices: random.Random, _: Path) -> None:
    """A defined model as stores keep it: what is not refused is what was written, or has another name."""
    weights = draw_weights(RNN, 1) if choices.randrange(2) else None
    written = encode_model(RNN, weights, None if weights is not None else choices.randrange(1 << 64))
    data = damaged(written, choices)
    try:
        draft = decode_model(data)
    except RecordCorruptError:
        return
    if defined_name(draft) == defined_name(decode_model(written)):
        network, other = draft.network, decode_model(written).network
        inputs, leaves = [np.ones((1, DEPTH), FLOAT32)], [np.ones((1, size), FLOAT32) for size in network.leaf_sizes]
        for got, want in zip(network.step(inputs, leaves)[1], other.step(inputs, leaves)[1], strict=True):
            assert got.tobytes() == want.tobytes(), "another model was taken for what was written"


def exported_sessions(choices: random.Random, _: Path) -> None:
    """A file of exported sessions: what of it comes into a store is what was written."""
    written: dict[str, tuple[bytes, bytes, bytes]] = {}
    file = io.BytesIO()
    write_header(file)
    for number in range(3):
        record, state = _session(number)
        written[f"s{number}"] = (record, state, b"")
        session = record_pb2.ExportedSession(tenant=TENANT, id=f"s{number}", record=record, states=[state, b""])
        write_entry(file, record_pb2.ExportEntry(session=session))
    write_entry(file, record_pb2.ExportEntry(end=record_pb2.ExportEnd(session_count=3)))
    asyncio.run(_import(damaged(file.getvalue(), choices), written))


async def _import(data: bytes, written: Mapping[str, tuple[bytes, bytes, bytes]]) -> None:
    store = MemoryStore(lambda: START_S)
    await store.open()
    with contextlib.suppress(SessionFileError):
        await import_sessions(store, io.BytesIO(data), START_S, model_ttl_s=60.0)
    for stored in await store.list_after(TENANT, "", 10):
        assert (stored.meta, *stored.states) == written[stored.key.id], "another session was taken for what was written"
    await store.close()


def _session(seed: int) -> tuple[bytes, bytes]:
    """A session and its state, as bytes."""
    noise = np.random.default_rng(seed)
    record = noise.integers(0, 100, (1, COLUMNS))
    record.view(np.float64)[:, EXPIRE] = START_S + 60.0
    leaves = [noise.normal(size=(ROWS, size)).astype(FLOAT32) for size in SIZES]
    meta = record_pb2.SessionRecord(uid=f"u{seed}", model="models/m/versions/1", batch_size=ROWS)
    return encode_meta(meta), encode_states(record, leaves, ROWS)[0]


def certificates(choices: random.Random, folder: Path) -> None:
    """A certificate, its key, or who issues clients' certificates."""
    authority = Authority(folder)
    pair = authority.issue("server")
    path = choices.choice([pair.cert, pair.key, authority.file])
    path.write_bytes(damaged(path.read_bytes(), choices))
    config = replace(TEST_CONFIG, tls_cert=str(pair.cert), tls_key=str(pair.key), tls_client_ca=str(authority.file))
    with contextlib.suppress(StartError):
        read_certificates(config)


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "model files": model_files,
        "sources of importers": sources,
        "session records": session_records,
        "model records": model_records,
        "exported sessions": exported_sessions,
        "certificates": certificates,
    }
)


def attempt(name: str, seed: int) -> tuple[str, float]:
    """Tries one damaged thing.

    Returns:
        What was wrong, or nothing; and how long it took, in seconds.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            TARGETS[name](random.Random(seed), Path(folder))
        except Exception as error:  # Whatever it is: it is no error of ours.
            return f"{name}, seed {seed}: {type(error).__name__}: {str(error)[:300]}", time.monotonic() - began
    took_s = time.monotonic() - began
    return (f"{name}, seed {seed}: it took {took_s:.1f} s" if took_s > SLOW_S else ""), took_s


def run(seconds: float, seed: int) -> Report:
    """Tries damaged things of all kinds in turn for so long."""
    report = Report("files and records")
    began, early = time.monotonic(), None
    while time.monotonic() - began < seconds and len(report.findings) < 10:
        for name in TARGETS:
            wrong, took_s = attempt(name, seed)
            report.inputs[name] = report.inputs.get(name, 0) + 1
            report.slowest_s = max(report.slowest_s, round(took_s, 3))
            if wrong:
                report.findings.append(wrong)
        seed += 1
        if early is None and time.monotonic() - began > seconds / 10:
            early = reading_of("self")
    if early is not None:
        late = reading_of("self")
        report.rss_growth_mib = round((late.rss_bytes - early.rss_bytes) / MIB, 1)
        report.files_left = late.files - early.files
        if report.rss_growth_mib > GROWTH_MIB or report.files_left > 0:
            report.findings.append(f"it grew: {early}, then {late}")
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
