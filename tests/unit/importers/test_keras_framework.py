"""Keras itself writes the files and computes what they should give: options, sizes and layers at random."""

from __future__ import annotations

import importlib
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellserve.tensors import Array
from cellserve_server.importers import keras as importer
from cellserve_server.importers.base import ImportedModel
from tests.unit.importers.comparing import noise, options_taken, run, settings

# The warning is about Keras's own use of numpy.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]

SEEDS = range(40)
ACTIVATIONS = (
    "tanh",
    "relu",
    "sigmoid",
    "linear",
    "hard_sigmoid",
    "elu",
    "selu",
    "softplus",
    "softsign",
    "silu",
    "mish",
)
VOCABULARY = 11


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return importlib.import_module("keras")


class Drawn:
    """A model with drawn layers, built with weights around 0, and inputs for it."""

    def __init__(self, keras: Any, seed: int) -> None:
        self.keras = keras
        self.draw = random.Random(seed)
        self.ids = self.draw.random() < 0.3
        keras.utils.set_random_seed(seed)
        self.layers: list[Any] = []
        depth = self.draw.randint(1, 7)
        first = keras.layers.Input((None,), dtype="int32") if self.ids else keras.layers.Input((None, depth))
        if self.ids:
            self.layers.append(keras.layers.Embedding(VOCABULARY, depth))
        elif self.draw.random() < 0.3:
            self.layers.append(keras.layers.Normalization())
        if self.draw.random() < 0.2:
            self.layers.append(self.dense())
        for _ in range(self.draw.randint(1, 3)):
            self.layers.append(self.recurrent())
        if self.draw.random() < 0.5:
            self.layers.append(keras.layers.Dropout(0.3))
        for _ in range(self.draw.randint(0, 2)):
            self.layers.append(self.dense())
        self.model = self.connected(first)
        for number, variable in enumerate(self.model.weights):
            if "int" not in str(variable.dtype):
                values = noise(tuple(variable.shape), seed + number)
                variable.assign(np.abs(values) if variable.name == "variance" else values)
        for layer in self.layers:
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()
        shape = (3, 6)
        ids = np.random.default_rng(seed).integers(0, VOCABULARY, shape).astype(np.int32)
        self.inputs: Array = ids if self.ids else noise((*shape, depth), seed)

    def connected(self, first: Any) -> Any:
        """Sequential, or Functional, which is saved in another way."""
        if self.draw.random() < 0.5:
            return self.keras.Sequential([first, *self.layers])
        values = first
        for layer in self.layers:
            values = layer(values)
        return self.keras.Model(first, values)

    def cell(self, suffix: str) -> Any:
        """A ``SimpleRNN``, ``LSTM`` or ``GRU``, or with the suffix ``Cell`` one of their cells."""
        layers, draw = self.keras.layers, self.draw
        options: dict[str, Any] = {"activation": draw.choice(ACTIVATIONS), "use_bias": draw.random() < 0.75}
        if not suffix:
            options |= {"return_sequences": True, "dropout": draw.choice((0.0, 0.2))}
        kind = draw.choice(("SimpleRNN", "LSTM", "GRU"))
        if kind != "SimpleRNN":
            options["recurrent_activation"] = draw.choice(("sigmoid", "sigmoid", "hard_sigmoid", "tanh"))
        if kind == "GRU":
            options["reset_after"] = draw.random() < 0.5
        return getattr(layers, kind + suffix)(draw.randint(1, 7), **options)

    def recurrent(self) -> Any:
        layers = self.keras.layers
        match self.draw.randint(0, 3):
            case 0:
                return layers.RNN([self.cell("Cell") for _ in range(self.draw.randint(1, 3))], return_sequences=True)
            case 1:
                return layers.Bidirectional(self.cell(""), merge_mode=self.draw.choice(("concat", "sum", "mul", "ave")))
        return self.cell("")

    def dense(self) -> Any:
        layers = self.keras.layers
        activation = self.draw.choice(("linear", "softmax", "sigmoid", "tanh", "relu", None))
        layer = layers.Dense(self.draw.randint(2, 6), activation=activation, use_bias=self.draw.random() < 0.75)
        return layers.TimeDistributed(layer) if self.draw.random() < 0.3 else layer


def assert_near(got: Array, want: Array) -> None:
    """Within 1e-5, or that of the largest number: activations without a bound make large ones."""
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(want).max(initial=0))))


