"""The load tester: sessions in a closed loop, and what came of it. Needs the extra ``cli``."""

from cellserve_client.load.report import LoadReport
from cellserve_client.load.runner import LoadPlan, Progress, run_load

__all__ = ["LoadPlan", "LoadReport", "Progress", "run_load"]
