"""A look at the file of a SQLite store that changes nothing: where it is, whether it can be used, what has room."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from cellserve_server.stores.sqlite_file import SCHEMA_VERSION, meaning

# Over these SQLite's locks and its shared memory do not work.
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "fuse.sshfs", "9p"}
)
MOUNTS = Path("/proc/self/mounts")


class SqliteLook(NamedTuple):
    """What was seen.

    Attributes:
        trouble: why it cannot be used; empty: it can.
        sessions: records in it, ended ones too; None: there is no file yet, and one can be made.
        file_bytes: of the file and its log.
        free_bytes: of the disk, for this user.
        network: the kind of the file system, if it is another machine's; else empty.
    """

    trouble: str
    sessions: int | None
    file_bytes: int
    free_bytes: int
    network: str


def look_at(path: str, timeout_s: float) -> SqliteLook:
    """Looks at a file, which may be another server's that runs.

    Args:
        timeout_s: how long another process's lock is waited for.
    """
    file = Path(path)
    folder = file.absolute().parent
    if not folder.is_dir():
        return SqliteLook(f"there is no folder {folder}", None, 0, 0, "")
    free_bytes = shutil.disk_usage(folder).free
    network = _network_of(folder)
    if not file.exists():
        trouble = "" if os.access(folder, os.W_OK | os.X_OK) else f"this user may not write into {folder}"
        return SqliteLook(trouble, None, 0, free_bytes, network)
    file_bytes = sum(part.stat().st_size for part in (file, Path(f"{path}-wal")) if part.exists())
    trouble, sessions = "", 0
    try:
        trouble, sessions = _look_inside(file, timeout_s)
    except sqlite3.Error as error:
        trouble = meaning(error)
    return SqliteLook(trouble, sessions, file_bytes, free_bytes, network)


def _look_inside(file: Path, timeout_s: float) -> tuple[str, int]:
    """What hinders a server, or nothing; and how many records there are.

    Raises:
        sqlite3.Error: the file cannot be read, or not be locked for writing.
    """
    uri = f"{file.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, timeout=timeout_s, isolation_level=None, uri=True)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version > SCHEMA_VERSION:
            return f"a newer CellServe wrote it (schema {version}; this one knows up to {SCHEMA_VERSION})", 0
        if version == 0:
            return ("it is a database of something else" if tables else ""), 0
        connection.execute("BEGIN IMMEDIATE")  # Whether it could be written; it is not.
        try:
            (sessions,) = connection.execute("SELECT count(*) FROM sessions").fetchone()
        finally:
            connection.execute("ROLLBACK")
        return "", sessions


def _network_of(folder: Path) -> str:
    """The kind of the file system that a folder is on, if it is a network's."""
    try:
        mounts = [line.split()[1:3] for line in MOUNTS.read_text(errors="replace").splitlines()]
    except OSError:
        return ""  # No Linux.
    kinds = {Path(where): kind for where, kind in mounts}
    kind = next((kinds[place] for place in (folder.resolve(), *folder.resolve().parents) if place in kinds), "")
    return kind if kind in NETWORK_FILE_SYSTEMS else ""
