"""The tenant that a client's certificate names, once TLS has found the certificate good."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from cellserve_server.security.certificates import CertificateFiles
from cellserve_server.security.grants import CredentialsError
from cellserve_server.security.identity import TENANT_FORM, Identity, is_tenant

# Of the issuers that a client shows along, so many are looked at.
MAX_CHAIN = 8


def read_chain(pem: bytes, chain: Iterable[bytes]) -> list[x509.Certificate]:
    """A client's certificate, and after it its issuers, as far as the client has shown them.

    Args:
        pem: the certificate.
        chain: what came with it, in PEM; grpc has the certificate itself there too or not, by its version.

    Raises:
        ValueError: one cannot be read.
    """
    own = x509.load_pem_x509_certificate(pem)
    shown = b"".join(chain)
    others = x509.load_pem_x509_certificates(shown) if shown else []
    return [own, *[other for other in others if other != own][:MAX_CHAIN]]


class Vouching:
    """Whether a client's certificate is by an issuer who is trusted still. Asks again when the files have changed.

    That the certificate was good in all other ways TLS has found when the connection was made. Which issuer it was is
    not kept: a file that names that issuer anew, or another one of the same key, changes nothing.

    Args:
        certificate: the client's.
        others: what the client has shown along: its issuers, in any order.
        files: name the issuers that are trusted.
    """

    def __init__(
        self, certificate: x509.Certificate, others: Sequence[x509.Certificate], files: CertificateFiles
    ) -> None:
        self._certificate = certificate
        # Somebody else's certificate may bear an issuer's name and key, and is none: TLS went another way then.
        self._others = [other for other in others if _is_authority(other)]
        self._files = files
        self._seen = files.latest
        self._stands = self._is_trusted(self._seen.client_issuers)

    def __call__(self) -> bool:
        found = self._files.latest
        if found is not self._seen:
            self._stands = self._is_trusted(found.client_issuers)
            self._seen = found
        return self._stands

    def _is_trusted(self, issuers: Sequence[x509.Certificate]) -> bool:
        reached = [self._certificate]
        for each in reached:  # It grows: in any order, and along each way where there are several.
            if any(_is_issued_by(each, issuer) for issuer in issuers):
                return True
            reached += [other for other in self._others if other not in reached and _is_issued_by(each, other)]
        return False


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False


def identity_in(certificate: x509.Certificate, place: str) -> Identity:
    """Who shows a certificate. It gives no rights.

    Args:
        certificate: TLS has verified it.
        place: where the tenant stands: ``cn``, the common name of its subject, or ``uri``, one that it is for (as in
            SPIFFE).

    Raises:
        CredentialsError: it does not name one tenant.
    """
    found = _common_names(certificate) if place == "cn" else _uris(certificate)
    if len(found) != 1 or not is_tenant(found[0]):
        what = "common name" if place == "cn" else "URI"
        words = f"the client's certificate: expected one {what}, the tenant: {TENANT_FORM}; got {len(found)}"
        raise CredentialsError("certificate", words if len(found) != 1 else f"{words} of another form")
    return Identity(found[0], expire_time=certificate.not_valid_after_utc.timestamp())


def _common_names(certificate: x509.Certificate) -> list[str]:
    return [str(item.value) for item in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)
