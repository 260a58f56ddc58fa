"""What the machine, or the container, gives a server: open files, memory, the clock."""

from __future__ import annotations

import os
import resource
from datetime import UTC, datetime
from pathlib import Path

from cellserve_server.config import MIB, ServerConfig
from cellserve_server.doctor.findings import Finding, State

AREA = "machine"
# Each connection is an open file. Servers of a few hundred clients need no more.
FEW_FILES = 4096
# What a server takes without any session.
BARE_BYTES = 200 * MIB
# This was written then: a clock that shows less is wrong.
WRITTEN = datetime(2026, 1, 1, tzinfo=UTC)
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def check_machine(config: ServerConfig, now: datetime) -> list[Finding]:
    """Looks at the limits of this process, which a server started in the same way has too.

    Args:
        now: what the clock says.
    """
    return [_open_files(), _memory(config), _clock(now)]


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FEW_FILES:
        shown = "without limit" if soft == resource.RLIM_INFINITY else f"up to {soft:,}"
        return Finding(AREA, State.OK, f"open files and connections: {shown}")
    return Finding(
        AREA,
        State.WARNING,
        f"open files: a process may have {soft:,} (at most {hard:,}); each connection is one, and more are not taken",
        f"ulimit -n {FEW_FILES}, or LimitNOFILE= of its unit, if there are hundreds of clients",
    )


def _memory(config: ServerConfig) -> Finding:
    # Tables grow by doubling, hence twice.
    wanted = 2 * config.max_state_bytes + config.max_queued_bytes + BARE_BYTES
    there, whose = _memory_limit()
    sizes = f"memory: {there / MIB:,.0f} MiB {whose}; the limits allow a server {wanted / MIB:,.0f} MiB"
    if wanted <= there:
        return Finding(AREA, State.OK, sizes)
    return Finding(
        AREA,
        State.WARNING,
        f"{sizes}: one that is full would be ended by the system",
        "lower --max-state-bytes (it counts twice) or --max-queued-bytes",
    )


def _memory_limit() -> tuple[int, str]:
    """How many bytes there are, and of whom."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        text = CGROUP_LIMIT.read_text().strip()
    except OSError:
        return machine, "in this machine"
    if text.isdecimal() and int(text) < machine:
        return int(text), "in this container"
    return machine, "in this machine"


def _clock(now: datetime) -> Finding:
    if now < WRITTEN:
        what = f"{now.isoformat(timespec='seconds')} is long over, and certificates and expiries go by this clock"
        return Finding("clock", State.WRONG, what, "set it, by NTP")
    return Finding("clock", State.OK, now.isoformat(timespec="seconds"))
