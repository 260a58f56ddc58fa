"""Groups: many sessions of one model, stepped by one array."""

from cellserve_client.groups.group import SessionGroup, create_group

__all__ = ["SessionGroup", "create_group"]
