"""The load tester, for programs and for tests of one's own::

    from cellserve_client.load import LoadPlan, run_load

    document = run_load(LoadPlan("localhost:50051", model="speaker-id", rate=200, seconds=5, slo="p99<20ms"))
    assert document.failure is None and document.slo.held

Needs the extra ``cli``.
"""

from cellserve_client.load.collector import Progress
from cellserve_client.load.document import LoadDocument
from cellserve_client.load.plan import LoadPlan
from cellserve_client.load.runner import run_load, run_load_async

__all__ = ["LoadDocument", "LoadPlan", "Progress", "run_load", "run_load_async"]
