"""Tokens and their files, for tests of servers that ask who calls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cellserve_server.config import ServerConfig
from cellserve_server.security.tokens import line_of, new_token
from tests.servers import TEST_CONFIG


def metadata_of(token: str) -> tuple[tuple[str, str], ...]:
    """What goes with an RPC of whoever has a token."""
    return (("authorization", f"Bearer {token}"),)


@dataclass(frozen=True)
class TokenBook:
    """A file of tokens."""

    path: Path
    lines: list[str]

    @classmethod
    def at(cls, path: Path) -> TokenBook:
        """An empty one."""
        path.write_text("", encoding="utf-8")
        path.chmod(0o600)
        return cls(path, [])

    def issue(self, tenant: str, *rights: str, expire_time: float | None = None) -> str:
        """Makes a token and puts its line in."""
        token = new_token()
        expires = None if expire_time is None else datetime.fromtimestamp(expire_time, UTC)
        self.lines.append(line_of(token, tenant, frozenset(rights), expires))
        self._write()
        return token

    def take_back(self, place: int) -> None:
        """Takes a line out, in the order of issuing."""
        del self.lines[place]
        self._write()

    def config(self, config: ServerConfig = TEST_CONFIG) -> ServerConfig:
        """Settings of a server that knows these tokens."""
        return replace(config, tokens_file=str(self.path))

    def _write(self) -> None:
        # Beside its place first: a server that looks meanwhile finds a whole file.
        part = self.path.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")
        part.chmod(0o600)
        part.replace(self.path)
