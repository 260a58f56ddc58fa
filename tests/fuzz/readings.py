"""What a process holds, as Linux says it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Reading(NamedTuple):
    """What a process holds at one moment: bytes in memory, open files, threads."""

    rss_bytes: int
    files: int
    threads: int


def reading_of(pid: int | str) -> Reading:
    """What a process of this machine holds; ``self``: this one."""
    folder = Path("/proc") / str(pid)
    pages = int((folder / "statm").read_text().split()[1])
    return Reading(pages * _PAGE_BYTES, len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir())))
