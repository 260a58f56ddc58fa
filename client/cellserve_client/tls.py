"""TLS as the client sets it up: whom it trusts, what it shows of itself, and what is wrong with the files for it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

from cellserve.errors import FieldInvalidError

TLS_VARIABLE = "CELLSERVE_TLS"
CA_VARIABLE = "CELLSERVE_TLS_CA"
CERT_VARIABLE = "CELLSERVE_TLS_CERT"
KEY_VARIABLE = "CELLSERVE_TLS_KEY"
SERVER_NAME_VARIABLE = "CELLSERVE_TLS_SERVER_NAME"
MAX_PEM_BYTES = 4 << 20
_YES = ("1", "true", "yes", "on")
_NO = ("0", "false", "no", "off")

File: TypeAlias = str | Path


@dataclass(frozen=True)
class TlsSettings:
    """How a server is spoken to with TLS. The files are in PEM, and read whenever a connection is opened.

    Attributes:
        ca_file: the certificates of those who may have issued the server's; None: those that this machine trusts.
        cert_file: the client's own certificate, its issuers' after it, for servers that ask for one.
        key_file: its key, without a passphrase.
        server_name: the name that the server's certificate is to be for; None: the host of the address.

    Raises:
        FieldInvalidError: a certificate without its key, a key without its certificate, or a name that no host has.
    """

    ca_file: File | None = None
    cert_file: File | None = None
    key_file: File | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            given, missing = ("cert_file", "key_file") if self.key_file is None else ("key_file", "cert_file")
            raise FieldInvalidError(f"tls.{missing}: expected a file, since {given} is given; got none")
        if self.server_name is not None and (not self.server_name or self.server_name.startswith(".")):
            raise FieldInvalidError(f"tls.server_name: expected the name of a host; got {self.server_name!r}")

    def credentials(self) -> grpc.ChannelCredentials:
        """What grpc needs of this, read from the files.

        Raises:
            FieldInvalidError: a file cannot be read, or is not what it should be; the message says which.
        """
        self.context()  # It says what is wrong with the files; grpc only refuses to connect.
        roots = _system_roots() if self.ca_file is None else self.ca_file
        return grpc.ssl_channel_credentials(
            root_certificates=None if roots is None else _read("ca_file", roots),
            private_key=None if self.key_file is None else _read("key_file", self.key_file),
            certificate_chain=None if self.cert_file is None else _read("cert_file", self.cert_file),
        )

    def context(self) -> ssl.SSLContext:
        """The same for Python's own TLS.

        Raises:
            FieldInvalidError: as of ``credentials``.
        """
        context = ssl.create_default_context() if self.ca_file is None else _context_trusting(self.ca_file)
        context.set_alpn_protocols(["h2"])
        if self.cert_file is not None and self.key_file is not None:
            _load_pair(context, self.cert_file, self.key_file)
        return context

    def signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Changes when one of the files does."""
        return tuple(file_signature(file) for file in (self.ca_file, self.cert_file, self.key_file) if file is not None)


def settings_from(tls: TlsSettings | bool | None, environment: Mapping[str, str]) -> TlsSettings | None:
    """What was asked for; None: what the environment says.

    Args:
        tls: True: with what this machine trusts; False: no TLS, whatever the environment says.
        environment: ``CELLSERVE_TLS`` (1 or 0) and ``CELLSERVE_TLS_CA``, ``_CERT``, ``_KEY``, ``_SERVER_NAME``; any of
            these four means TLS too.

    Returns:
        None: no TLS.

    Raises:
        FieldInvalidError: an argument or a variable is not of its form.
    """
    if isinstance(tls, TlsSettings):
        return tls
    if tls is not None:
        return TlsSettings() if tls else None
    word = environment.get(TLS_VARIABLE, "").strip().lower()
    if word not in ("", *_YES, *_NO):
        raise FieldInvalidError(f"{TLS_VARIABLE}: expected 1 or 0; got {word!r}")
    names = (CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE, SERVER_NAME_VARIABLE)
    values = [environment.get(name) or None for name in names]
    if (word in _NO and word) or not (word or any(values)):
        return None
    return TlsSettings(*values)


def file_signature(file: File) -> tuple[int, int, int] | None:
    """Changes when a file does; None: it is not there."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _system_roots() -> Path | None:
    """The file of the certificates that this machine trusts; None: it has none that Python knows, grpc has its own."""
    found = ssl.get_default_verify_paths().cafile
    return None if found is None else Path(found)


def _context_trusting(ca_file: File) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Between the certificates there may be names, in any alphabet.
    issuers = _read("ca_file", ca_file).decode("ascii", "ignore")
    try:
        context.load_verify_locations(cadata=issuers)
    except (ssl.SSLError, ValueError) as error:
        raise FieldInvalidError(f"tls.ca_file: expected certificates in PEM; {str(ca_file)!r} has none") from error
    return context


def _load_pair(context: ssl.SSLContext, cert_file: File, key_file: File) -> None:
    # Of a file that is not there OpenSSL does not say which it is.
    _read("cert_file", cert_file)
    _read("key_file", key_file)

    def no_passphrase() -> str:
        raise FieldInvalidError(f"tls.key_file: expected a key without a passphrase; {str(key_file)!r} has one")

    try:
        context.load_cert_chain(cert_file, key_file, no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise FieldInvalidError(
                f"tls.key_file: expected the key of the certificate in {str(cert_file)!r}; {str(key_file)!r} has not"
            ) from error
        raise FieldInvalidError(
            f"tls.cert_file, tls.key_file: expected a certificate and its key in PEM; got {str(cert_file)!r} and "
            f"{str(key_file)!r}"
        ) from error


def _read(name: str, file: File) -> bytes:
    try:
        with open(file, "rb") as opened:
            content = opened.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise FieldInvalidError(f"tls.{name}: cannot read {str(file)!r}: {error.strerror}") from error
    if len(content) > MAX_PEM_BYTES:
        raise FieldInvalidError(f"tls.{name}: expected at most {MAX_PEM_BYTES} bytes; {str(file)!r} has more")
    return content
