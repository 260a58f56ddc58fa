"""Who may come in, and as whom: TLS, tokens, tenants and their rights."""

from __future__ import annotations

from cellserve_server.security.identity import ADMIN, DEFAULT_TENANT, require_right, tenant_of

__all__ = ["ADMIN", "DEFAULT_TENANT", "require_right", "tenant_of"]
