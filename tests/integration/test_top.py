"""`cellserve top` on real servers: its screen, driven by keys, and what it prints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from cellserve.errors import FieldInvalidError
from cellserve_client import Server, connect, rnn
from cellserve_client.cli.top import main
from cellserve_client.connection import ConnectionSettings
from cellserve_client.top.detail_screen import DetailScreen
from cellserve_client.top.live_table import LiveTable
from cellserve_client.top.reading import Asked
from cellserve_client.top.screen import TopApp
from cellserve_client.top.watch import SHARED_HOST, Watch
from cellserve_server.config import ServerConfig
from tests.clocks import ManualClock
from tests.servers import TEST_CONFIG, LoopThread, RunningApp, running_app, server_process
from tests.tools import ROOT

WITH_PAGE = replace(TEST_CONFIG, http_port=0)
UNITS, DEPTH = 4, 3
ANSWER_TIMEOUT_S = 20.0
IDS = ("alpha", "beta", "gamma")


class Stage:
    """A server with three sessions, which tests step, and a watch on it with the same clock."""

    def __init__(self, server: RunningApp, remote: Server, watch: Watch, clock: ManualClock) -> None:
        self.server = server
        self.remote = remote
        self.watch = watch
        self.clock = clock
        cell = remote.cell(
            rnn.MultiRNNCell([rnn.BasicLSTMCell(UNITS), rnn.BasicLSTMCell(UNITS)]), seed=1, input_size=DEPTH
        )
        self.sessions = {}
        for id_ in IDS:
            self.sessions[id_] = cell.session(session_id=id_, batch_size=2)
            clock.advance(10.0)

    def step(self, id_: str, count: int) -> None:
        """Steps a session."""
        self.sessions[id_].run(np.ones((2, count, DEPTH), np.float32), outputs="none")

    def app(self, **asked: Any) -> TopApp:
        """The program, which reads when a key tells it to."""
        return TopApp(self.watch, Asked(**asked), is_paused=True)


@pytest.fixture
def stage(start_server: Callable[[ServerConfig], RunningApp], clock: ManualClock) -> Iterator[Stage]:
    server = start_server(WITH_PAGE)
    with connect(server.address) as remote, watching(server, clock) as watch:
        yield Stage(server, remote, watch, clock)


def watching(server: RunningApp, clock: ManualClock) -> Watch:
    pages = [f"http://127.0.0.1:{server.app.http_port}/metrics"]
    return Watch(ConnectionSettings(server.address, timeout_s=ANSWER_TIMEOUT_S), pages, clock)


def drive(app: TopApp, test: Callable[[Pilot[None]], Awaitable[None]]) -> None:
    """Runs a test with the program on a screen that nobody sees, after it has read once."""

    async def run() -> None:
        async with screen_of(app) as pilot:
            await test(pilot)

    asyncio.run(run())


@asynccontextmanager
async def screen_of(app: TopApp) -> AsyncIterator[Pilot[None]]:
    async with app.run_test(size=(150, 45)) as pilot:
        await settled(pilot)
        yield pilot


async def settled(pilot: Pilot[None]) -> None:
    """Waits until what was begun is read and shown."""
    await pilot.pause()
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


async def press(pilot: Pilot[None], *keys: str) -> None:
    await pilot.press(*keys)
    await settled(pilot)


def rows(pilot: Pilot[None], name: str) -> list[list[str]]:
    """The cells of a table as text."""
    table = pilot.app.screen_stack[-1].query_one(f"#{name}", LiveTable)
    return [[cell.plain for cell in table.get_row_at(index)] for index in range(table.row_count)]


def columns(pilot: Pilot[None], name: str) -> list[str]:
    table = pilot.app.query_one(f"#{name}", LiveTable)
    return [str(column.label) for column in table.ordered_columns]


def ids(pilot: Pilot[None]) -> list[str]:
    return [row[0] for row in rows(pilot, "sessions")]


def words(pilot: Pilot[None], name: str) -> str:
    return str(pilot.app.screen_stack[-1].query_one(f"#{name}", Static).render())


def test_sessions_models_and_the_server_with_their_rates(stage: Stage) -> None:
    async def test(pilot: Pilot[None]) -> None:
        assert sorted(ids(pilot)) == sorted(IDS)
        stage.step("beta", 6)
        stage.step("gamma", 2)
        stage.clock.advance(2.0)
        await press(pilot, "space")
        (server,) = rows(pilot, "replicas")
        assert server[:2] == [stage.server.address, "serving"]
        assert server[2] == "4.0"  # steps a second
        assert server[5:7] == ["0", "3"]  # runs that wait, sessions
        ((name, versions, rate, per_tick, _, sessions, errors),) = rows(pilot, "models")
        assert (name, versions, rate, per_tick, sessions, errors) == ("defined", "1", "4.0", "2.0", "3", "0")
        assert [row[0] for row in rows(pilot, "sessions")] == ["beta", "gamma", "alpha"]
        assert [row[2:5] for row in rows(pilot, "sessions")] == [["2", "6", "3.0"], ["2", "2", "1.0"], ["2", "0", "0"]]
        assert rows(pilot, "sessions")[0][5:] == ["2.0s", "59m58s", "22s"]
        assert "4.0 steps/s" in words(pilot, "summary")
        assert words(pilot, "notes") == ""

    drive(stage.app(), test)


@pytest.mark.slow
def test_keys_sort_reverse_and_filter(stage: Stage) -> None:
    stage.step("alpha", 5)
    stage.step("gamma", 9)

    async def test(pilot: Pilot[None]) -> None:
        await press(pilot, "s")
        assert ids(pilot) == ["gamma", "alpha", "beta"]
        assert columns(pilot, "sessions")[3] == "steps\N{BLACK DOWN-POINTING TRIANGLE}"
        await press(pilot, "r")
        assert ids(pilot) == ["beta", "alpha", "gamma"]
        assert columns(pilot, "sessions")[3] == "steps\N{BLACK UP-POINTING TRIANGLE}"
        await press(pilot, "s", "s")
        assert ids(pilot) == ["gamma", "beta", "alpha"]  # the newest first
        await press(pilot, "slash", *"mm", "enter")
        assert ids(pilot) == ["gamma"]
        assert 'ids with "mm"' in words(pilot, "order")
        await press(pilot, "slash", "x", "escape")
        assert ids(pilot) == ["gamma"]
        await press(pilot, "slash", "backspace", "backspace", "enter")
        assert len(ids(pilot)) == 3
        await press(pilot, "slash", "z", "enter")
        assert ids(pilot) == []
        await press(pilot, "enter")
        assert not isinstance(pilot.app.screen, DetailScreen)

    drive(stage.app(), test)


@pytest.mark.slow
def test_enter_on_a_model_chooses_its_sessions(loop_thread: LoopThread, clock: ManualClock) -> None:
    async def test(pilot: Pilot[None]) -> None:
        assert ids(pilot) == ["reader", "speaker"]
        pilot.app.query_one("#models").focus()
        await press(pilot, "down", "enter")
        assert "model text" in words(pilot, "order")
        assert ids(pilot) == ["reader"]
        await press(pilot, "enter")
        assert len(ids(pilot)) == 2

    with (
        running_app(loop_thread, replace(WITH_PAGE, models=str(ROOT / "models")), clock) as server,
        connect(server.address) as remote,
        watching(server, clock) as watch,
    ):
        remote.session("text", session_id="reader")
        remote.session("speaker-id", session_id="speaker")
        drive(TopApp(watch, Asked(), is_paused=True), test)


@pytest.mark.slow
def test_models_that_clients_define_are_not_told_apart(stage: Stage) -> None:
    async def test(pilot: Pilot[None]) -> None:
        pilot.app.query_one("#models").focus()
        await press(pilot, "enter")
        assert len(ids(pilot)) == 3

    drive(stage.app(), test)


@pytest.mark.slow
def test_one_session_in_detail(stage: Stage) -> None:
    stage.step("beta", 3)

    async def test(pilot: Pilot[None]) -> None:
        await press(pilot, "s", "enter")
        screen = pilot.app.screen
        assert isinstance(screen, DetailScreen)
        about = words(pilot, "about")
        assert all(part in about for part in ("beta", stage.sessions["beta"].uid, stage.server.address))
        parts = rows(pilot, "state")
        assert [row[0] for row in parts] == ["0.c", "0.h", "1.c", "1.h"]
        c = stage.sessions["beta"].state()[0][0]
        assert parts[0][2] == "2 x 4"
        assert parts[0][3:7] == [f"{value:.3g}" for value in (np.linalg.norm(c), c.min(), c.mean(), c.max())]
        await press(pilot, "s", "slash")  # They are the tables' keys.
        assert pilot.app.screen is screen
        stage.step("beta", 8)
        stage.clock.advance(4.0)
        await press(pilot, "space")
        assert "11" in words(pilot, "about")
        assert "2.0  " in words(pilot, "about").splitlines()[-1]  # steps a second
        stage.sessions["beta"].close()
        await press(pilot, "space")
        assert "deleted" in words(pilot, "trouble")
        await press(pilot, "escape")
        assert ids(pilot) == ["gamma", "alpha"]

    drive(stage.app(), test)


@pytest.mark.slow
def test_pausing_and_the_interval(stage: Stage) -> None:
    async def test(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, TopApp)
        assert "paused" in words(pilot, "summary")
        await press(pilot, "p")
        assert not app.is_paused
        assert "every 1 s" in words(pilot, "summary")
        await press(pilot, "plus", "plus")
        assert "every 5 s" in words(pilot, "summary")
        await press(pilot, *["minus"] * 9)
        assert "every 0.5 s" in words(pilot, "summary")
        await press(pilot, "q")
        assert not app.is_running

    drive(stage.app(), test)


@pytest.mark.slow
def test_it_reads_again_by_itself(stage: Stage) -> None:
    read = asyncio.Event()

    async def test(pilot: Pilot[None]) -> None:
        stage.step("alpha", 2)
        before = stage.watch.read

        def reading(asked: Asked) -> Any:
            loop.call_soon_threadsafe(read.set)
            return before(asked)

        loop = asyncio.get_running_loop()
        stage.watch.read = reading  # type: ignore[method-assign]
        await read.wait()
        await settled(pilot)
        assert {row[0]: row[3] for row in rows(pilot, "sessions")}["alpha"] == "2"

    drive(TopApp(stage.watch, Asked(), interval_s=0.05), test)


def test_a_server_that_goes_and_comes_back(loop_thread: LoopThread, clock: ManualClock) -> None:
    with ExitStack() as stack:
        first = ExitStack()
        server = first.enter_context(running_app(loop_thread, WITH_PAGE, clock))
        port, page = server.app.port, server.app.http_port
        assert page is not None
        watch = stack.enter_context(watching(server, clock))

        async def test(pilot: Pilot[None]) -> None:
            assert rows(pilot, "replicas")[0][1] == "serving"
            await asyncio.to_thread(first.close)
            clock.advance(1.0)
            await press(pilot, "space")
            assert rows(pilot, "replicas")[0][1] == "away"
            assert "connection refused" in words(pilot, "notes")
            again = replace(WITH_PAGE, port=port, http_port=page)
            await asyncio.to_thread(stack.enter_context, running_app(loop_thread, again, clock))
            for _ in range(100):  # gRPC waits a little before it connects again.
                clock.advance(1.0)
                await press(pilot, "space")
                if rows(pilot, "replicas")[0][1] == "serving":
                    break
            assert rows(pilot, "replicas")[0][1] == "serving"
            assert words(pilot, "notes") == ""

        drive(TopApp(watch, Asked(), is_paused=True), test)


@pytest.mark.slow
def test_without_its_page_of_metrics(stage: Stage) -> None:
    settings = ConnectionSettings(stage.server.address, timeout_s=ANSWER_TIMEOUT_S)

    async def test(pilot: Pilot[None]) -> None:
        assert sorted(ids(pilot)) == sorted(IDS)
        assert rows(pilot, "replicas")[0][1:] == ["serving", *["-"] * 9]
        assert rows(pilot, "models") == [["defined", "1", *["-"] * 5]]
        assert all(part in words(pilot, "notes") for part in ("--metrics", "http://127.0.0.1:1/metrics"))

    with Watch(settings, ["http://127.0.0.1:1/metrics"], stage.clock) as watch:
        drive(TopApp(watch, Asked(), is_paused=True), test)


@pytest.mark.slow
def test_several_replicas(stage: Stage, start_server: Callable[[ServerConfig], RunningApp]) -> None:
    other = start_server(WITH_PAGE)
    both = f"{stage.server.address},{other.address}"
    with pytest.raises(FieldInvalidError, match="2 addresses; got 1"):
        Watch(ConnectionSettings(both), ["http://localhost/metrics"])
    with Watch(ConnectionSettings(both)) as watch:
        assert {replica.page_trouble for replica in watch.read(Asked()).replicas} == {SHARED_HOST}
    with connect(other.address) as remote:
        remote.cell(rnn.GRUCell(UNITS), seed=1, input_size=DEPTH).session(session_id="delta")
    pages = [f"http://127.0.0.1:{server.app.http_port}/metrics" for server in (stage.server, other)]

    async def test(pilot: Pilot[None]) -> None:
        assert [row[6] for row in rows(pilot, "replicas")] == ["3", "1"]
        assert rows(pilot, "models")[0][5] == "4"
        assert {row[0]: row[-1] for row in rows(pilot, "sessions")} == {
            **dict.fromkeys(IDS, stage.server.address),
            "delta": other.address,
        }
        await press(pilot, "s", "s", "s", "enter")  # the newest first
        assert "delta" in words(pilot, "about")

    with Watch(ConnectionSettings(both, timeout_s=ANSWER_TIMEOUT_S), pages, stage.clock) as watch:
        drive(TopApp(watch, Asked(), is_paused=True), test)


@pytest.mark.slow
def test_one_page_of_text_and_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    with server_process(["--http-port", "0"]) as server, connect(server.address) as remote:
        page = next(line for line in server.errors().splitlines() if "metrics_page" in line)
        url = json.loads(page)["url"]
        remote.cell(rnn.BasicLSTMCell(UNITS), seed=1, input_size=DEPTH).session(session_id="only")
        assert main([server.address, "--metrics", url, "--sort", "steps"]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        assert all(part in printed.out for part in (server.address, "serving", "defined", "only", "steps/s"))
        assert main([server.address, "--json", "--metrics", url, "--filter", "nobody"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["sessions"] == []
        assert document["replicas"][0]["sessions"] == 1
        assert document["steps_per_second"] == 0.0


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["localhost:1", "--once"]) == 1
    printed = capsys.readouterr()
    assert "away" in printed.out
    assert "no server answers at localhost:1" in printed.err
    assert main(["localhost", "--once"]) == 1
    assert "address: expected host:port" in capsys.readouterr().err
    assert main(["dns:///replicas:50051", "--once"]) == 1
    assert "each replica is asked by itself" in capsys.readouterr().err


@pytest.mark.slow
def test_the_filter_is_a_line_that_comes_and_goes(stage: Stage) -> None:
    async def test(pilot: Pilot[None]) -> None:
        line = pilot.app.query_one("#filter", Input)
        assert not line.display
        await press(pilot, "slash")
        assert line.display
        assert line.has_focus
        await press(pilot, *"be-")  # Here these are letters.
        assert line.value == "be-"
        await press(pilot, "escape")
        assert not line.display

    drive(stage.app(), test)
