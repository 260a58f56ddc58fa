"""The ``cellserve`` command. It has no commands of its own: installed packages register theirs.

A package registers a command by an entry point in the group ``cellserve.commands``: its name is the command's, and what
it loads is called with the remaining arguments and returns the exit code. The object's docstring is its help line. One
whose name has a dash is called by two words: ``sessions-export`` is ``cellserve sessions export``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version

GROUP = "cellserve.commands"
USAGE_ERROR = 2


def commands() -> dict[str, EntryPoint]:
    """The registered commands by name."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``cellserve COMMAND ...`` and returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    known = commands()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(known))
        return 0 if arguments else USAGE_ERROR
    if arguments[0] == "--version":
        print(f"cellserve {version('cellserve-proto')}")
        return 0
    words = 2 if "-".join(arguments[:2]) in known else 1
    entry = known.get("-".join(arguments[:words]))
    if entry is None:
        print(f"cellserve: no command {arguments[0]!r}. There are: {', '.join(known) or 'none'}.", file=sys.stderr)
        return USAGE_ERROR
    # grpc reads this when it is loaded. What it would print of its own says less than the commands' errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        command = entry.load()
    except ModuleNotFoundError as error:
        print(f"cellserve {_words_of(entry.name)}: {_missing(entry, error)}", file=sys.stderr)
        return 1
    return int(command(list(arguments[words:])) or 0)


def _help(known: dict[str, EntryPoint]) -> str:
    lines = ["Usage: cellserve COMMAND [OPTIONS]", "", "Serves recurrent models over gRPC.", "", "Commands:"]
    width = max(map(len, known), default=0)
    lines += [f"  {_words_of(name):{width}}  {_summary(entry)}" for name, entry in known.items()]
    if not known:
        lines.append("  none: install cellserve-server (to serve) or cellserve-client[cli] (to call).")
    return "\n".join([*lines, "", "`cellserve COMMAND --help` tells more."])


def _words_of(name: str) -> str:
    return name.replace("-", " ")


def _summary(entry: EntryPoint) -> str:
    try:
        return (entry.load().__doc__ or "").strip().partition("\n")[0]
    except ModuleNotFoundError as error:
        return _missing(entry, error)


def _missing(entry: EntryPoint, error: ModuleNotFoundError) -> str:
    package = entry.dist.name if entry.dist else "its package"
    return f"needs the module {error.name!r}: pip install '{package}[cli]'"


if __name__ == "__main__":
    sys.exit(main())