def check(keras: Any, imported: ImportedModel, model: Any, inputs: Array) -> None:
    want = keras.ops.convert_to_numpy(model(inputs))
    outputs, _ = run(imported, inputs)
    assert_near(outputs[:, -want.shape[1] :] if want.ndim == 3 else outputs[:, -1], want)
    assert imported.reference is not None
    assert_near(imported.reference(inputs).reshape(want.shape), want)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_gives_what_keras_gives(keras: Any, seed: int, tmp_path: Path) -> None:
    drawn = Drawn(keras, seed)
    drawn.model.save(tmp_path / "model.keras")
    imported = importer.read(tmp_path / "model.keras", settings())
    assert imported.assumptions == ()
    check(keras, imported, drawn.model, drawn.inputs)


@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU"])
@pytest.mark.parametrize("both", [False, True])
def test_weights_alone_give_what_keras_gives(keras: Any, kind: str, both: bool, tmp_path: Path) -> None:
    layers = keras.layers
    cell = getattr(layers, kind)
    first = cell(6, return_sequences=True)
    lines = [layers.Bidirectional(first) if both else first, layers.Dropout(0.2), cell(5, return_sequences=True)]
    model = keras.Sequential([layers.Input((None, 4)), *lines, layers.Dense(3, activation="softmax")])
    model.compile("adam", "mse")
    model.fit(noise((2, 3, 4)), noise((2, 3, 3)), verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    imported = importer.read(tmp_path / "model.weights.h5", settings(head="softmax"))
    check(keras, imported, model, noise((3, 6, 4)))
    assert "dropout: a Dropout layer" in imported.ignored


def test_a_language_model_from_weights_alone(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    lines = [layers.Embedding(VOCABULARY, 4), layers.GRU(6, return_sequences=True), layers.Dense(VOCABULARY)]
    model = keras.Sequential([layers.Input((None,), dtype="int32"), *lines])
    model.save_weights(tmp_path / "model.weights.h5")
    ids = np.arange(10, dtype=np.int32).reshape(2, 5)
    check(keras, importer.read(tmp_path / "model.weights.h5", settings()), model, ids)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_model_that_gives_its_last_step_gives_every_step(keras: Any, fixed: bool, tmp_path: Path) -> None:
    layers = keras.layers
    shape = (6, 4) if fixed else (None, 4)
    options = {"unroll": True} if fixed else {}
    model = keras.Sequential([layers.Input(shape), layers.LSTM(5, **options), layers.Dense(3, activation="softmax")])
    model.save(tmp_path / "model.keras")
    imported = importer.read(tmp_path / "model.keras", settings())
    assert options_taken(imported) == {"return_sequences": "true"}
    assert imported.reference_shape == (None, 6 if fixed else None)
    check(keras, imported, model, noise((3, 6, 4)))


def test_masked_ids_are_lengths(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    lines = [
        layers.Embedding(VOCABULARY, 4, mask_zero=True),
        layers.Bidirectional(layers.GRU(5, return_sequences=True)),
    ]
    model = keras.Sequential([layers.Input((None,), dtype="int32"), *lines, layers.LSTM(3, return_sequences=True)])
    model.save(tmp_path / "model.keras")
    ids = np.array([[3, 1, 2, 4, 5], [6, 7, 0, 0, 0], [8, 0, 0, 0, 0]], np.int32)
    lengths = [5, 2, 1]
    want = keras.ops.convert_to_numpy(model(ids))
    outputs, _ = run(importer.read(tmp_path / "model.keras", settings(masking="lengths")), ids, lengths)
    for row, length in enumerate(lengths):
        assert_near(outputs[row, :length], want[row, :length])


def test_states_among_the_outputs_are_left_to_the_session(keras: Any, tmp_path: Path) -> None:
    first = keras.layers.Input((None, 4))
    outputs, h, c = keras.layers.LSTM(5, return_sequences=True, return_state=True)(first)
    model = keras.Model(first, [outputs, h, c])
    model.save(tmp_path / "model.keras")
    imported = importer.read(tmp_path / "model.keras", settings())
    inputs = noise((2, 6, 4))
    got, leaves = run(imported, inputs)
    want, want_h, want_c = (keras.ops.convert_to_numpy(each) for each in model(inputs))
    for ours, keras_gave in zip((got, *leaves), (want, want_c, want_h), strict=True):
        assert_near(ours, keras_gave)
    assert imported.reference is not None
    assert_near(imported.reference(inputs), want)


def test_double_precision_stays(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    model = keras.Sequential([layers.Input((None, 4)), layers.GRU(5, return_sequences=True, dtype="float64")])
    model.save(tmp_path / "model.keras")
    imported = importer.read(tmp_path / "model.keras", settings())
    assert imported.description.dtype == np.float64
    inputs = np.random.default_rng(0).normal(size=(2, 6, 4))
    want = keras.ops.convert_to_numpy(model(inputs.astype(np.float32)))
    np.testing.assert_allclose(run(imported, inputs.astype(np.float32).astype(np.float64))[0], want, atol=1e-12)
