"""The demonstration: 370 recordings stream frame by frame, many at once, through a server in its own process.

Run it with ``cellserve demo`` (or ``python -m examples.speaker_id.demo``) from the checkout's root.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cellserve.errors import CellServeError
from cellserve_client import aio, connect
from examples import seed_programs
from examples.local_server import LocalServer, ServerFailedError
from examples.speaker_id.belief import belief_picture, interesting_utterances
from examples.speaker_id.recordings import Recordings, load_recordings

MODEL = "speaker-id"
HERE = Path(__file__).parent
MIN_ACCURACY = 0.95
MAX_ABS_DIFF = 1e-5

Beliefs = list[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Outcome:
    """What streaming all utterances gave.

    Attributes:
        beliefs: for each utterance ``[time, 9]``, the belief after each frame.
        latencies_s: of every step, in seconds.
        seconds: for all of them.
    """

    beliefs: Beliefs
    latencies_s: list[float]
    seconds: float


async def stream_all(address: str, recordings: Recordings, at_once: int, progress: Progress) -> Outcome:
    """Streams every utterance frame by frame, each through a session of its own, ``at_once`` of them at a time."""
    beliefs: Beliefs = [np.empty((0, 0), np.float32)] * len(recordings)
    latencies_s: list[float] = []
    places = asyncio.Semaphore(at_once)
    bar = progress.add_task("streaming", total=len(recordings))

    async def speak(server: aio.Server, index: int) -> None:
        async with places, server.session(MODEL) as session:
            answers = []
            for frame in recordings.frames[index]:
                sent = time.perf_counter()
                answers.append(await session.step(frame))
                latencies_s.append(time.perf_counter() - sent)
            beliefs[index] = np.stack(answers)
        progress.advance(bar)

    started = time.perf_counter()
    async with aio.connect(address) as server, asyncio.TaskGroup() as group:
        for index in range(len(recordings)):
            group.create_task(speak(server, index))
    return Outcome(beliefs, latencies_s, time.perf_counter() - started)


def measure(outcome: Outcome, recordings: Recordings, reference: Path) -> dict[str, float]:
    """The figures of the run, by their names in the last line."""
    with np.load(reference) as arrays:
        expected = arrays["probabilities"]
    said = np.concatenate(outcome.beliefs)
    if said.shape != expected.shape:
        raise ServerFailedError(f"expected beliefs of shape {expected.shape}, as PyTorch's; got {said.shape}")
    answers = np.array([belief[-1].argmax() for belief in outcome.beliefs])
    p50_s, p99_s = np.percentile(outcome.latencies_s, [50, 99])
    return {
        "accuracy": round(float(np.mean(answers == recordings.speakers)), 4),
        "utterances": len(recordings),
        "steps": len(said),
        "steps_per_second": round(len(said) / outcome.seconds, 1),
        "p50_ms": round(p50_s * 1e3, 3),
        "p99_ms": round(p99_s * 1e3, 3),
        "max_abs_diff": float(np.abs(said - expected).max()),
    }


def show(console: Console, figures: dict[str, float], at_once: int) -> None:
    """Prints the table of figures."""
    table = Table(title=f"Japanese Vowels, test set, {at_once} sessions at once", show_header=False)
    rows = {
        "accuracy (published: 0.941 and 0.962)": f"{figures['accuracy']:.4f}",
        "utterances": f"{figures['utterances']}",
        "frames, one step each": f"{figures['steps']}",
        "steps per second": f"{figures['steps_per_second']:.0f}",
        "latency of a step, p50": f"{figures['p50_ms']:.2f} ms",
        "latency of a step, p99": f"{figures['p99_ms']:.2f} ms",
        "largest difference from PyTorch": f"{figures['max_abs_diff']:.1e}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def demonstrate(models: Path, recordings: Recordings, at_once: int, console: Console) -> dict[str, float]:
    """Starts a server, streams, shows, runs the seed programs, stops the server; returns the figures."""
    with LocalServer(models) as server:
        console.print(f"server: process {server.pid}, listening on {server.address}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            outcome = asyncio.run(stream_all(server.address, recordings, at_once, progress))
        figures = measure(outcome, recordings, HERE / "reference.npz")
        console.print("\nHow the belief about the speaker sharpens, frame by frame (one column a frame):")
        for index in interesting_utterances(outcome.beliefs, recordings.speakers):
            console.print(belief_picture(index, outcome.beliefs[index], int(recordings.speakers[index])))
        show(console, figures, at_once)
        console.print("\nThe seed programs, on the same server:")
        with connect(server.address) as connection:
            seed_programs.run(connection)
    console.print(f"\nserver stopped, exit code {server.exit_code}")
    if server.exit_code != 0:
        raise ServerFailedError(f"the server ended with exit code {server.exit_code}")
    return figures


@click.command()
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--at-once", type=click.IntRange(1, 1000), default=64, show_default=True, help="Sessions at a time.")
def main(models: Path, at_once: int) -> None:
    """Streams 370 recordings through a server and shows what came."""
    console = Console()
    recordings = load_recordings(HERE / "data" / "JapaneseVowels_TEST.ts")
    try:
        figures = demonstrate(models, recordings, at_once, console)
    except* (ServerFailedError, CellServeError) as group:
        raise click.ClickException("; ".join(str(error) for error in group.exceptions)) from group
    print(json.dumps(figures))
    if figures["accuracy"] < MIN_ACCURACY or figures["max_abs_diff"] > MAX_ABS_DIFF:
        raise SystemExit(f"expected accuracy >= {MIN_ACCURACY} and a difference <= {MAX_ABS_DIFF}")


if __name__ == "__main__":
    main()
