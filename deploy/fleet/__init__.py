"""A fleet on this machine without containers: Redis, replicas and a proxy, each a process of its own.

``python -m deploy.fleet`` runs one until Ctrl-C. ``Fleet`` is for programs: tests, and scripts that make faults.
"""

from __future__ import annotations

from deploy.fleet.errors import FleetError, MissingProgramError
from deploy.fleet.fleet import Fleet
from deploy.fleet.process import ManagedProcess
from deploy.fleet.proxies import PROXIES, proxy_process
from deploy.fleet.redis_server import RedisServer

__all__ = ["PROXIES", "Fleet", "FleetError", "ManagedProcess", "MissingProgramError", "RedisServer", "proxy_process"]
