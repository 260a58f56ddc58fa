"""``python -m tests.deploy.watched_server ...``: ``cellserve ...``, which tells when it starts a program, or writes.

Each is a line on standard error. What libraries in C do by themselves is not seen.
"""

from __future__ import annotations

import os
import sys

MARK = "watched: "
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "tempfile.mkstemp")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def watch(event: str, arguments: tuple[object, ...]) -> None:
    """Python's audit hook."""
    if event == "open":
        path, _, flags = arguments
        if not isinstance(flags, int) or not flags & WRITING or path in (os.devnull, 1, 2):
            return
    elif event not in PROGRAMS and event not in CHANGES:
        return
    sys.stderr.write(f"{MARK}{event} {arguments!r}\n")


if __name__ == "__main__":
    sys.addaudithook(watch)
    from cellserve.__main__ import main

    sys.exit(main(sys.argv[1:]))
