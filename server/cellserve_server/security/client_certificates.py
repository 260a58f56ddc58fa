"""The tenant that a client's certificate names, once TLS has found the certificate good."""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID

from cellserve_server.security.grants import CredentialsError
from cellserve_server.security.identity import TENANT_FORM, Identity, is_tenant


def identity_in(pem: bytes, place: str) -> Identity:
    """Who shows a certificate. It gives no rights.

    Args:
        pem: the certificate; TLS has verified it.
        place: where the tenant stands: ``cn``, the common name of its subject, or ``uri``, one that it is for (as in
            SPIFFE).

    Raises:
        CredentialsError: it does not name one tenant.
    """
    certificate = x509.load_pem_x509_certificate(pem)
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
