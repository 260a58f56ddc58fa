"""``cellserve import``: a file that a framework wrote becomes a model in the server's folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from cellserve_server.importers import ImportRefusedError, import_model
from cellserve_server.importers.report import print_report, report_document

REFUSED = 1
USAGE_ERROR = 2
MAX_WIDTH = 140


def main(arguments: Sequence[str]) -> int:
    """Import a trained model of PyTorch, Keras, ONNX or TensorFlow 1.

    Returns the exit code: 0 when the model was written, 1 when it was refused and nothing was written, 2 for
    arguments that cannot be.
    """
    try:
        import_command.main(list(arguments), prog_name="cellserve import", standalone_mode=False)
    except click.exceptions.Exit as done:  # --help was answered.
        return done.exit_code
    except click.ClickException as error:
        print(f"cellserve import: {error.format_message()}", file=sys.stderr)
        return USAGE_ERROR
    except ImportRefusedError as error:
        print(f"cellserve import: {error}", file=sys.stderr)
        print("Nothing was written.", file=sys.stderr)
        return REFUSED
    return 0


@click.command("import", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The model's name: letters, digits, '_', '.' and '-'.")
@click.option("--version", type=int, help="Its version; default: one more than the highest that there is.")
@click.option(
    "--models",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("models"),
    show_default=True,
    help="The folder of models.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Says what the file does not; may be repeated."
)
@click.option("--verify", is_flag=True, help="Run the framework, where it is installed, beside the served model.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def import_command(
    source: Path,
    name: str,
    version: int | None,
    models: Path,
    settings: tuple[str, ...],
    verify: bool,
    as_json: bool,
) -> None:
    """Import a trained model of PyTorch, Keras, ONNX or TensorFlow 1.

    SOURCE is a .safetensors or .pt file, a .keras or .weights.h5 file, an .onnx file, or a checkpoint of TensorFlow 1
    (its prefix, its .index file or its folder). What cannot be served exactly is refused, and nothing is written.

    \b
    Examples:
      cellserve import lstm.safetensors --name speech
      cellserve import logs/model.ckpt-1234 --name clicks --set forget_bias=0 --set head=dense:softmax
      cellserve import model.onnx --name ticks --verify
    """
    result = import_model(source, name, version=version, models=models, settings=_settings(settings), verify=verify)
    if as_json:
        print(json.dumps(report_document(result), indent=2))
        return
    console = Console()
    # A pipe has no width of its own; there long lines stay whole.
    console.width = min(console.width, MAX_WIDTH) if console.is_terminal else MAX_WIDTH
    print_report(result, console)


def _settings(entries: Sequence[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for entry in entries:
        option, equals, value = entry.partition("=")
        if not equals or not option:
            raise click.BadParameter(f"expected OPTION=VALUE; got {entry!r}", param_hint="--set")
        if option in settings:
            raise click.BadParameter(f"{option} is given twice", param_hint="--set")
        settings[option] = value
    return settings
