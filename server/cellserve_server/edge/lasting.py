"""RPCs that last: they end when what their callers have shown is no longer good."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from cellserve_server.security.grants import CredentialsError, Grant


class LastingCalls:
    """The streams that are under way, each with the grant that it began with.

    Args:
        require_good: raises CredentialsError for a grant that is no longer good.
    """

    def __init__(self, require_good: Callable[[Grant], None]) -> None:
        self._require_good = require_good
        self._grants: dict[asyncio.Timeout, Grant] = {}
        self._errors: dict[asyncio.Timeout, CredentialsError] = {}

    def __len__(self) -> int:
        return len(self._grants)

    @contextlib.asynccontextmanager
    async def lasting(self, grant: Grant) -> AsyncIterator[None]:
        """Around a stream.

        Raises:
            CredentialsError: ``look`` has found that the grant is no longer good; what was under way is cancelled.
        """
        limit = asyncio.timeout(None)
        self._grants[limit] = grant
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise  # Somebody else's.
            raise self._errors[limit] from None
        finally:
            del self._grants[limit]
            self._errors.pop(limit, None)

    def look(self) -> None:
        """Ends the streams whose grants are no longer good."""
        now = asyncio.get_running_loop().time()
        for limit, grant in list(self._grants.items()):
            if limit in self._errors:
                continue  # It is ending.
            try:
                self._require_good(grant)
            except CredentialsError as error:
                error.retry_after_s = 0.0  # Whoever has better credentials by now is welcome at once.
                self._errors[limit] = error
                limit.reschedule(now)
