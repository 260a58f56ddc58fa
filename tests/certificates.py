"""A certificate authority for tests, and the files of what it issues."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from cellserve_client import TlsSettings
from cellserve_server.config import ServerConfig

HOSTS = ("localhost", "127.0.0.1")
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
FAR_AHEAD = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key."""

    cert: Path
    key: Path

    def replace_with(self, other: Pair) -> None:
        """Puts another pair's contents in these files, the key first: for a moment the two do not belong together."""
        self.key.write_bytes(other.key.read_bytes())
        self.key.chmod(0o600)
        self.cert.write_bytes(other.cert.read_bytes())


class Authority:
    """Issues certificates.

    Args:
        folder: where their files are to be.

    Attributes:
        file: its own certificate, which those have who trust it.
        key: the key of that.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))
        self.key = folder / "ca.key"
        self._ca.private_key_pem.write_to_path(str(self.key))

    def issue(self, name: str, *hosts: str, until: datetime | None = None, common_name: str | None = None) -> Pair:
        """Issues a certificate.

        Args:
            name: of its files.
            hosts: that it is for; without any, those of this machine.
            until: when it ends; None: in the far future.
            common_name: of its subject; None: it has none.
        """
        return self._write(name, self._ca.issue_cert(*(hosts or HOSTS), not_after=until, common_name=common_name))

    def issue_through_another(self, name: str, common_name: str) -> Pair:
        """Issues a certificate by an authority between, whose own comes after it in the file."""
        return self._write(name, self._ca.create_child_ca().issue_cert(*HOSTS, common_name=common_name))

    def _write(self, name: str, issued: trustme.LeafCert) -> Pair:
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.cert.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(pair.key))
        pair.key.chmod(0o600)
        return pair

    def issue_to_uris(self, name: str, *uris: str) -> Pair:
        """Issues a certificate that is for URIs, as SPIFFE's are.

        Args:
            name: of its files.
        """
        issuer = x509.load_pem_x509_certificate(self.file.read_bytes())
        issuers_key: Any = load_pem_private_key(self.key.read_bytes(), None)
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        signed = (
            x509.CertificateBuilder(issuer.subject, x509.Name([]), key.public_key(), x509.random_serial_number())
            .not_valid_before(LONG_AGO)
            .not_valid_after(FAR_AHEAD)
            .add_extension(names, critical=True)
            .sign(issuers_key, SHA256())
        )
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.cert.write_bytes(signed.public_bytes(Encoding.PEM))
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        pair.key.chmod(0o600)
        return pair

    def trusted(self, own: Pair | None = None, server_name: str | None = None) -> TlsSettings:
        """How a client connects that trusts this authority, and has a certificate of its own or none."""
        if own is None:
            return TlsSettings(self.file, server_name=server_name)
        return TlsSettings(self.file, own.cert, own.key, server_name)


def with_tls(config: ServerConfig, own: Pair, clients: Authority | None = None) -> ServerConfig:
    """Settings of a server that speaks TLS, and asks for its clients' certificates where their issuer is named."""
    config = replace(config, tls_cert=str(own.cert), tls_key=str(own.key))
    return config if clients is None else replace(config, tls_client_ca=str(clients.file))
