"""What can go wrong with a fleet."""

from __future__ import annotations


class FleetError(Exception):
    """Something of the fleet did not start, did not stop, or is not as it has to be; the message is for people."""


class MissingProgramError(FleetError):
    """A program that the fleet consists of is not installed."""
