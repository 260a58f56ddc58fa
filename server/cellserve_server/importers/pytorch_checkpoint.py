"""The state dict in a file of PyTorch's: the file itself, or one entry of a training checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellserve_server.importers.base import Assumption, ImportRefusedError, Settings
from cellserve_server.importers.pytorch_files import (
    FileTensor,
    kind_of,
    read_legacy_file,
    read_safetensors,
    read_torch_archive,
)
from cellserve_server.importers.pytorch_pickle import StoredTensor

MAX_NAMES_SHOWN = 8
_RECURRENT = re.compile(r"(?:.*\.)?weight_hh(?:_l\d+)?(?:_reverse)?", re.DOTALL)


@dataclass(frozen=True)
class StateDict:
    """The tensors of a model by name, what was assumed to find them, and what lies beside them."""

    tensors: Mapping[str, FileTensor]
    assumptions: tuple[Assumption, ...] = ()
    ignored: tuple[str, ...] = ()


def read_state_dict(source: Path, settings: Settings) -> StateDict:
    """Reads a file and finds the state dict in it.

    Args:
        source: a ``.safetensors``, ``.pt`` or ``.pth`` file.
        settings: ``state_dict`` names the entry of a checkpoint that has several.

    Raises:
        ImportRefusedError: the file is damaged, would run code, or has no state dict or several.
    """
    match kind_of(source):
        case "safetensors":
            return StateDict(read_safetensors(source))
        case "zip":
            saved = read_torch_archive(source)
        case "legacy":
            saved = read_legacy_file(source)
        case _:
            raise ImportRefusedError(
                f"{source.name}: expected a safetensors file, or a file of torch.save: its first bytes are of neither"
            )
    if not isinstance(saved.value, dict):
        raise ImportRefusedError(
            f"{source.name}: expected a state dict, or a checkpoint with one; got a {type(saved.value).__name__}"
        )
    key = _entry(source, saved.value, settings.get("state_dict"))
    entry = saved.value if key is None else saved.value[key]
    tensors = {
        name: saved.tensor(value)
        for name, value in entry.items()
        if isinstance(name, str) and isinstance(value, StoredTensor)
    }
    ignored = [f"{name}: no tensor" for name in entry if not (isinstance(name, str) and name in tensors)]
    if key is None:
        return StateDict(tensors, (), tuple(ignored))
    because = "the entry of the checkpoint that has recurrent weights"
    given = settings.get("state_dict") is not None
    ignored += [f"{name}: another entry of the checkpoint" for name in saved.value if name != key]
    return StateDict(tensors, (Assumption("state_dict", str(key), because, given),), tuple(ignored))


def _entry(source: Path, value: dict[Any, Any], given: str | None) -> str | None:
    """The key of the state dict in a checkpoint; None where the whole is one."""
    if given is not None:
        if not isinstance(value.get(given), dict):
            raise ImportRefusedError(
                f"state_dict: expected an entry of the checkpoint that is a dict; {given!r} is none of "
                f"{some_names(key for key, entry in value.items() if isinstance(entry, dict))}"
            )
        return given
    if _has_recurrent(value):
        return None
    keys = [k for k, entry in value.items() if isinstance(k, str) and isinstance(entry, dict) and _has_recurrent(entry)]
    if len(keys) > 1:
        raise ImportRefusedError(
            f"{source.name}: several entries have recurrent weights: {some_names(keys)}", option=f"state_dict={keys[0]}"
        )
    if not keys:
        raise ImportRefusedError(
            f"{source.name}: expected the weights of nn.RNN, nn.LSTM or nn.GRU (weight_ih_l0, weight_hh_l0, ...); "
            f"got {some_names(value)}"
        )
    return keys[0]


def _has_recurrent(entry: Mapping[Any, Any]) -> bool:
    return any(
        isinstance(name, str) and isinstance(value, StoredTensor) and _RECURRENT.fullmatch(name)
        for name, value in entry.items()
    )


def some_names(names: Iterable[object]) -> str:
    """The first few names, for a message; ``nothing`` where there are none."""
    shown = [repr(name)[:100] for name in names]
    more = len(shown) - MAX_NAMES_SHOWN
    return ", ".join(shown[:MAX_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "") or "nothing"
