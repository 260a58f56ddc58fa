"""A real Prometheus with the rules scrapes real servers that are in a bad way: every alert fires, every panel shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deploy.alert_rules import rules
from tests.deploy.dashboards import Query, label_queries, queries, with_all_chosen
from tests.deploy.provocations import Server, Stage
from tests.programs import require_program

# Seven servers, two Redis and a Prometheus.
pytestmark = pytest.mark.slow
# A busy machine may bring these about by itself: here one stall is enough.
OF_TIME = {"CellServeLoopLag", "CellServeSlowSteps", "CellServeStoreSlow"}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    require_program("redis-server")
    with ExitStack() as stack:
        stage = Stage(Path(tmp_path_factory.mktemp("stage")), stack)
        stage.be_well()
        yield stage


@pytest.fixture(scope="module")
def well(stage: Stage) -> list[tuple[str, str]]:
    """The alerts that fired before anything happened."""
    return sorted(stage.prometheus.firing())


@pytest.fixture(scope="module")
def provoked(stage: Stage, well: list[tuple[str, str]]) -> dict[str, Server]:
    return stage.provoke()


def test_nothing_fires_while_all_is_well(well: list[tuple[str, str]]) -> None:
    assert [(alert, instance) for alert, instance in well if alert not in OF_TIME] == []


@pytest.mark.parametrize("alert", [rule["alert"] for rule in rules()])
def test_the_alert_fires(stage: Stage, provoked: dict[str, Server], alert: str) -> None:
    found = stage.prometheus.wait_firing(alert, provoked[alert].instance)
    words = found["annotations"]["summary"] + found["annotations"]["description"]
    assert provoked[alert].instance in words
    assert "<" not in words
    assert "{{" not in words


@pytest.mark.parametrize("query", queries(), ids=[f"{query.panel}-{number}" for number, query in enumerate(queries())])
def test_the_dashboards_query_gives_something(stage: Stage, provoked: dict[str, Server], query: Query) -> None:
    assert provoked
    stage.prometheus.wait_for(with_all_chosen(query.expression))


@pytest.mark.parametrize(("series", "label"), label_queries())
def test_the_dashboards_variable_has_values(stage: Stage, provoked: dict[str, Server], series: str, label: str) -> None:
    assert provoked
    assert stage.prometheus.label_values(label, with_all_chosen(series))
