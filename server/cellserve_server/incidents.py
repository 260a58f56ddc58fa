"""Bugs of ours: the log gets everything, the caller an id to find it by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cellserve.errors import InternalError


def internal_error(
    log: Any, new_id: Callable[[], str], error: BaseException, where: Mapping[str, object]
) -> InternalError:
    """Logs a bug as ``internal_error`` and makes what the caller sees of it.

    Args:
        log: a logger of structlog.
        new_id: makes the id of the incident.
        error: what was raised; its traceback goes to the log alone.
        where: more fields of the log line, such as the method or the model.

    Returns:
        An error whose message and metadata have the id, and nothing of ``error``.
    """
    incident = new_id()
    log.error("internal_error", incident=incident, exc_info=error, **where)
    return InternalError(f"internal error {incident}; the server's log says more", metadata={"incident": incident})
