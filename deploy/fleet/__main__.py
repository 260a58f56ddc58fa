"""``python -m deploy.fleet``: runs a fleet until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import click

from deploy.fleet.errors import FleetError
from deploy.fleet.fleet import Fleet
from deploy.fleet.proxies import PROXIES

ROOT = Path(__file__).resolve().parent.parent.parent
FAILED = 1
POLL_S = 0.1


class StopRequest:
    """Whether somebody has told the program to stop. What is under way is finished first: nothing stays behind."""

    def __init__(self) -> None:
        self.made = False

    def note(self, _: int, __: FrameType | None) -> None:
        """The handler of the signals."""
        self.made = True


@click.command(context_settings={"show_default": True})
@click.option("--replicas", type=click.IntRange(1, 32), default=2, help="How many.")
@click.option("--port", type=click.IntRange(0, 65_535), default=50051, help="The proxy's; 0 picks a free one.")
@click.option("--proxy", type=click.Choice(PROXIES), default="nginx", help="Which proxy.")
@click.option("--models", type=click.Path(path_type=Path, exists=True, file_okay=False), default=ROOT / "models")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".fleet"), help="For logs and Redis's file.")
@click.option("--store", help="As `cellserve serve --store` takes it, instead of a Redis of the fleet's own.")
@click.option("--durability", type=click.Choice(["sync", "async"]), default="sync")
@click.option("--fsync", type=click.Choice(["everysec", "always", "no"]), default="everysec", help="Of that Redis.")
def main(
    replicas: int, port: int, proxy: str, models: Path, folder: Path, store: str | None, durability: str, fsync: str
) -> None:
    """Runs a fleet on this machine without containers: Redis, replicas, and a proxy before them.

    Ctrl-C stops it in order: the proxy, the replicas, which drain, and Redis. A replica that ends by itself, or by a
    `kill -9` of yours, is started again at the same address. Sessions stay in the folder from one run to the next.
    """
    told = StopRequest()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, told.note)
    try:
        fleet = Fleet(
            replicas,
            folder=folder,
            models=models,
            store=store,
            durability=durability,
            fsync=fsync,
            proxy=proxy,
            port=port,
        )
        with fleet:
            print(describe(fleet), flush=True)
            watch(fleet, told)
            print("\nStopping the proxy, the replicas and Redis ...", flush=True)
    except FleetError as error:
        print(f"deploy.fleet: {error}", file=sys.stderr)
        sys.exit(FAILED)


def watch(fleet: Fleet, told: StopRequest) -> None:
    """Starts again what ends, until it is told to stop.

    Raises:
        FleetError: something did not start again.
    """
    while not told.made:
        for process in fleet.processes:
            code = process.exit_code
            if code is not None:
                how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
                print(f"{process.name} ended {how}; starting it again ...", flush=True)
                process.start()
                print(f"{process.name} is back (process {process.pid}).", flush=True)
        time.sleep(POLL_S)


def describe(fleet: Fleet) -> str:
    """The addresses, and what to type next."""
    rows = [("proxy", fleet.proxy_address, fleet.proxy.name if fleet.proxy else "")]
    for replica, address, url in zip(fleet.replicas, fleet.addresses, fleet.metrics_urls, strict=True):
        rows.append((replica.name, address, f"{url}   process {replica.pid}"))
    rows.append(("store", fleet.store, f"append-only file in {fleet.folder}" if fleet.redis else ""))
    rows.append(("logs", f"{fleet.folder}/*.log", ""))
    width = max(len(address) for _, address, _ in rows)
    table = "\n".join(f"  {name:<10} {address:<{width}}  {more}".rstrip() for name, address, more in rows)
    cellserve = Path(sys.executable).parent / "cellserve"
    command = os.path.relpath(cellserve) if cellserve.is_relative_to(Path.cwd()) else str(cellserve)
    return f"""The fleet runs. Ctrl-C stops it.

{table}

In another terminal:
  {command} load {fleet.proxy_address} --sessions 64 --seconds 10 --model speaker-id
  {command} sessions list --address {fleet.proxy_address}
  kill -9 {fleet.replicas[0].pid}   # {fleet.replicas[0].name}: its sessions go on elsewhere, and it comes back
"""


if __name__ == "__main__":
    main(prog_name="python -m deploy.fleet")
