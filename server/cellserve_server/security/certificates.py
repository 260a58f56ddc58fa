"""The files that a server's TLS is made of: read, checked, and read again when they change."""

from __future__ import annotations

import os
import ssl
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from prometheus_client import CollectorRegistry

from cellserve_server.binding import StartError
from cellserve_server.config import ServerConfig
from cellserve_server.metrics.tls import TlsMetrics

# More than that is no certificate, whoever wrote it.
MAX_PEM_BYTES = 4 << 20
# Nobody else is to write the key, and only its group may read it beside its owner.
OTHERS = stat.S_IWGRP | stat.S_IRWXO
# In which public keys are compared.
PUBLIC_FORM = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Certificates:
    """What the files hold, in PEM.

    Attributes:
        chain: the server's certificate, its issuers' after it.
        key: its private key.
        client_ca: who issues clients' certificates; None: clients show none.
        client_issuers: the certificates in it.
        peer_ca: who issues other replicas' certificates; None: those whom grpc trusts.
        names: the hosts that the certificate is for.
        expiry: until when it is good, in unix seconds.
    """

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    client_issuers: tuple[x509.Certificate, ...]
    peer_ca: bytes | None
    names: tuple[str, ...]
    expiry: float


class CertificateFiles:
    """The files, as they are now. Used by several threads: each handshake asks, and each look at the metrics.

    Args:
        config: names them.
        registry: where metrics are shown of what is read again.
        clock: unix seconds.

    Raises:
        StartError: a file cannot be read, or is not what it should be; the message says which.
    """

    def __init__(self, config: ServerConfig, registry: CollectorRegistry, clock: Callable[[], float]) -> None:
        self._config = config
        self._metrics = TlsMetrics(registry)
        self._clock = clock
        self._lock = threading.Lock()
        self._log = structlog.get_logger("cellserve.tls")
        self._signature = self._sign()
        self._current = read_certificates(config)
        self._tell("tls_certificate")
        self._metrics.watch(expiry=lambda: self.current().expiry)

    def current(self) -> Certificates:
        """What the files hold; while they cannot be used, what they held before. The same object until they change."""
        with self._lock:
            if (signature := self._sign()) != self._signature:
                self._signature = signature
                self._read_again()
            return self._current

    @property
    def latest(self) -> Certificates:
        """What they held when somebody last looked, as each handshake does. Looks at no file."""
        return self._current

    def _read_again(self) -> None:
        try:
            self._current = read_certificates(self._config)
        except StartError as error:
            # It may be half of a change: the next look may find the other half.
            self._metrics.reloaded("failed")
            self._log.error("tls_reload_failed", error=str(error), note="the certificate before it stays in use")
            return
        self._metrics.reloaded("ok")
        self._tell("tls_certificate_reloaded")

    def _tell(self, event: str) -> None:
        found = self._current
        until = datetime.fromtimestamp(found.expiry, UTC).isoformat(timespec="seconds")
        tell = self._log.info if found.expiry > self._clock() else self._log.error
        tell(event, file=self._config.tls_cert, names=found.names, good_until=until)
        mode = os.stat(self._config.tls_key).st_mode
        if mode & OTHERS:
            self._log.warning(
                "tls_key_open_to_others",
                file=self._config.tls_key,
                mode=f"{stat.S_IMODE(mode):04o}",
                advice=f"chmod 0600 {self._config.tls_key}",
            )

    def _sign(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Changes when a file does."""
        config = self._config
        return tuple(_sign(path) for path in (config.tls_cert, config.tls_key, config.tls_client_ca, config.tls_ca))


def read_certificates(config: ServerConfig) -> Certificates:
    """Reads the files that the settings name.

    Raises:
        StartError: one cannot be read, or is not what it should be; the message says which.
    """
    chain = _read("--tls-cert", config.tls_cert)
    key = _read("--tls-key", config.tls_key)
    own = _certificates("--tls-cert", config.tls_cert, chain)[0]
    try:
        # What is in a certificate is looked at only when it is asked for.
        public, names, expiry = own.public_key(), names_of(own), own.not_valid_after_utc.timestamp()
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise StartError(
            f"--tls-cert: expected a certificate; that in {config.tls_cert} is damaged: {error}"
        ) from error
    if _public_part(config.tls_key, key) != public.public_bytes(*PUBLIC_FORM):
        raise StartError(
            f"--tls-key: expected the key of the certificate in {config.tls_cert}; {config.tls_key} has another one"
        )
    client_ca = _issuers("--tls-client-ca", config.tls_client_ca)
    return Certificates(
        chain,
        key,
        client_ca,
        tuple(x509.load_pem_x509_certificates(client_ca)) if client_ca else (),
        _issuers("--tls-ca", config.tls_ca or config.tls_client_ca) or machine_roots(),
        names,
        expiry,
    )


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The hosts that a certificate is for: names first, then addresses."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = (str(address) for address in found.get_values_for_type(x509.IPAddress))
    return (*found.get_values_for_type(x509.DNSName), *addresses)


def machine_roots() -> bytes | None:
    """Whom this machine trusts, in PEM; None: Python does not know, and grpc has a list of its own."""
    path = ssl.get_default_verify_paths().cafile
    return None if path is None else Path(path).read_bytes()


def _issuers(flag: str, path: str) -> bytes | None:
    if not path:
        return None
    content = _read(flag, path)
    _certificates(flag, path, content)
    return content


def _certificates(flag: str, path: str, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise StartError(f"{flag}: expected certificates in PEM; {path} has none that can be read") from error


def _public_part(path: str, content: bytes) -> bytes:
    try:
        key = load_pem_private_key(content, None)
    except TypeError as error:
        raise StartError(f"--tls-key: expected a key without a passphrase; {path} has one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise StartError(f"--tls-key: expected a private key in PEM; {path} has none that can be read") from error
    return key.public_key().public_bytes(*PUBLIC_FORM)


def _read(flag: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise StartError(f"{flag}: cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_PEM_BYTES:
        raise StartError(f"{flag}: expected at most {MAX_PEM_BYTES} bytes; {path} has more")
    return content


def _sign(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None  # It is not there, or not named.
    return (found.st_mtime_ns, found.st_size, found.st_ino)
