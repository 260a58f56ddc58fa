"""``cellserve sample``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import click
import numpy as np

from cellserve_client.cli.common import connection, json_option, print_json, run, server_options
from cellserve_client.client import Server
from cellserve_client.writing import Alphabet, Written, beam_search, write

DEFAULT_MODEL = "text"
DEFAULT_LENGTH = 400
DEFAULT_TEMPERATURE = 0.7
# What is read before a text that has no prompt. It is not shown.
START = "\n"
MAX_LENGTH = 100_000
MAX_BEAM = 64
MAX_SEED = 2**63 - 1


def main(arguments: Sequence[str]) -> int:
    """Write text with a model of characters, step by step."""
    return run(sample, "cellserve sample", arguments)


@dataclass(frozen=True)
class Task:
    """What is to be written.

    Attributes:
        prompt: what the model reads first; None: the end of a line.
        length: characters to write.
        as_json: whether it is for a program.
    """

    prompt: str | None
    length: int
    as_json: bool

    @property
    def read(self) -> str:
        """What the model reads first."""
        return START if self.prompt is None else self.prompt

    @property
    def shown(self) -> str:
        """What of it stands before the text."""
        return self.prompt or ""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Which model: text, or text/versions/1.")
@click.option("--prompt", metavar="TEXT", help="How the text begins; what the model goes on from.")
@click.option(
    "--length",
    type=click.IntRange(1, MAX_LENGTH),
    default=DEFAULT_LENGTH,
    show_default=True,
    help="Characters to write.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    help=f"1: as the model says; less: bolder; 0: always the likeliest.  [default: {DEFAULT_TEMPERATURE}]",
)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="The same seed gives the same text. Default: drawn.")
@click.option(
    "--beam", type=click.IntRange(1, MAX_BEAM), metavar="WIDTH", help="Search for likely texts, so many at a time."
)
@server_options
@json_option
def sample(
    model: str,
    prompt: str | None,
    length: int,
    temperature: float | None,
    seed: int | None,
    beam: int | None,
    address: str,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Write text with a model of characters, step by step.

    The model takes the id of a character and gives the logits of the next. Characters are drawn one after the other,
    and shown as they come. With --beam nothing is drawn: sessions are forked to follow the likeliest texts side by
    side, and these are shown at the end, the likeliest first.

    \b
    Examples:
      cellserve sample --prompt "Emma was" --temperature 0.5 --seed 7
      cellserve sample --prompt "Mr. Knightley" --length 60 --beam 8
      cellserve sample --length 2000 --json
    """
    if beam is not None and (temperature is not None or seed is not None):
        raise click.UsageError("--beam searches and draws nothing: it goes without --temperature and --seed.")
    if temperature is not None and not math.isfinite(temperature):
        raise click.BadParameter("expected a finite number", param_hint="--temperature")
    task = Task(prompt, length, as_json)
    with connection(address, timeout_s).connect() as server:
        if beam is None:
            chosen_seed = int(np.random.default_rng().integers(2**32)) if seed is None else seed
            _draw(server, model, task, DEFAULT_TEMPERATURE if temperature is None else temperature, chosen_seed)
        else:
            _search(server, model, task, beam)


def _draw(server: Server, model: str, task: Task, temperature: float, seed: int) -> None:
    alphabet = Alphabet(server.model_info(model))
    # Before the first character, so that a prompt that cannot be is not shown as the beginning of a text.
    alphabet.ids(task.read)
    pieces = []
    started = time.perf_counter()
    with server.session(alphabet.model) as session:
        if not task.as_json:
            click.echo(task.shown, nl=False)
        generator = np.random.default_rng(seed)
        for piece in write(session, alphabet, task.read, task.length, temperature, generator):
            pieces.append(piece)
            if not task.as_json:
                click.echo(piece.text, nl=False)
    seconds = time.perf_counter() - started
    whole = Written("".join(piece.text for piece in pieces), math.fsum(piece.log_probability for piece in pieces))
    if task.as_json:
        settings = {"temperature": temperature, "seed": seed}
        print_json({"model": alphabet.model, "prompt": task.shown, **settings, **_document(whole)})
        return
    click.echo()
    click.echo(
        f"{task.length} characters, {task.length / seconds:.0f} a second, {_bits(whole):.2f} bits each; seed {seed}",
        err=True,
    )


def _search(server: Server, model: str, task: Task, width: int) -> None:
    alphabet = Alphabet(server.model_info(model))
    with server.session(alphabet.model) as session:
        found = beam_search(session, alphabet, task.read, task.length, width)
    if task.as_json:
        texts = [_document(written) for written in found]
        print_json({"model": alphabet.model, "prompt": task.shown, "beam": width, "texts": texts})
        return
    for place, written in enumerate(found, start=1):
        figures = f"log-probability {written.log_probability:.3f}, {_bits(written):.2f} bits a character"
        click.echo(f"{place}. {figures}\n{task.shown}{written.text}\n")


def _document(written: Written) -> dict[str, str | float]:
    return {
        "text": written.text,
        "log_probability": written.log_probability,
        "bits_per_character": _bits(written),
    }


def _bits(written: Written) -> float:
    """Bits a character: of a text that the model finds likely there are few."""
    return -written.log_probability / math.log(2) / len(written.text)
