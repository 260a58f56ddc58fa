"""What the processes of a load test tell each other, over a pipe."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from cellserve_client.load.plan import LoadPlan
from cellserve_client.load.recorder import Interval


class Assignment(NamedTuple):
    """The first message to a process that sends.

    Attributes:
        plan: of the whole test.
        model: ``models/{model}/versions/{version}``.
        part: the number of this process, from 0.
    """

    plan: LoadPlan
    model: str
    part: int


class Ready(NamedTuple):
    """From a process: its first sessions are open."""


class Begin(NamedTuple):
    """To a process: requests are sent from this moment of the machine's monotonic clock."""

    moment: float


class Stop(NamedTuple):
    """To a process: the test ends now. The last answers are still waited for."""


class Done(NamedTuple):
    """From a process: its sessions are deleted, and all that it counted was told."""


class Failed(NamedTuple):
    """From a process: it could not begin, and why."""

    message: str


FromProcess: TypeAlias = Ready | Interval | Done | Failed
