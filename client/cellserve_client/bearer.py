"""The token by which a client says who it is. It is in no message of an error, no log and no ``repr``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from cellserve.errors import FieldInvalidError
from cellserve_client.address import Address
from cellserve_client.tls import file_signature

TOKEN_FILE_VARIABLE = "CELLSERVE_TOKEN_FILE"
AUTHORIZATION = "authorization"
# Peers refuse headers above 8 KiB in all.
MAX_TOKEN_CHARS = 4096
# A token as RFC 6750 writes it (b64token).
_FORM = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


class BearerToken:
    """A token, or the file in which the present one stands.

    A file is read again when it has changed, so that a token can be replaced while the client runs: requests have the
    new one from then on, streams when they begin. While it cannot be read or is empty, as a file is that is being
    written, the token before stays.

    Args:
        token: the token, or the path of its file.

    Raises:
        FieldInvalidError: it is no token, or the file cannot be read or has none.
    """

    def __init__(self, token: str | Path) -> None:
        self._file = token if isinstance(token, Path) else None
        self._signature: tuple[int, int, int] | None = None
        self._metadata: tuple[tuple[str, str], ...] = ()
        if self._file is not None:
            self._signature = file_signature(self._file)
            self._metadata = _metadata_of("token_file", _read(self._file))
        else:
            self._metadata = _metadata_of("token", str(token))

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What is sent beside a request."""
        if self._file is not None and (signature := file_signature(self._file)) not in (self._signature, None):
            try:
                self._metadata = _metadata_of("token_file", _read(self._file))
            except FieldInvalidError:
                return self._metadata  # It is being written; asked again with the next request.
            self._signature = signature
        return self._metadata

    def require_private(self, address: Address, has_tls: bool) -> None:
        """Refuses to show the token to a network.

        Raises:
            FieldInvalidError: the server is on another machine, perhaps, and there is no TLS.
        """
        if not has_tls and not address.is_loopback:
            raise FieldInvalidError(
                f"token: expected TLS to {address.target}, without which others can read the token on its way; "
                "connect(..., tls=True), or CELLSERVE_TLS=1, speaks TLS"
            )


def token_from(token: str | Path | None, environment: Mapping[str, str]) -> BearerToken | None:
    """What was asked for; None: what ``CELLSERVE_TOKEN_FILE`` names. An empty token: none, whatever it names.

    Raises:
        FieldInvalidError: as of ``BearerToken``.
    """
    if token is None:
        file = environment.get(TOKEN_FILE_VARIABLE)
        return BearerToken(Path(file)) if file else None
    return None if token == "" else BearerToken(token)


def _metadata_of(name: str, token: str) -> tuple[tuple[str, str], ...]:
    if len(token) > MAX_TOKEN_CHARS or not _FORM.fullmatch(token):
        raise FieldInvalidError(
            f"{name}: expected a token, 1 to {MAX_TOKEN_CHARS} of the characters A-Z a-z 0-9 - . _ ~ + /, and = at its "
            "end; got something else, which is not shown"
        )
    return ((AUTHORIZATION, f"Bearer {token}"),)


def _read(file: Path) -> str:
    try:
        with open(file, "rb") as opened:
            return opened.read(MAX_TOKEN_CHARS + 2).decode("ascii", "replace").strip()
    except OSError as error:
        raise FieldInvalidError(f"token_file: cannot read {str(file)!r}: {error.strerror}") from error
