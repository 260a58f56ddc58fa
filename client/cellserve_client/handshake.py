"""Why TLS with a server does not come about, in words.

grpc says so in words of its library's, or only that the connection was closed. So when it could not connect, Python's
own TLS makes one handshake with the same settings, and says what went wrong in that.
"""

from __future__ import annotations

import socket
import ssl
import time

from cellserve_client.address import Address
from cellserve_client.tls import TlsSettings

# How long one connection may take, in seconds.
PROBE_TIMEOUT_S = 2.0
# What a client of HTTP/2 says first, with a frame of settings that sets nothing; and the kind of frame that answers.
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
FRAME_HEADER_BYTES = 9
SETTINGS_FRAME = 4
# OpenSSL's numbers of what can be wrong with a certificate.
NOT_YET_VALID, EXPIRED, SELF_SIGNED = 9, 10, 18
UNKNOWN_ISSUER = (2, 19, 20, 21)
WRONG_HOST = (62, 64)


def trouble_with(address: Address, tls: TlsSettings | None) -> str | None:
    """What TLS has to do with it that a server cannot be spoken to. It blocks, for a few seconds at most.

    Args:
        address: the server's.
        tls: as it was tried; None: without TLS.

    Returns:
        What is wrong and what to do, without the server's address; None: TLS is not what is wrong.

    Raises:
        FieldInvalidError: a file for TLS cannot be used any more.
    """
    try:
        # Asked twice: a server that is about to stop may close a connection which it has just taken, and then is gone.
        return _look(address, tls) and _look(address, tls)
    except (OSError, UnicodeError):  # The last is that of a host which cannot be any; those of ssl are OSErrors.
        return None  # Nobody listens there, or no more: TLS is not what is wrong.


def _look(address: Address, tls: TlsSettings | None) -> str | None:
    return _trouble_without(address) if tls is None else _trouble_in_handshake(address, tls)


def _trouble_without(address: Address) -> str | None:
    """Whether a server that does not answer in the clear answers to TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with _connect(address) as plain, context.wrap_socket(plain, server_hostname=_host(address)):
        return "it speaks TLS, and was spoken to without; connect(..., tls=True), or CELLSERVE_TLS=1, speaks TLS"


def _trouble_in_handshake(address: Address, tls: TlsSettings) -> str | None:
    context = tls.context()
    name = tls.server_name or _host(address)
    with _connect(address) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=name) as secured:
                return _trouble_after(secured, tls)
        except ssl.SSLCertVerificationError as error:
            return _trouble_with_certificate(error, address, tls, name)
        except OSError as error:
            if _speaks_in_the_clear(address):
                return "it does not speak TLS; connect(..., tls=False), or CELLSERVE_TLS=0, speaks without"
            if isinstance(error, ssl.SSLError) and error.reason is not None:
                return f"the handshake failed ({error.reason.replace('_', ' ').lower()})"
            raise


def _trouble_after(secured: ssl.SSLSocket, tls: TlsSettings) -> str | None:
    """Whether the server goes on: it looks at a client's certificate when the client is done with the handshake."""
    if secured.selected_alpn_protocol() != "h2":
        return "it speaks TLS, but not HTTP/2 (ALPN h2) over it: expected a server of gRPC, or a proxy for such"
    reason = "it ended the connection after the handshake"
    try:
        secured.sendall(GREETING)
        if secured.recv(FRAME_HEADER_BYTES):
            return None
    except ssl.SSLError as error:
        reason = (error.reason or reason).replace("_", " ").lower()
    except ConnectionError:
        pass  # It was closed before what was sent had been read: the same.
    if tls.cert_file is None:
        return f"it asks for a client's certificate ({reason}); tls.cert_file and tls.key_file name yours"
    return (
        f"it does not accept the client's certificate in {str(tls.cert_file)!r} ({reason}); expected one that is still "
        "good, from an issuer that the server knows"
    )


def _trouble_with_certificate(
    error: ssl.SSLCertVerificationError, address: Address, tls: TlsSettings, name: str
) -> str:
    code = error.verify_code
    issuers = f"tls.ca_file, {str(tls.ca_file)!r}," if tls.ca_file is not None else "this machine"
    if code in (EXPIRED, NOT_YET_VALID):
        now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        what = "has expired" if code == EXPIRED else "is not good yet"
        return f"its certificate, or an issuer's, {what}; the clock here says {now} UTC"
    if code == SELF_SIGNED:
        return (
            f"its certificate is self-signed, and not one that {issuers} trusts; if it is the right one, its own "
            "file will do as tls.ca_file"
        )
    if code in UNKNOWN_ISSUER:
        return (
            f"its certificate is from an issuer whom {issuers} does not trust; tls.ca_file names the file of an "
            "issuer's certificate"
        )
    if code in WRONG_HOST:
        return (
            f"its certificate is for {_names(address, tls)}, not for {name!r}; connect to a name that it is for, or "
            "say tls.server_name if it is the right one"
        )
    return f"its certificate is not trusted: {error.verify_message}"


def _names(address: Address, tls: TlsSettings) -> str:
    """Which hosts a server's certificate is for, in words."""
    context = tls.context()
    context.check_hostname = False
    with _connect(address) as plain, context.wrap_socket(plain) as secured:
        found = secured.getpeercert() or {}
    names = [str(pair[1]) for pair in found.get("subjectAltName", ())]
    return ", ".join(names) or "no host at all"


def _speaks_in_the_clear(address: Address) -> bool:
    """Whether a server answers to HTTP/2 without TLS."""
    with _connect(address) as plain:
        plain.sendall(GREETING)
        header = plain.recv(FRAME_HEADER_BYTES)
    return len(header) > 3 and header[3] == SETTINGS_FRAME


def _connect(address: Address) -> socket.socket:
    return socket.create_connection((_host(address), address.port), PROBE_TIMEOUT_S)


def _host(address: Address) -> str:
    return address.host.strip("[]")
