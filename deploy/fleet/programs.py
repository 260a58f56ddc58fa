"""The programs that a fleet consists of beside CellServe: where they are, and what to install when they are not."""

from __future__ import annotations

import os
import shutil

from deploy.fleet.errors import MissingProgramError

DEBIAN_PACKAGES = {
    "chromedriver": "chromium-driver",
    "haproxy": "haproxy",
    "nginx": "nginx",
    "promtool": "prometheus",
    "redis-server": "redis-server",
}
# Debian keeps servers where the PATH of users who are not root does not look.
MORE_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find_program(name: str) -> str:
    """The path of a program.

    Raises:
        MissingProgramError: naming the Debian package that has it.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *MORE_FOLDERS))
    found = shutil.which(name, path=path)
    if found is None:
        raise MissingProgramError(
            f"{name} is not installed; on Debian: apt-get install {DEBIAN_PACKAGES.get(name, name)}"
        )
    return found
