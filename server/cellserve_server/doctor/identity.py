"""Whether callers have to say who they are, and whether the files by which they are known can be used."""

from __future__ import annotations

from datetime import datetime

from prometheus_client import CollectorRegistry

from cellserve_server.binding import StartError, identity_warnings
from cellserve_server.config import ServerConfig
from cellserve_server.doctor.findings import Finding, State, heard
from cellserve_server.security.authentication import Authenticator

AREA = "identity"


def check_identity(config: ServerConfig, now: datetime) -> list[Finding]:
    """Looks at the files of tokens and keys as a server would read them.

    Args:
        now: by which tokens are good or not.
    """
    warnings = [
        Finding(AREA, State.WARNING, event.replace("_", " "), advice) for event, advice in identity_warnings(config)
    ]
    if not config.has_identity:
        return warnings or [Finding(AREA, State.OK, "nobody is asked who he is: everybody is the tenant 'default'")]
    with heard(AREA) as said:
        try:
            Authenticator(config, CollectorRegistry(), now.timestamp)
        except StartError as error:
            return [Finding(AREA, State.WRONG, str(error))]
    asked = [
        Finding(AREA, State.OK, f"{flag}: {value}")
        for flag, value in (
            ("--tokens-file", config.tokens_file),
            ("--jwks-file", config.jwks_file),
            ("--tls-tenant-from", config.tls_tenant_from),
        )
        if value
    ]
    return [*asked, *warnings, *said]
