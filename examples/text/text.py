"""Reads the novel, splits it by chapters, and turns characters into ids and back.

Everything is done with the file as it stands, character for character: line ends, quotation marks and the underscores
around emphasis are characters like any other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HELD_OUT_CHAPTERS = 3
MAX_TEXT_BYTES = 16 << 20
_CHAPTER = re.compile(r"^CHAPTER [IVXL]+$", re.MULTILINE)


class TextError(ValueError):
    """A text cannot be used; the message names the file, what was expected and what came."""


@dataclass(frozen=True)
class Novel:
    """A text in three parts that follow each other, cut before chapters.

    Attributes:
        train: what is learned from.
        validation: the three chapters before the last three: settings are chosen by them.
        test: the last three chapters, evaluated once.
        vocabulary: every character of the whole text, ordered; an id is a place in it.
    """

    train: str
    validation: str
    test: str
    vocabulary: tuple[str, ...]

    def ids(self, text: str) -> NDArray[np.int32]:
        """The ids of a text's characters, ``[characters]``. The text is of this novel's characters."""
        places = {character: place for place, character in enumerate(self.vocabulary)}
        return np.array([places[character] for character in text], dtype=np.int32)


def load_novel(path: str | Path) -> Novel:
    """Reads a novel whose chapters begin with a line ``CHAPTER`` and a Roman number.

    Args:
        path: the file, UTF-8 text.

    Raises:
        OSError: the file cannot be read.
        TextError: it is no such text, or too long.
    """
    path = Path(path)
    with path.open("rb") as file:
        data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise TextError(f"{path}: expected at most {MAX_TEXT_BYTES} bytes; got more")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"{path}: expected UTF-8 text; {error}") from error
    chapters = [match.start() for match in _CHAPTER.finditer(text)]
    if len(chapters) <= 2 * HELD_OUT_CHAPTERS:
        raise TextError(f"{path}: expected more than {2 * HELD_OUT_CHAPTERS} chapters; got {len(chapters)}")
    validation, test = chapters[-2 * HELD_OUT_CHAPTERS], chapters[-HELD_OUT_CHAPTERS]
    return Novel(text[:validation], text[validation:test], text[test:], tuple(sorted(set(text))))
