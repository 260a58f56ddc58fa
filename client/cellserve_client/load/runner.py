"""Runs a load test and puts its document together."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cellserve.errors import ModelNotFoundError, ModelNotSteppableError
from cellserve_client import aio
from cellserve_client.load.collector import Collector, Progress
from cellserve_client.load.crew import Crew, first_of
from cellserve_client.load.document import LoadDocument, Target
from cellserve_client.load.inputs import read_inputs
from cellserve_client.load.metrics_watch import MetricsWatch, begin_watch
from cellserve_client.load.objective import judge, parse_objective
from cellserve_client.load.plan import LoadPlan
from cellserve_client.load.verdict import INTERRUPTED, client_of, failed_share, failure_of
from cellserve_client.models import ModelInfo

PROGRESS_INTERVAL_S = 0.5

OnProgress = Callable[[Progress], None]


def run_load(plan: LoadPlan, on_progress: OnProgress | None = None) -> LoadDocument:
    """Runs a test to its end. Sessions that it made are deleted, as far as the server still answers.

    Ctrl-C ends it early: the document says so as its failure. A second one raises ``KeyboardInterrupt``.

    Args:
        on_progress: called twice a second.

    Raises:
        CellServeError: the test could not begin: no server, no such model, inputs that do not fit it; or one of its
            processes was killed. Failures of requests are counted.
    """

    async def run() -> LoadDocument:
        stopping = asyncio.Event()
        with _interrupts(stopping):
            return await _run(plan, on_progress, stopping)

    return asyncio.run(run())


async def run_load_async(plan: LoadPlan, on_progress: OnProgress | None = None) -> LoadDocument:
    """As ``run_load``, within an event loop. When it is cancelled the processes that send end first."""
    return await _run(plan, on_progress, asyncio.Event())


@contextlib.contextmanager
def _interrupts(stopping: asyncio.Event) -> Iterator[None]:
    """Has the first Ctrl-C set an event; those after it do what they did before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)

    def stop() -> None:
        stopping.set()
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


async def _run(plan: LoadPlan, on_progress: OnProgress | None, stopping: asyncio.Event) -> LoadDocument:
    model = await _look_at(plan)
    watch = await begin_watch(plan)
    collector = Collector(plan.measured_s, plan.processes)
    async with Crew(plan, model.resource_name, collector.add) as crew:
        began = await crew.begin(stopping)
        started = datetime.now(UTC) + timedelta(seconds=began + plan.before_s - time.monotonic())
        beside = [asyncio.create_task(_show_progress(plan, collector, began, on_progress))]
        if watch is not None:
            beside.append(asyncio.create_task(watch.watch(began + plan.before_s, plan.measured_s, time.monotonic)))
        try:
            stopped_at = await _until_finished(crew, stopping)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
        for task in beside:
            if not task.cancelled():
                task.result()  # What went wrong in it is not kept secret.
    return await _document(plan, model, collector, watch, began, started, stopped_at)


async def _look_at(plan: LoadPlan) -> ModelInfo:
    """The model; the inputs are read once here, so that what is wrong with them is told before processes start.

    Raises:
        ModelNotSteppableError: it has no sessions.
    """
    async with plan.connection.connect_aio() as server:
        info = (await _choose_model(server, plan.model)).info
    if not _has_sessions(info):
        raise ModelNotSteppableError(f"model: expected one with sessions, which are stepped; {info.name} has none")
    if plan.inputs is not None:
        read_inputs(Path(plan.inputs), info)
    return info


async def _choose_model(server: aio.Server, name: str | None) -> aio.Model:
    """The model that was asked for, or the only one that can be stepped; those that clients defined count only when
    the operator has put none there.

    Raises:
        ModelNotFoundError: there is no such model, or none or several to choose from.
    """
    if name is not None:
        return await server.model(name)
    usable = [info for info in await server.models() if info.state == "READY" and _has_sessions(info)]
    names = {info.name for info in usable if not info.defined} or {info.name for info in usable}
    if len(names) != 1:
        choice = f"there are {', '.join(sorted(names))}" if names else "the server has none that can be stepped"
        raise ModelNotFoundError(f"model: say which one; {choice}")
    return await server.model(names.pop())


def _has_sessions(info: ModelInfo) -> bool:
    return info.steppable and "SESSION" in info.capabilities


async def _until_finished(crew: Crew, stopping: asyncio.Event) -> float | None:
    """Waits for the end. Returns when it was stopped before, in the clock's seconds; None: it was not."""
    finishing = asyncio.ensure_future(crew.finished())
    await first_of(finishing, stopping)
    if not stopping.is_set():
        return None
    stopped_at = time.monotonic()
    crew.stop()
    await crew.finished()
    return stopped_at


async def _show_progress(plan: LoadPlan, collector: Collector, began: float, on_progress: OnProgress | None) -> None:
    while on_progress is not None:
        await asyncio.sleep(PROGRESS_INTERVAL_S)
        seconds = time.monotonic() - began
        on_progress(collector.progress(seconds, plan.before_s + plan.measured_s, seconds > plan.before_s))


async def _document(
    plan: LoadPlan,
    model: ModelInfo,
    collector: Collector,
    watch: MetricsWatch | None,
    began: float,
    started: datetime,
    stopped_at: float | None,
) -> LoadDocument:
    measure_from = began + plan.before_s
    end = max(measure_from + plan.measured_s if stopped_at is None else stopped_at, measure_from)
    # Answers that came after the end took server time too.
    seconds = max(end, collector.last_measured or end) - measure_from
    totals = collector.totals(seconds, end - measure_from if plan.is_open else None)
    latencies = collector.latencies()
    slo = None
    if plan.slo is not None:
        slo = judge(plan.slo, latencies, failed_share(totals), totals.requests_per_second)
    failure = failure_of(
        totals,
        end=end,
        last_answer=collector.last_answer,
        last_failure=collector.last_failure,
        judges_errors=plan.slo is not None and any(limit.what == "errors" for limit in parse_objective(plan.slo)),
    )
    return LoadDocument(
        settings=plan.settings(),
        server=Target(plan.connection.address, model.resource_name),
        started=started.isoformat(timespec="milliseconds"),
        seconds=round(seconds, 3),
        mode="open" if plan.is_open else "closed",
        totals=totals,
        latency_ms=latencies.summary(),
        service_ms=(collector.services() if plan.is_open else latencies).summary(),
        percentiles=latencies.percentiles(),
        histogram=latencies.encoded(),
        by_kind=collector.by_kind(),
        timeline=collector.timeline(plan.is_open, seconds),
        errors=dict(sorted(collector.errors.items())),
        server_metrics=None
        if watch is None
        else await watch.result(collector.all_steps, math.ceil(end - measure_from)),
        client=client_of(plan.processes, collector.busiest_cpu_share(), collector.loop_lag_p99_ms(), plan.is_open),
        stages=plan.parts,
        slo=slo,
        failure=INTERRUPTED if stopped_at is not None else failure,
    )
