"""Whether callers have to say who they are, and whether the files by which they are known can be used."""

from __future__ import annotations

from datetime import UTC, datetime

from prometheus_client import CollectorRegistry

from cellserve_server.binding import StartError, identity_warnings
from cellserve_server.config import ServerConfig
from cellserve_server.doctor.findings import SOON, Finding, State, day, heard
from cellserve_server.security.authentication import Authenticator
from cellserve_server.security.tokens import Tokens

AREA = "identity"
# Later than that no date is.
LAST_TIME = datetime.max.replace(tzinfo=UTC).timestamp()


def check_identity(config: ServerConfig, now: datetime) -> list[Finding]:
    """Looks at the files of tokens and keys as a server would read them.

    Args:
        now: by which tokens are good or not.
    """
    warnings = [
        Finding(AREA, State.WARNING, f"{event.replace('_', ' ')}: {host}", advice)
        for event, host, advice in identity_warnings(config)
    ]
    if not config.has_identity:
        return warnings or [Finding(AREA, State.OK, "nobody is asked who he is: everybody is the tenant 'default'")]
    with heard(AREA) as said:
        try:
            authenticator = Authenticator(config, CollectorRegistry(), now.timestamp)
        except StartError as error:
            return [Finding(AREA, State.WRONG, str(error))]
    asked = [
        Finding(AREA, State.OK, f"{flag}: {value}")
        for flag, value in (
            ("--jwks-file", config.jwks_file),
            ("--tls-tenant-from", config.tls_tenant_from),
        )
        if value
    ]
    tokens = [] if authenticator.tokens is None else [_check_tokens(config, authenticator.tokens, now)]
    return [*tokens, *asked, *warnings, *said]


def _check_tokens(config: ServerConfig, tokens: Tokens, now: datetime) -> Finding:
    """How many can still be shown, and until when."""
    good = sorted(time for time in tokens.expire_times() if time > now.timestamp())
    what = f"--tokens-file: {config.tokens_file}: {len(good)} of {tokens.count} tokens are good"
    advice = "`cellserve token new --append` puts a new one in; it is read without a restart"
    if not good:
        others = config.jwks_file or config.tls_tenant_from
        return Finding(AREA, State.WARNING if others else State.WRONG, f"{what}: nobody comes in by one", advice)
    what += f"; the next one ends {_end(good[0])}, the last one {_end(good[-1])}"
    if good[-1] < (now + SOON).timestamp():
        return Finding(AREA, State.WARNING, what, advice)
    return Finding(AREA, State.OK, what)


def _end(time: float) -> str:
    return "never" if time > LAST_TIME else day(datetime.fromtimestamp(time, UTC))
