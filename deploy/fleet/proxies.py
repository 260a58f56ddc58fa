"""The proxies before a fleet, with the configurations that ship, their addresses replaced."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from deploy.fleet.errors import FleetError
from deploy.fleet.ports import HOST, accepts
from deploy.fleet.process import ManagedProcess
from deploy.fleet.programs import find_program

FOLDER = Path(__file__).resolve().parent.parent
CONFIGURATIONS = {"nginx": FOLDER / "nginx.conf", "haproxy": FOLDER / "haproxy.cfg"}
PROXIES = tuple(CONFIGURATIONS)
LISTEN_ADDRESS = "0.0.0.0:50051"
REPLICA_LINE = re.compile(r"^ *server (?:replica-\d+ )?replica-\d+:50051.*\n", re.MULTILINE)


def configuration(text: str, listen: str, replicas: Sequence[str]) -> str:
    """A configuration that ships, for other addresses: where it listens, and a ``server`` line for each replica.

    Args:
        text: of ``nginx.conf`` or ``haproxy.cfg``.
        listen: ``host:port``.
        replicas: the same of each replica.

    Raises:
        FleetError: the text has not exactly one address to listen on and one run of ``server`` lines.
    """
    found = list(REPLICA_LINE.finditer(text))
    together = all(first.end() == second.start() for first, second in itertools.pairwise(found))
    if not found or not together or text.count(LISTEN_ADDRESS) != 1:
        raise FleetError(f"the configuration needs {LISTEN_ADDRESS} once, and `server replica-1:50051` lines together")
    model = found[0][0].replace("replica-1:50051", "{address}").replace("replica-1", "{name}")
    lines = [model.format(address=address, name=f"replica-{index}") for index, address in enumerate(replicas, 1)]
    changed = text[: found[0].start()] + "".join(lines) + text[found[-1].end() :]
    return changed.replace(LISTEN_ADDRESS, listen)


def proxy_process(kind: str, port: int, replicas: Sequence[str], folder: Path) -> ManagedProcess:
    """A proxy before these replicas; it is not started yet.

    Args:
        kind: ``nginx`` or ``haproxy``.
        port: where it is to listen, on this machine alone.
        replicas: ``host:port`` of each.
        folder: for its configuration, its log and what it writes; it has to be there.

    Raises:
        MissingProgramError: it is not installed.
    """
    program = find_program(kind)
    shipped = CONFIGURATIONS[kind]
    path = (folder / shipped.name).resolve()
    path.write_text(configuration(shipped.read_text("utf-8"), f"{HOST}:{port}", replicas), "utf-8")
    if kind == "nginx":
        command = [program, "-p", f"{folder.resolve()}/", "-c", str(path), "-e", "stderr", "-g", "daemon off;"]
    else:
        command = [program, "-db", "-f", str(path)]
    # Streams have no end that could be waited for: its stop cuts them, and clients open them anew.
    return ManagedProcess(kind, command, folder / f"{kind}.log", lambda _: accepts(port))
