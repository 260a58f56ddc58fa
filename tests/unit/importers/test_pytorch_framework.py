"""PyTorch itself writes the files and computes what they should give: options, sizes and directions at random."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellserve.tensors import Array
from cellserve_server.importers import pytorch
from cellserve_server.importers.base import ImportRefusedError
from tests.unit.importers.comparing import assert_close, noise, run, settings

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")]

SEEDS = range(60)


@pytest.fixture(scope="module")
def torch() -> Any:
    module = importlib.import_module("torch")
    module.set_num_threads(1)
    return module


class Drawn:
    """A recurrent module with drawn options, inputs for it, a state, and what PyTorch makes of them."""

    def __init__(self, torch: Any, seed: int) -> None:
        draw = random.Random(seed)
        self.kind = draw.choice(("RNN", "LSTM", "GRU"))
        layers, directions = draw.randint(1, 3), draw.randint(1, 2)
        depth, units = draw.randint(1, 9), draw.randint(2, 9)
        options: dict[str, Any] = {
            "num_layers": layers,
            "bidirectional": directions == 2,
            "bias": draw.random() < 0.75,
            "dtype": draw.choice((torch.float32, torch.float32, torch.float64)),
        }
        self.nonlinearity = draw.choice(("tanh", "relu"))
        if self.kind == "RNN":
            options["nonlinearity"] = self.nonlinearity
        proj = draw.randint(1, units - 1) if self.kind == "LSTM" and draw.random() < 0.4 else 0
        if proj:
            options["proj_size"] = proj
        torch.manual_seed(seed)
        self.module = getattr(torch.nn, self.kind)(depth, units, batch_first=True, **options).eval()
        shape = (layers * directions, 2)
        self.inputs = torch.randn(2, 5, depth, dtype=options["dtype"])
        h = torch.randn(*shape, proj or units, dtype=options["dtype"])
        c = torch.randn(*shape, units, dtype=options["dtype"])
        state = (h, c) if self.kind == "LSTM" else h
        with torch.no_grad():
            outputs, after = self.module(self.inputs, state)
        self.outputs: Array = outputs.numpy()
        self.before, self.after = leaves(state), leaves(after)


def leaves(state: Any) -> list[Array]:
    """PyTorch's state as our leaves."""
    if not isinstance(state, tuple):
        return list(state.numpy())
    h, c = (part.numpy() for part in state)
    return [leaf for pair in zip(c, h, strict=True) for leaf in pair]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_module_gives_what_pytorch_gives(torch: Any, seed: int, tmp_path: Path) -> None:
    drawn = Drawn(torch, seed)
    path = tmp_path / "model.pt"
    if seed % 4 == 0:
        safetensors = importlib.import_module("safetensors.torch")
        path = tmp_path / "model.safetensors"
        safetensors.save_file(drawn.module.state_dict(), path)
    elif seed % 4 == 1:
        torch.save(drawn.module.state_dict(), path, _use_new_zipfile_serialization=False)
    else:
        torch.save(drawn.module.state_dict(), path, pickle_protocol=seed % 4)
    options = {"nonlinearity": drawn.nonlinearity} if drawn.kind == "RNN" else {}
    model = pytorch.read(path, settings(**options))
    inputs = drawn.inputs.numpy()
    outputs, after = run(model, inputs, None, drawn.before)
    assert outputs.dtype == inputs.dtype
    assert_close(outputs, drawn.outputs)
    for got, want in zip(after, drawn.after, strict=True):
        assert_close(got, want)
    assert model.reference is not None
    assert_close(model.reference(inputs), run(model, inputs)[0])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_gives_what_pytorch_gives(torch: Any, kind: str, bias: bool, tmp_path: Path) -> None:
    torch.save(getattr(torch.nn, f"{kind}Cell")(4, 7, bias=bias).state_dict(), tmp_path / "cell.pth")
    model = pytorch.read(tmp_path / "cell.pth", settings())
    inputs = noise((3, 6, 4))
    assert model.reference is not None
    assert_close(run(model, inputs)[0], model.reference(inputs))


def language_model(torch: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    nn = torch.nn
    return nn.ModuleDict({"embedding": nn.Embedding(50, 6), "lstm": nn.LSTM(6, 8, 2), "fc": nn.Linear(8, 50)}).eval()


def test_a_checkpoint_of_training_gives_the_model(torch: Any, tmp_path: Path) -> None:
    model = language_model(torch)
    optimizer = torch.optim.Adam(model.parameters())
    ids = torch.arange(10).reshape(2, 5)
    hidden, _ = model["lstm"](model["embedding"](ids).transpose(0, 1))
    torch.log_softmax(model["fc"](hidden), -1)[..., 3].sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "loss": 0.25}, path)
    with torch.no_grad():
        want = torch.softmax(model["fc"](model["lstm"](model["embedding"](ids).transpose(0, 1))[0]), -1).transpose(0, 1)
    imported = pytorch.read(path, settings(head="softmax"))
    inputs = ids.numpy().astype(np.int32)
    assert_close(run(imported, inputs)[0], want.numpy())
    assert imported.reference is not None
    assert_close(imported.reference(inputs), want.numpy())
    assert any(line.startswith("optimizer:") for line in imported.ignored)


def test_packed_sequences_are_as_lengths(torch: Any, tmp_path: Path) -> None:
    module = torch.nn.GRU(4, 6, bidirectional=True, batch_first=True).eval()
    torch.save(module.state_dict(), tmp_path / "gru.pt")
    inputs, lengths = noise((4, 7, 4)), [7, 2, 5, 1]
    rnn = torch.nn.utils.rnn
    with torch.no_grad():
        packed = rnn.pack_padded_sequence(torch.from_numpy(inputs), lengths, batch_first=True, enforce_sorted=False)
        want, _ = rnn.pad_packed_sequence(module(packed)[0], batch_first=True, total_length=7)
    assert_close(run(pytorch.read(tmp_path / "gru.pt", settings()), inputs, lengths)[0], want.numpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_widened_exactly(torch: Any, dtype: str, tmp_path: Path) -> None:
    module = torch.nn.GRU(4, 6, dtype=getattr(torch, dtype))
    torch.save(module.state_dict(), tmp_path / "gru.pt")
    model = pytorch.read(tmp_path / "gru.pt", settings(dtype="float32"))
    widened = module.float()
    want = widened.weight_ih_l0.detach().numpy()[12:].T
    np.testing.assert_array_equal(model.weights["cudnn_compatible_gru_cell/candidate/input_projection/kernel"], want)


def test_a_saved_module_is_refused_for_its_class(torch: Any, tmp_path: Path) -> None:
    torch.save(torch.nn.LSTM(3, 4), tmp_path / "module.pt")
    with pytest.raises(ImportRefusedError, match=r"one would have to run 'torch\.nn\.modules\.rnn\.LSTM'"):
        pytorch.read(tmp_path / "module.pt", settings())
