"""Writing text with a model of characters: by drawing one after the other, or by a beam search with forked sessions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cellserve.errors import FieldInvalidError
from cellserve_client.blocking_sessions import Session
from cellserve_client.models import ModelInfo
from cellserve_client.sampling import best_extensions, draw, log_softmax

__all__ = ["Alphabet", "Written", "beam_search", "write"]

_SHOWN_CHARACTERS = 10


class Written(NamedTuple):
    """Text that a model gave.

    Attributes:
        text: what came after the prompt.
        log_probability: of this text after the prompt, in nats, whatever the temperature was.
    """

    text: str
    log_probability: float


class Alphabet:
    """The characters that a model reads and writes: the labels of its output, an id each.

    Args:
        model: it takes one int32 id a step and gives the logits of the next, each labelled with its character.

    Raises:
        FieldInvalidError: it is another kind of model.
    """

    def __init__(self, model: ModelInfo) -> None:
        self.model = model.resource_name
        self.characters = model.labels
        problem = _problem(model)
        if problem:
            raise FieldInvalidError(
                f"model: expected one that takes ids and gives logits labelled with characters; {model.name} {problem}"
            )
        self._ids = {character: place for place, character in enumerate(self.characters)}

    def ids(self, text: str) -> npt.NDArray[np.int32]:
        """The ids of a text, ``[characters]``.

        Raises:
            FieldInvalidError: there is no text, or characters are in it that the model does not have; they are named.
        """
        if not text:
            raise FieldInvalidError("prompt: expected at least one character; got none")
        unknown = list(dict.fromkeys(character for character in text if character not in self._ids))
        if unknown:
            shown = ", ".join(map(repr, unknown[:_SHOWN_CHARACTERS]))
            more = f" and {len(unknown) - _SHOWN_CHARACTERS} more" if len(unknown) > _SHOWN_CHARACTERS else ""
            raise FieldInvalidError(f"prompt: expected characters that {self.model} has; got {shown}{more}")
        return np.array([self._ids[character] for character in text], dtype=np.int32)


def write(
    session: Session, alphabet: Alphabet, prompt: str, length: int, temperature: float, generator: np.random.Generator
) -> Iterator[Written]:
    """Reads a prompt and draws one character after the other, a step each; each is given as soon as it is drawn.

    Args:
        session: of the alphabet's model, without a batch size. It goes on from where it is.
        prompt: at least one character.
        length: characters to write.
        temperature, generator: as for ``sampling.draw``.

    Raises:
        FieldInvalidError: the prompt or the temperature; the model gave NaN.
        CellServeError: a step failed.
    """
    log_probabilities = _read(session, alphabet, prompt)
    for place in range(length):
        id_ = draw(log_probabilities, temperature, generator)
        yield Written(alphabet.characters[id_], float(log_probabilities[id_]))
        if place + 1 < length:
            log_probabilities = log_softmax(session.step(id_))


def beam_search(session: Session, alphabet: Alphabet, prompt: str, length: int, width: int) -> list[Written]:
    """Reads a prompt and searches for likely texts after it, with the ``width`` likeliest kept at every character.

    Every hypothesis has a session of its own, forked from its parent's. A loser's is closed at once, the others when
    the search ends, however it ends.

    Args:
        session: of the alphabet's model, without a batch size. It reads the prompt, and stays there.
        prompt: at least one character.
        length: characters to write, at least 1.
        width: hypotheses at most; with 1 the text is that of temperature 0.

    Returns:
        The hypotheses of the end, the likeliest first.

    Raises:
        FieldInvalidError: the prompt or the width; the model gave NaN.
        CellServeError: a step or a fork failed.
    """
    log_probabilities = _read(session, alphabet, prompt)
    with _Forks() as forks:
        beam = [_Hypothesis(forks.fork(session), Written("", 0.0), log_probabilities)]
        for place in range(length):
            beam = _lengthen(beam, alphabet, width, forks, last=place + 1 == length)
        return [hypothesis.written for hypothesis in beam]


@dataclass(frozen=True)
class _Hypothesis:
    """A text, the session that has read it, and the log-probabilities of what comes next, ``[characters]``."""

    session: Session
    written: Written
    log_probabilities: npt.NDArray[np.float64]


def _lengthen(
    beam: Sequence[_Hypothesis], alphabet: Alphabet, width: int, forks: _Forks, last: bool
) -> list[_Hypothesis]:
    """The best of the beam's continuations by one character, the best first; the last ones are not read any more."""
    best = best_extensions(
        [hypothesis.written.log_probability for hypothesis in beam],
        np.stack([hypothesis.log_probabilities for hypothesis in beam]),
        width,
    )
    # The first of a parent's children takes its session over. The others copy it, before it moves on.
    taken: set[int] = set()
    sessions = []
    for extension in best:
        parent = beam[extension.parent].session
        sessions.append(forks.fork(parent) if extension.parent in taken else parent)
        taken.add(extension.parent)
    for place, hypothesis in enumerate(beam):
        if place not in taken:
            forks.close(hypothesis.session)
    longer = []
    for session, extension in zip(sessions, best, strict=True):
        parent_text = beam[extension.parent].written.text
        written = Written(parent_text + alphabet.characters[extension.id], extension.score)
        ahead = np.empty(0) if last else log_softmax(session.step(extension.id))
        longer.append(_Hypothesis(session, written, ahead))
    return longer


class _Forks:
    """Sessions that are closed at the end of the block, but for those that were closed before."""

    def __init__(self) -> None:
        self._open: dict[str, Session] = {}

    def fork(self, session: Session) -> Session:
        """A copy, to be closed with the others."""
        copy = session.fork()
        self._open[copy.id] = copy
        return copy

    def close(self, session: Session) -> None:
        """Closes one of them."""
        session.close()
        del self._open[session.id]

    def __enter__(self) -> _Forks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # All are tried, even when one of them fails.
        with ExitStack() as stack:
            for session in self._open.values():
                stack.callback(session.__exit__, kind, error, trace)


def _read(session: Session, alphabet: Alphabet, prompt: str) -> npt.NDArray[np.float64]:
    """Reads a prompt: the log-probabilities of what comes after it, ``[characters]``."""
    return log_softmax(session.run(alphabet.ids(prompt), outputs="last"))


def _problem(model: ModelInfo) -> str:
    """What stands in the way of writing characters with a model; empty: nothing."""
    if len(model.inputs) != 1 or model.inputs[0].dtype != np.int32 or model.inputs[0].shape:
        shown = ", ".join(f"{spec.dtype.name}{list(spec.shape)}" for spec in model.inputs) or "nothing"
        return f"takes {shown}"
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 1 or not model.labels:
        return "has an output without labels"
    odd = next((label for label in model.labels if len(label) != 1), None)
    if odd is not None:
        return f"has the label {odd!r}"
    if len(set(model.labels)) < len(model.labels):
        return "has a label twice"
    if model.vocabulary_size not in (None, len(model.labels)):
        return f"has {len(model.labels)} labels for {model.vocabulary_size} ids"
    return ""
