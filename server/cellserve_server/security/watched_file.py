"""A file that is read again when it changes; while what it holds cannot be used, what it held before is."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from cellserve_server.binding import StartError

T = TypeVar("T")
# More than that is no such file, whoever wrote it.
MAX_FILE_BYTES = 16 << 20


class WatchedFile(Generic[T]):
    """A file and what it holds.

    Args:
        flag: the setting that names it, for messages.
        path: where it is.
        parse: makes of its bytes what it holds. Raises ValueError, whose message goes into logs: it is to show nothing
            that is secret.
        on_reload: told when it was read again: whether it could be used.

    Raises:
        StartError: it cannot be read, or is not what it should be.

    Attributes:
        current: what it holds. Replaced as a whole, so that any thread may look at it.
    """

    def __init__(self, flag: str, path: str, parse: Callable[[bytes], T], on_reload: Callable[[bool], None]) -> None:
        self._flag = flag
        self._path = path
        self._parse = parse
        self._on_reload = on_reload
        self._log = structlog.get_logger("cellserve.identity")
        self._signature = signature_of(path)
        self.current: T = self._read()
        if self._signature is not None and os.stat(path).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            self._log.warning("file_open_to_others", file=path, advice=f"chmod go-w {path}")

    def refresh(self) -> None:
        """Reads it again if it has changed."""
        if (signature := signature_of(self._path)) == self._signature:
            return
        self._signature = signature
        try:
            self.current = self._read()
        except StartError as error:
            # It may be half of a change: the next look may find the other half.
            self._log.error("identity_reload_failed", error=str(error), note="what it held before stays in use")
            self._on_reload(False)
            return
        self._log.info("identity_reloaded", file=self._path)
        self._on_reload(True)

    def _read(self) -> T:
        try:
            with open(self._path, "rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise StartError(f"{self._flag}: cannot read {self._path}: {error.strerror}") from error
        if len(content) > MAX_FILE_BYTES:
            raise StartError(f"{self._flag}: expected at most {MAX_FILE_BYTES} bytes; {self._path} has more")
        try:
            return self._parse(content)
        except ValueError as error:
            raise StartError(f"{self._flag}: {self._path}: {error}") from error


def signature_of(path: str) -> tuple[int, int, int] | None:
    """Changes when a file does; None: it is not there, or not to be looked at."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)
