"""What of a Redis server's settings can lose sessions."""

from __future__ import annotations

from typing import Any

import structlog


def warn_of_losses(client: Any, refused: type[Exception], shown_url: str) -> None:
    """Says in the log what of a server's settings can lose sessions.

    Args:
        refused: what the driver raises when the server does not tell.
    """
    log = structlog.get_logger("cellserve.stores.redis")
    settings: dict[str, str] = {}
    try:
        for name in ("maxmemory", "maxmemory-policy", "appendonly", "save"):
            settings.update(client.config_get(name))
    except refused as error:
        log.info("store_settings_unknown", store=shown_url, why=str(error))
        return
    policy = settings.get("maxmemory-policy", "noeviction")
    if policy != "noeviction" and settings.get("maxmemory", "0") != "0":
        log.warning(
            "store_evicts",
            store=shown_url,
            maxmemory_policy=policy,
            consequence="sessions vanish when its memory is full",
            remedy="set maxmemory-policy to noeviction",
        )
    if settings.get("appendonly") == "no" and not settings.get("save"):
        log.warning(
            "store_not_persistent",
            store=shown_url,
            consequence="every session is lost when it restarts",
            remedy="set appendonly to yes",
        )
