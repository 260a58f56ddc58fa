"""Imports every golden file, serves it, steps a session of it, and writes what came out into ``docs/importing.md``.

Run from the repository's root: ``.venv/bin/python -m docs.import_table``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cellserve.states import unflatten
from cellserve.tensors import Array
from cellserve_client import Server, connect, rnn
from cellserve_server.importers import ImportResult, import_model
from cellserve_server.models.weights import parameter_count
from tests.golden_cases import GOLDEN_FOLDER, FrameworkCase, framework_cases, golden_cases
from tests.servers import server_process

PAGE = Path(__file__).parent / "importing.md"
BEGIN, END = "<!-- import_table.py -->", "<!-- the end of the table -->"
CHECKPOINT = "tf1_checkpoint_2_basic_lstm"


class Source:
    """A golden file, and what its framework made of the golden inputs.

    Attributes:
        path: the file.
        inputs: ``[batch, time, depth]``.
        outputs: ``[batch, time, size]``.
        lengths: of the rows.
        leaves: the state before, as the served model's leaves.
    """

    def __init__(self, path: Path, inputs: Array, outputs: Array, lengths: Array, leaves: list[Array]) -> None:
        self.path = path
        self.inputs = inputs
        self.outputs = outputs
        self.lengths = lengths
        self.leaves = leaves


def sources() -> Iterator[Source]:
    """Every golden file that can be imported."""
    for case in framework_cases():
        lengths = case.entry["sequence_length"] or [case.arrays["inputs"].shape[1]] * len(case.arrays["inputs"])
        for path in case.files:
            inputs, outputs = case.arrays["inputs"], case.arrays["outputs"]
            yield Source(path, inputs, outputs, np.array(lengths), state_leaves(case))
    checkpoint = next(case for case in golden_cases() if case.id == CHECKPOINT)
    path = GOLDEN_FOLDER / CHECKPOINT
    yield Source(path, checkpoint.inputs, checkpoint.outputs, checkpoint.lengths, checkpoint.initial_leaves)


def state_leaves(case: FrameworkCase) -> list[Array]:
    """The initial state as leaves: of each layer and direction c, if there is one, and h."""
    prefix = "initial_state/"
    names = [name.removeprefix(prefix) for name in case.arrays if name.startswith(prefix)]
    if case.framework == "keras":
        layers = sorted({name.rpartition("/")[0] for name in names})
        ordered = [f"{layer}/{part}".removeprefix("/") for layer in layers for part in ("c", "h")]
        return [case.arrays[prefix + name] for name in ordered if name in names]
    parts = [case.arrays[prefix + part] for part in ("c", "h") if part in names]
    return [part[index] for index in range(len(parts[0])) for part in parts]


def stepped(server: Server, result: ImportResult, source: Source) -> tuple[str, Array]:
    """How the model was run, and its outputs."""
    description = result.imported.description
    state = unflatten(description.state_size, source.leaves)
    if not description.steppable:
        model = server.model(result.name)
        outputs, _ = rnn.dynamic_rnn(model, source.inputs, source.lengths, initial_state=state)
        return "`dynamic_rnn`: it needs whole sequences", np.asarray(outputs)
    rows, time = source.inputs.shape[:2]
    with server.session(result.name, batch_size=rows, initial_state=state) as session:
        outputs = [session.step(source.inputs[:, step]) for step in range(time)]
    return f"{time} steps of a session of {rows} rows", np.stack(outputs, axis=1)


def row(server: Server, result: ImportResult, source: Source) -> str:
    """A line of the table."""
    how, outputs = stepped(server, result, source)
    within = np.arange(outputs.shape[1]) < source.lengths[:, np.newaxis]
    difference = float(np.abs(outputs - source.outputs)[within].max())
    layers = ", ".join(type(layer).__name__ for layer in result.imported.description.layers)
    assumed = ", ".join(f"`{note.option}={note.value}`" for note in result.imported.assumptions) or "nothing"
    cells = (
        f"`{source.path.name}`",
        result.imported.framework,
        layers,
        f"{parameter_count(result.imported.description):,}",
        assumed,
        how,
        f"{difference:.1e}",
    )
    return "| " + " | ".join(cells) + " |"


def table() -> str:
    """The table of all golden files."""
    found = list(sources())
    with tempfile.TemporaryDirectory() as folder:
        results = [import_model(source.path, f"golden-{index}", models=folder) for index, source in enumerate(found)]
        with server_process(("--models", folder)) as process, connect(process.address) as server:
            rows = [row(server, result, source) for result, source in zip(results, found, strict=True)]
    heads = ("file", "framework", "layers", "parameters", "assumed", "session", "largest difference from the framework")
    return "\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *rows])


def main() -> None:
    """Puts the table into the page, between its two marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
