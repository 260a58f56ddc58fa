"""Whether the files of TLS can be used, belong together, and for how long they are good."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

from cryptography import x509
from prometheus_client import CollectorRegistry

from cellserve_server.binding import StartError
from cellserve_server.config import ServerConfig
from cellserve_server.doctor.findings import SOON, Finding, State, day, heard
from cellserve_server.security.certificates import CertificateFiles, names_of

AREA = "TLS"


def check_tls(config: ServerConfig, now: datetime) -> list[Finding]:
    """Looks at the certificates as a server would read them.

    Args:
        now: by which they are good or not.
    """
    if not config.tls_cert:
        return [Finding(AREA, State.OK, "it is not spoken: there is no --tls-cert")]
    with heard(AREA) as said:
        try:
            files = CertificateFiles(config, CollectorRegistry(), now.timestamp)
        except StartError as error:
            return [Finding(AREA, State.WRONG, str(error))]
    current = files.current()
    chain = x509.load_pem_x509_certificates(current.chain)
    found = [_dates("--tls-cert", config.tls_cert, chain[0], now)]
    found += [_dates("--tls-cert, an issuer's", config.tls_cert, issuer, now) for issuer in chain[1:]]
    for flag, path, content in (
        ("--tls-client-ca", config.tls_client_ca, current.client_ca),
        ("--tls-ca", config.tls_ca, current.peer_ca),
    ):
        if path and content is not None:
            found += [_dates(flag, path, each, now) for each in x509.load_pem_x509_certificates(content)]
    # That a certificate is over was found above, with its date.
    return [*found, *_order(config, chain), *(finding for finding in said if finding.state is State.WARNING)]


def _dates(flag: str, path: str, certificate: x509.Certificate, now: datetime) -> Finding:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    names = ", ".join(names_of(certificate)) or certificate.subject.rfc4514_string()
    what = f"{flag}: {path} ({names})"
    if now < begin:
        return Finding(AREA, State.WRONG, f"{what} is not good before {day(begin)}", "is this machine's clock right?")
    if now >= end:
        return Finding(AREA, State.WRONG, f"{what} was good until {day(end)}", "renew it; it is read without a restart")
    left = end - now
    if left < SOON:
        return Finding(AREA, State.WARNING, f"{what} is good for {left.days} more days, until {day(end)}", "renew it")
    return Finding(AREA, State.OK, f"{what} is good until {day(end)}")


def _order(config: ServerConfig, chain: list[x509.Certificate]) -> list[Finding]:
    for own, issuer in pairwise(chain):
        if own.issuer != issuer.subject:
            what = f"--tls-cert: in {config.tls_cert} a certificate is not followed by that of its issuer"
            return [Finding(AREA, State.WRONG, what, "put the server's certificate first, then each one's issuer")]
    return []
