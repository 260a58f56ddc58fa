"""Pickles that would run code, and pickles that would only cost memory or time: no instruction of theirs is done."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellserve_server.importers import pytorch
from cellserve_server.importers.base import ImportRefusedError
from cellserve_server.importers.pytorch_pickle import read_pickle
from tests.unit.importers.comparing import settings
from tests.unit.importers.torch_files import Call, Named, recurrent, save_torch, state_dict


def refusal(path: Path) -> ImportRefusedError:
    with pytest.raises(ImportRefusedError) as refused:
        pytorch.read(path, settings())
    return refused.value


@pytest.mark.parametrize(
    "bomb",
    [
        Call(Named("posix", "system"), "touch {}"),
        Call(Named("os", "system"), "touch {}"),
        Call(Named("builtins", "exec"), "open('{}', 'w')"),
        Call(Named("builtins", "getattr"), Call(Named("builtins", "__import__"), "os"), "system"),
        Call(Named("torch", "load"), "{}"),
        Call(Named("__main__", "Net")),
    ],
    ids=lambda bomb: str(bomb.function),
)
def test_a_file_that_would_run_code_is_refused_by_the_name_it_calls(tmp_path: Path, bomb: Call) -> None:
    marker = tmp_path / "it-ran"
    bomb = Call(bomb.function, *(a.format(marker) if isinstance(a, str) else a for a in bomb.arguments))
    state, storages = state_dict(recurrent(4, 3, 5))
    path = save_torch(tmp_path / "model.pt", {"model": state, "bomb": bomb}, storages)
    assert f"to read it one would have to run '{bomb.function}'" in str(refusal(path))
    assert not marker.exists()


class Bomb:
    """What the pickle modules of the world make of an object with a malicious ``__reduce__``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_the_pickle_bomb_of_every_protocol_is_refused(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "it-ran"
    with pytest.raises(ImportRefusedError, match=r"'posix\.system'|the pickle instruction"):
        read_pickle(io.BytesIO(pickle.dumps(Bomb(f"touch {marker}"), protocol)), "bomb")
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"rnn.weight_hh_l0": Bomb(f"touch {marker}")}, protocol))
    refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize("instruction", [b"i", b"o", b"\x81", b"\x92", b"\x82\x01", b"P", b"b", b"2", b"\x97"])
def test_instructions_that_make_objects_are_refused(instruction: bytes) -> None:
    stream = io.BytesIO(b"\x80\x02(cos\nsystem\nX\x02\x00\x00\x00ls" + instruction + b"os\nsystem\n.")
    with pytest.raises(ImportRefusedError):
        read_pickle(stream, "bomb")


def test_tuples_nested_too_deeply_for_python_are_no_keys() -> None:
    with pytest.raises(ImportRefusedError, match="expected a string or a number as a key; got a tuple"):
        read_pickle(io.BytesIO(b"\x80\x02})" + b"\x85" * 200_000 + b"Ns."), "bomb")


def test_lists_of_lists_of_lists_cost_nothing() -> None:
    doubling = b"".join(b"0](h%ch%ceq%c" % (number, number, number + 1) for number in range(100))
    value = read_pickle(io.BytesIO(b"\x80\x02]q\x00" + doubling + b"."), "doubling").value
    assert isinstance(value, list)
    for end in (b"(hdhdhdhdhdtQ", b"hdR", b"}hdNs", b"hd\x93"):  # as a storage, a function, a key, a name
        with pytest.raises(ImportRefusedError, match="the pickle is damaged"):
            read_pickle(io.BytesIO(b"\x80\x02]q\x00" + doubling + end + b"."), "doubling")


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_be_read_or_refused(data: bytes) -> None:
    with suppress(ImportRefusedError):
        read_pickle(io.BytesIO(b"\x80\x02" + data), "noise")
