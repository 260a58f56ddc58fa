"""``cellserve demo``."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from cellserve_client.cli.common import EXIT_FAILED

PROGRAM = "examples.speaker_id.demo"
FILE = Path(*PROGRAM.split(".")).with_suffix(".py")


def main(arguments: Sequence[str]) -> int:
    """Stream real recordings through a server of its own and show what comes."""
    # The recordings, the model and the program are not in any package: they stand in the repository.
    here = Path(__file__).resolve()
    root = next((folder for folder in (Path.cwd(), *here.parents) if (folder / FILE).is_file()), None)
    if root is None:
        click.echo(f"cellserve demo: no {FILE} here. Run it in a checkout of CellServe: its root has it.", err=True)
        return EXIT_FAILED
    os.chdir(root)
    sys.path.insert(0, str(root))
    sys.argv = ["cellserve demo", *arguments]
    try:
        runpy.run_module(PROGRAM, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            click.echo(f"cellserve demo: {end.code}", err=True)
            return EXIT_FAILED
        return int(end.code or 0)
    return 0
