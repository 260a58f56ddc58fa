"""A server's certificates as grpc takes them: for those who connect to it, and for its own way to other replicas."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import grpc.aio

from cellserve_server.security.certificates import CertificateFiles, Certificates

# Where grpc looks for the name that a certificate is to be for, in place of the address's host.
SERVER_NAME_OPTION = "grpc.ssl_target_name_override"


def server_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """For a server's port: TLS 1.2 or newer. Who connects after the files have changed meets what they hold by then.

    Clients must show a certificate where the settings name who issues them.
    """
    given = files.current()
    requires_clients = given.client_ca is not None

    def newer() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        found = files.current()
        if found is given:
            return None
        given = found
        return _configuration(found)

    # It takes None for "no change", which the typings do not know.
    return grpc.dynamic_ssl_server_credentials(_configuration(given), newer, requires_clients)  # type: ignore[arg-type]


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pair = (certificates.key, certificates.chain)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=certificates.client_ca)


class PeerChannels:
    """Opens connections to other replicas.

    Args:
        files: this replica's certificate, which it shows to the others; None: they are spoken to without TLS.
        server_name: the name that their certificates are for; empty: the host of the address.
    """

    def __init__(self, files: CertificateFiles | None, server_name: str = "") -> None:
        self._files = files
        self._server_name = server_name

    def version(self) -> object:
        """Another object when connections are to be opened anew, since the certificates have changed."""
        return None if self._files is None else self._files.current()

    def open(self, address: str, options: Sequence[tuple[str, str | int]]) -> grpc.aio.Channel:
        """A new connection.

        Args:
            address: ``host:port`` of the other replica.
            options: of grpc.
        """
        if self._files is None:
            return grpc.aio.insecure_channel(address, options=options)
        found = self._files.current()
        credentials = grpc.ssl_channel_credentials(found.peer_ca, found.key, found.chain)
        named = [(SERVER_NAME_OPTION, self._server_name)] if self._server_name else []
        return grpc.aio.secure_channel(address, credentials, options=[*options, *named])
