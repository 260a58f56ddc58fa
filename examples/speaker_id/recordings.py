"""Reads the Japanese Vowels recordings from their ``.ts`` text files.

Lines that start with ``#`` or ``@`` are the header, which ends with ``@data``. Every later line is one utterance: its
12 channels separated by ``:``, the values of a channel by ``,``, and the speaker (1 to 9) last. Utterances have
different lengths; the channels of one utterance have the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHANNELS = 12
SPEAKERS = 9
_SPEAKER_INDEX = {str(number + 1): number for number in range(SPEAKERS)}
_SHOWN_CHARS = 20


class RecordingsError(ValueError):
    """A recordings file is malformed; the message starts with ``file:line``."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(f"{path}:{line}: {problem}")


@dataclass(frozen=True)
class Recordings:
    """Utterances in the order of their file.

    Attributes:
        frames: one array an utterance, ``[time, 12]`` float32; ``time`` is 7 to 29 in the published files.
        speakers: ``[utterances]`` int64, 0 to 8: the speaker who is numbered 1 to 9 in the file, less one.
    """

    frames: list[NDArray[np.float32]]
    speakers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.frames)


def load_recordings(path: str | Path) -> Recordings:
    """Reads one ``.ts`` file.

    Args:
        path: the file, UTF-8 text.

    Raises:
        OSError: the file cannot be read.
        RecordingsError: the file is malformed; the message names the file and the line.
    """
    path = Path(path)
    frames: list[NDArray[np.float32]] = []
    speakers: list[int] = []
    for number, line in _data_lines(path):
        utterance, speaker = _parse_utterance(path, number, line)
        frames.append(utterance)
        speakers.append(speaker)
    return Recordings(frames, np.array(speakers, dtype=np.int64))


def _data_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The line number, from 1, and the text of every utterance; a header has to go before them."""
    in_data = False
    number, utterances = 1, 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                raise RecordingsError(path, number, f"expected UTF-8 text; {error.reason}") from error
            if not line or line.startswith("#"):
                continue
            if line.startswith("@"):
                if in_data:
                    raise RecordingsError(path, number, "a header line after @data")
                in_data = line.lower() == "@data"
                continue
            if not in_data:
                raise RecordingsError(path, number, "an utterance before @data")
            utterances += 1
            yield number, line
    if not utterances:
        raise RecordingsError(path, number, "no utterance after @data" if in_data else "no @data line")


def _parse_utterance(path: Path, number: int, line: str) -> tuple[NDArray[np.float32], int]:
    """The frames, ``[time, 12]`` float32, and the speaker, 0 to 8, of one data line."""
    *channels, label = line.split(":")
    if len(channels) != CHANNELS:
        raise RecordingsError(
            path, number, f"expected {CHANNELS} channels and the speaker; got {len(channels)} channels"
        )
    speaker = _SPEAKER_INDEX.get(label.strip())
    if speaker is None:
        got = label.strip()[:_SHOWN_CHARS]
        raise RecordingsError(path, number, f"expected a speaker from 1 to {SPEAKERS}; got {got!r}")
    rows = [_parse_channel(path, number, channel, text.split(",")) for channel, text in enumerate(channels, start=1)]
    for channel, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise RecordingsError(
                path, number, f"channel {channel} has {len(row)} values, channel 1 has {len(rows[0])}"
            )
    return np.ascontiguousarray(np.stack(rows, axis=1)), speaker


def _parse_channel(path: Path, number: int, channel: int, texts: list[str]) -> NDArray[np.float32]:
    """The values of one channel, ``[time]`` float32, all finite."""
    values = np.empty(len(texts), dtype=np.float32)
    for time, text in enumerate(texts):
        try:
            # float() takes "nan", "inf", and "1e99", which is infinite in float32, too: the check below refuses them.
            with np.errstate(over="ignore"):
                values[time] = float(text)
        except ValueError:
            values[time] = np.nan
        if not np.isfinite(values[time]):
            got = text.strip()[:_SHOWN_CHARS]
            problem = f"channel {channel}, value {time + 1}: expected a finite number; got {got!r}"
            raise RecordingsError(path, number, problem)
    return values
