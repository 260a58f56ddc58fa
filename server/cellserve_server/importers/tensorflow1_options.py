"""What a TensorFlow 1 checkpoint does not say about its cells, asked of the user and noted as assumptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from cellserve.cells import ACTIVATIONS
from cellserve_server.importers.base import Assumption, ImportRefusedError, Settings

_T = TypeVar("_T")
_NO, _YES = ("false", "no", "0"), ("true", "yes", "1")


class CellOptions:
    """The options of cells. A value holds for every cell it concerns, or there is one for each: ``forget_bias=0,1``.

    Cells are asked about in the order in which they run; of a bidirectional layer first the forward one.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked: dict[str, int] = {}
        self._notes: dict[str, tuple[list[str], str]] = {}

    def forget_bias(self, default: float = 1.0) -> float:
        """What is added to an LSTM's forget gate when it runs."""
        because = "added when the cell runs, so it is in no checkpoint; 1.0 is TensorFlow's default"
        if default == 0.0:
            because = "CudnnCompatibleLSTMCell adds none"
        return self._next("forget_bias", f"{default}", _number("forget_bias"), because)

    def activation(self, option: str = "activation", default: str = "tanh") -> str | None:
        """A cell's function, or a wrapper's; None: none."""

        def parse(text: str) -> str | None:
            allowed = ACTIVATIONS if default != "none" else ("none", *ACTIVATIONS)
            if text not in allowed:
                raise ImportRefusedError(f"{option}: expected one of {', '.join(allowed)}; got {text!r}")
            return None if text in ("none", "tanh" if default == "tanh" else "none") else text

        return self._next(option, default, parse, f"functions are in no checkpoint; {default} is TensorFlow's default")

    def clip(self, option: str) -> float | None:
        """``cell_clip`` or ``proj_clip`` of an LSTMCell."""
        number = _number(option)
        because = "bounds are in no checkpoint; TensorFlow's default is none"
        return self._next(option, "none", lambda text: None if text == "none" else number(text), because)

    def state_is_tuple(self) -> bool:
        """How the states of LSTMs and stacks are nested; one answer for all."""
        option = "state_is_tuple"
        given = self._settings.get(option)
        value = "true" if given is None else given.lower()
        if value not in (*_NO, *_YES):
            raise ImportRefusedError(f"{option}: expected true or false; got {given!r}")
        because = "the nesting of the state is in no checkpoint; True is TensorFlow's default"
        self._notes[option] = ([value], because)
        return value in _YES

    def kind(self, path: str, kinds: Sequence[str]) -> str:
        """The class of a cell with a name of its own.

        Raises:
            ImportRefusedError: the user gave none, or one that is not known.
        """
        if self._settings.get("cell") is None:
            raise ImportRefusedError(
                f"{path}: it has the variables of a cell, and its name does not say of which class; "
                f"the classes are {', '.join(kinds)}",
                option=f"cell={kinds[0]}",
            )

        def parse(text: str) -> str:
            if text not in kinds:
                raise ImportRefusedError(f"cell: expected one of {', '.join(kinds)}; got {text!r}")
            return text

        return self._next("cell", kinds[0], parse, f"the scope {path} does not say of which class the cell is")

    def _next(self, option: str, default: str, parse: Callable[[str], _T], because: str) -> _T:
        given = self._settings.get(option)
        values = [default] if given is None else [part.strip() for part in given.split(",")]
        index = self._asked.get(option, 0)
        self._asked[option] = index + 1
        if index >= len(values) > 1:
            raise ImportRefusedError(f"{option}: expected one value, or one for each cell; got {len(values)}, too few")
        text = values[index] if len(values) > 1 else values[0]
        used, _ = self._notes.setdefault(option, ([], because))
        value = parse(text)
        used.append(text)
        return value

    def assumptions(self) -> list[Assumption]:
        """What was assumed, or given, for the cells that were asked about.

        Raises:
            ImportRefusedError: an option has a value for more cells than there are.
        """
        notes = []
        for option, (used, because) in self._notes.items():
            given = self._settings.get(option)
            count = 1 if given is None else len(given.split(","))
            if count > max(1, self._asked.get(option, 1)):
                raise ImportRefusedError(
                    f"{option}: expected one value, or one for each of {self._asked.get(option, 1)}; got {count}"
                )
            value = used[0] if len(set(used)) == 1 else ",".join(used)
            notes.append(Assumption(option, value, because, given=given is not None))
        return notes


def _number(option: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ImportRefusedError(f"{option}: expected a number; got {text!r}") from None
        if not abs(value) < float("inf"):
            raise ImportRefusedError(f"{option}: expected a finite number; got {text!r}")
        return value

    return parse


def cell_numbers(text: str, option: str, count: int) -> list[int]:
    """A list of cells' numbers, as ``0,0,1``.

    Raises:
        ImportRefusedError: it is no such list, or has a number that is not below ``count``.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ImportRefusedError(f"{option}: expected numbers of cells, as 0,1; got {text!r}") from None
    wrong = [number for number in numbers if not 0 <= number < count]
    if wrong:
        raise ImportRefusedError(f"{option}: expected numbers of cells from 0 to {count - 1}; got {wrong[0]}")
    return numbers
