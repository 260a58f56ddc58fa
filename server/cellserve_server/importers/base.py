"""What an importer gives, and how it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from cellserve.specs import ModelDescription
from cellserve.tensors import Array


class ImportRefusedError(Exception):
    """A source cannot be served exactly, or is damaged, or says too little; nothing was written.

    Args:
        message: what stands in the way, naming the part of the source, what was expected and what is there.
        option: the option that would settle it, as ``activation=relu``; empty: none would.
    """

    def __init__(self, message: str, option: str = "") -> None:
        super().__init__(message if not option else f"{message} (settle it with --set {option})")
        self.option = option


class ReferenceFailedError(Exception):
    """A framework that is installed could not run the source; the message is the framework's."""


@dataclass(frozen=True)
class Assumption:
    """Something that the source does not say.

    Attributes:
        option: the option that says it otherwise: ``forget_bias``.
        value: what was taken.
        because: why.
        given: whether the user gave it.
    """

    option: str
    value: str
    because: str
    given: bool = False


@dataclass(frozen=True)
class ImportedModel:
    """A model as it was read.

    Attributes:
        framework: ``pytorch``, ``keras``, ``onnx`` or ``tensorflow1``.
        description: what it computes.
        weights: its variables, under the names and in the layout of ``description``.
        assumptions: what was taken where the source says nothing; kept in ``cell.json``.
        ignored: what the source has besides (optimiser slots, unused nodes), one line each.
        reference: runs the framework itself on inputs ``[batch, time, ...]`` from zero states and gives the outputs
            ``[batch, time, ...]``, of the last steps alone where it gives only those; None where the source alone does
            not let the framework run. Raises ``ModuleNotFoundError`` where the framework is not installed, and
            ``ReferenceFailedError`` where it cannot run the source.
        reference_shape: batch and time that ``reference`` insists on; None: any.
    """

    framework: str
    description: ModelDescription
    weights: Mapping[str, Array]
    assumptions: tuple[Assumption, ...] = ()
    ignored: tuple[str, ...] = ()
    reference: Callable[[Array], Array] | None = field(default=None, compare=False)
    reference_shape: tuple[int | None, int | None] = (None, None)


class Settings:
    """The options that the user gave (``--set name=value``), each to be used once.

    Args:
        values: by name.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)
        self._used: set[str] = set()

    def get(self, option: str) -> str | None:
        """The value of an option; None: it was not given."""
        self._used.add(option)
        return self._values.get(option)

    def asked(self) -> list[str]:
        """The options that were asked for: those that there are for what was read."""
        return sorted(self._used)

    def unused(self) -> list[str]:
        """Options that nothing asked for: a mistake of the user's."""
        return sorted(set(self._values) - self._used)


Read: TypeAlias = Callable[[Path, Settings], ImportedModel]


class Importer(Protocol):
    """One kind of source; every importer is a module with these two functions."""

    def recognises(self, source: Path) -> bool:
        """Whether the source is of this kind, by what it contains and not only by its name."""
        ...

    def read(self, source: Path, settings: Settings) -> ImportedModel:
        """Reads it.

        Raises:
            ImportRefusedError: it cannot be served exactly, is damaged, or says too little.
        """
        ...
