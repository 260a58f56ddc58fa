"""What a run of garbage ends with: one line of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

MIB = 1 << 20
GROWTH_MIB = 60.0
"""How much larger a process may be at the end: caches of Python and of allocators fill; leaks go on and on."""


@dataclass
class Report:
    """What came of one target.

    Attributes:
        target: what was tried.
        inputs: how many, by what they were sent to.
        findings: what should not have been, in words.
        endings: how often each status came of it.
        slowest_s: the longest that one input took.
        rss_growth_mib: how much the process with the server grew after the first tenth of the inputs.
        files_left, threads_left: how many more the process has at the end.
    """

    target: str
    inputs: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    endings: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    rss_growth_mib: float = 0.0
    files_left: int = 0
    threads_left: int = 0

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def line(self) -> str:
        """The report as one line."""
        document = {**asdict(self), "inputs_in_all": sum(self.inputs.values()), "passed": self.passed}
        return json.dumps(document)
