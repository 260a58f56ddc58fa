"""Zip files that a stranger wrote: looked at before anything is read, and read within limits."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType

from cellserve_server.importers.base import ImportRefusedError

MAX_SOURCE_BYTES = 4 << 30
MAX_MEMBERS = 100_000
MAX_MEMBER_NAME_CHARS = 500
MAX_RATIO = 200
"""How much larger than its compressed bytes a member may be; weights hardly compress, text some ten times."""

_ENCRYPTED = 0x1
# What zipfile raises over damaged files: BadZipFile where it looks, and these where it does not.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    RuntimeError,  # NotImplementedError too
)


def require_source_file(source: Path) -> int:
    """The size of a source in bytes.

    Raises:
        ImportRefusedError: it is no regular file, or larger than ``MAX_SOURCE_BYTES``.
    """
    if not source.is_file():
        raise ImportRefusedError(f"{source.name}: expected a file")
    size = source.stat().st_size
    if size > MAX_SOURCE_BYTES:
        raise ImportRefusedError(f"{source.name}: expected at most {MAX_SOURCE_BYTES} bytes; got {size}")
    return size


def member_names(source: Path) -> list[str]:
    """The names in a zip file; none where it is no zip file or a damaged one. Reads nothing else."""
    try:
        with zipfile.ZipFile(source) as archive:
            return archive.namelist()[:MAX_MEMBERS]
    except _DAMAGED:
        return []


class Archive:
    """A zip file, its table of contents checked; to be used in a ``with`` statement.

    Nothing is ever written to disk. What a member may unpack to is bounded before it is read, by its declared size, by
    its ratio to the compressed bytes, and by the size of the whole file; zlib is stopped at the declared size.

    Args:
        source: the file.
        stored_only: refuse compressed members, for formats that never have any.

    Raises:
        ImportRefusedError: it is no whole zip file, has too many members, one name twice, a name that leads out of the
            archive, an encrypted or an implausibly compressed member.
    """

    def __init__(self, source: Path, stored_only: bool = False) -> None:
        self._label = source.name
        size = require_source_file(source)
        try:
            self._zip = zipfile.ZipFile(source)
        except _DAMAGED as error:
            raise ImportRefusedError(
                f"{self._label}: expected a zip archive; it is damaged or cut short: {error}"
            ) from error
        try:
            self._members = self._checked_members(size, stored_only)
        except ImportRefusedError:
            self._zip.close()
            raise

    def _checked_members(self, size: int, stored_only: bool) -> dict[str, zipfile.ZipInfo]:
        infos = self._zip.infolist()
        if len(infos) > MAX_MEMBERS:
            raise ImportRefusedError(f"{self._label}: expected at most {MAX_MEMBERS} members; got {len(infos)}")
        for info in infos:
            self._check_member(info, stored_only)
        members = {info.filename: info for info in infos}
        if len(members) != len(infos):
            raise ImportRefusedError(f"{self._label}: expected each member once; a name stands twice")
        # Members that share their bytes are how a small file unpacks to a huge one without a high ratio each.
        compressed = sum(info.compress_size for info in infos)
        if compressed > size:
            raise ImportRefusedError(
                f"{self._label}: its members overlap: {compressed} compressed bytes in a file of {size}"
            )
        return members

    def _check_member(self, info: zipfile.ZipInfo, stored_only: bool) -> None:
        name = info.filename
        shown = f"{self._label}: member {name[:MAX_MEMBER_NAME_CHARS]!r}"
        # orig_filename: zipfile itself cuts a name at a NUL, and turns the separators of the system round.
        parts = info.orig_filename.replace("\\", "/").split("/")
        if len(name) > MAX_MEMBER_NAME_CHARS or ".." in parts or parts[0] == "" or ":" in parts[0] or "\0" in parts[-1]:
            raise ImportRefusedError(f"{shown}: expected a path within the archive")
        if info.flag_bits & _ENCRYPTED:
            raise ImportRefusedError(f"{shown}: it is encrypted")
        if stored_only and info.compress_type != zipfile.ZIP_STORED:
            raise ImportRefusedError(f"{shown}: expected it uncompressed, as the framework writes it")
        if info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise ImportRefusedError(
                f"{shown}: {info.compress_size} bytes that unpack to {info.file_size}; expected at most "
                f"{MAX_RATIO} times as many"
            )

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zip.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, in the archive's order."""
        return tuple(self._members)

    def read(self, name: str, max_bytes: int) -> bytes:
        """A member's bytes.

        Raises:
            ImportRefusedError: there is no such member, it is larger than ``max_bytes``, or it is damaged.
        """
        if name not in self._members:
            raise ImportRefusedError(f"{self._label}: member {name!r} is missing")
        info = self._members[name]
        if info.file_size > max_bytes:
            raise ImportRefusedError(
                f"{self._label}: member {name!r}: expected at most {max_bytes} bytes; got {info.file_size}"
            )
        try:
            return self._zip.read(info)
        except _DAMAGED as error:
            raise ImportRefusedError(f"{self._label}: member {name!r} is damaged: {error}") from error
