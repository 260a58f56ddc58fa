"""Finds out who calls: by a token, or by the certificate of a client."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import structlog
from prometheus_client import CollectorRegistry

from cellserve_server.config import ServerConfig
from cellserve_server.metrics.identity import IdentityMetrics
from cellserve_server.security.certificates import CertificateFiles
from cellserve_server.security.client_certificates import Vouching, identity_in, read_chain
from cellserve_server.security.grants import FOR_ANYBODY, REFUSALS, Clock, CredentialsError, Grant, GrantCache
from cellserve_server.security.identity import Identity
from cellserve_server.security.jwts import Expected, SigningKeys, read_keys, require_library, verify
from cellserve_server.security.tokens import Tokens, digest_of, missing_token, read_tokens, unknown_token
from cellserve_server.security.watched_file import WatchedFile

AUTHORIZATION = "authorization"
# Longer headers do not come through HTTP/2 anyway.
MAX_TOKEN_CHARS = 8192
# How often files are looked at, and streams whose callers may no longer be good.
REFRESH_S = 1.0
# Of those who are not let in, at most one line in so long; the metric counts all.
LOG_INTERVAL_S = 1.0

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
AuthContext: TypeAlias = Mapping[str, Iterable[bytes]]


class Authenticator:
    """Finds out who calls. For any thread.

    Args:
        config: how.
        registry: where it is shown who is refused.
        clock: unix seconds, as the world has them: tokens are good until a time.
        certificates: of TLS, who issues clients' among them; None: no client has one to show.

    Raises:
        StartError: a file cannot be read, or is not what it should be.
    """

    def __init__(
        self,
        config: ServerConfig,
        registry: CollectorRegistry,
        clock: Clock,
        certificates: CertificateFiles | None = None,
    ) -> None:
        self.metrics = IdentityMetrics(registry, REFUSALS)
        self._clock = clock
        self._place = config.tls_tenant_from
        self._certificates = certificates if config.tls_tenant_from else None
        self._is_asked = config.has_identity
        self._cache = GrantCache(config.max_remembered_grants)
        self._tokens: WatchedFile[Tokens] | None = None
        self._keys: WatchedFile[SigningKeys] | None = None
        self._expected = Expected(
            config.jwt_issuer, config.jwt_audience, config.jwt_tenant_claim, config.jwt_rights_claim
        )
        self._log = structlog.get_logger("cellserve.identity")
        self._next_line = 0.0
        if config.tokens_file:
            self._tokens = WatchedFile("--tokens-file", config.tokens_file, read_tokens, self.metrics.reloaded)
        if config.jwks_file:
            require_library()
            self._keys = WatchedFile("--jwks-file", config.jwks_file, read_keys, self.metrics.reloaded)

    @property
    def is_asked(self) -> bool:
        """Whether callers have to say who they are."""
        return self._is_asked

    @property
    def tokens(self) -> Tokens | None:
        """Those of the file, as it was read; None: there is no such file."""
        return None if self._tokens is None else self._tokens.current

    def require_good(self, grant: Grant) -> None:
        """Refuses what was good once.

        Raises:
            CredentialsError: it has expired, or is taken back.
        """
        grant.require_good(self._clock())

    def refresh(self) -> None:
        """Reads files again that have changed."""
        for file in (self._tokens, self._keys):
            if file is not None:
                file.refresh()
        if self._certificates is not None:
            self._certificates.current()

    def refusal(self, metadata: Metadata) -> CredentialsError | None:
        """Why whoever makes an RPC is nobody who is known, where what came with it says so without its certificate."""
        has_token = any(key == AUTHORIZATION for key, _ in metadata)
        if not has_token and self._certificates is not None:
            return None
        try:
            self.of_rpc(metadata, dict)
        except CredentialsError as error:
            return error
        return None

    def of_rpc(self, metadata: Metadata, auth_context: Callable[[], AuthContext]) -> Grant:
        """Who makes an RPC.

        Args:
            metadata: that came with it.
            auth_context: asked for what TLS knows of the caller.

        Raises:
            CredentialsError: nobody who is known.
        """
        if not self._is_asked:
            return FOR_ANYBODY
        shown = [value for key, value in metadata if key == AUTHORIZATION]
        if not shown and self._certificates is not None:
            return self._of_certificate(auth_context(), self._certificates)
        if not shown:
            raise missing_token()
        if len(shown) > 1:
            raise CredentialsError("malformed", f"authorization: expected it once; got it {len(shown)} times")
        return self.of_header(shown[0])

    def of_header(self, value: str | bytes) -> Grant:
        """Who shows the value of an ``Authorization``: ``Bearer``, or ``Basic`` with the token as the password.

        Raises:
            CredentialsError: nobody who is known.
        """
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        if not text:
            raise missing_token()
        scheme, _, token = text.strip().partition(" ")
        if scheme.lower() == "basic":
            token = _password(token)
        elif scheme.lower() != "bearer":
            raise CredentialsError("malformed", "authorization: expected 'Bearer' and a token; got another scheme")
        if not 0 < len(token) <= MAX_TOKEN_CHARS or not token.isascii():
            raise CredentialsError(
                "malformed", f"authorization: expected a token of at most {MAX_TOKEN_CHARS} ASCII characters"
            )
        return self._of_token(token)

    def note(self, error: CredentialsError, peer: str) -> None:
        """Counts that somebody was refused, and logs it unless there was a line just now.

        Args:
            error: why.
            peer: from where; never what was shown.
        """
        self.metrics.refused(error.why)
        now = self._clock()
        if now >= self._next_line:
            self._next_line = now + LOG_INTERVAL_S
            self._log.warning("authentication_failed", why=error.why, peer=peer, error=error.message)

    def _of_token(self, token: str) -> Grant:
        digest = digest_of(token)
        grant = self._listed(digest)
        if grant is None and self._keys is not None and token.count(".") == 2:
            grant = self._cached(digest) or self._signed(token, digest, self._keys)
        if grant is None:
            raise unknown_token()
        self.require_good(grant)
        return grant

    def _listed(self, digest: bytes) -> Grant | None:
        """Of a token that the file has; looking it up is quicker than a cache."""
        file = self._tokens
        identity = None if file is None else file.current.find(digest)
        if file is None or identity is None:
            return None
        return Grant(identity, lambda: file.current.find(digest) == identity)

    def _signed(self, token: str, digest: bytes, file: WatchedFile[SigningKeys]) -> Grant:
        identity, fingerprint = verify(token, file.current, self._expected)
        return self._keep(digest, identity, lambda: file.current.has(fingerprint))

    def _of_certificate(self, auth_context: AuthContext, files: CertificateFiles) -> Grant:
        pem = next(iter(auth_context.get("x509_pem_cert", ())), None)
        if pem is None:
            raise CredentialsError("missing", "expected a client's certificate or a token; got neither")
        digest = hashlib.sha256(pem).digest()
        grant = self._cached(digest)
        if grant is None:
            try:
                certificate, *others = read_chain(pem, auth_context.get("x509_pem_cert_chain", ()))
                identity = identity_in(certificate, self._place)
            except ValueError:
                raise CredentialsError("certificate", "the client's certificate cannot be read") from None
            stands = Vouching(certificate, others, files)
            if not stands():
                words = "the client's certificate: expected one by an issuer whom this server trusts; got another's"
                raise CredentialsError("revoked", words)
            grant = self._keep(digest, identity, stands)
        self.require_good(grant)
        return grant

    def _cached(self, digest: bytes) -> Grant | None:
        grant = self._cache.get(digest)
        if grant is not None and not (self._clock() < grant.identity.expire_time and grant.stands()):
            self._cache.drop(digest)  # Looked into anew: it may be good by another key.
            return None
        return grant

    def _keep(self, digest: bytes, identity: Identity, stands: Callable[[], bool]) -> Grant:
        grant = Grant(identity, stands)
        self._cache.put(digest, grant)
        return grant


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode("ascii").partition(":")[2]
    except (binascii.Error, ValueError):
        raise CredentialsError("malformed", "authorization: expected 'Basic' and base64; got something else") from None
