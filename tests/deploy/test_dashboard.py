"""The dashboard, as far as it can be checked without Grafana: its form, and that it asks for what there is.

``test_prometheus`` puts every query to a real Prometheus.
"""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import PurePosixPath

from ruamel.yaml import YAML

from tests.deploy.alert_rules import rules
from tests.deploy.dashboards import DASHBOARD, dashboard, label_queries, queries, with_all_chosen
from tests.metrics_pages import documented
from tests.tools import ROOT

PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"
COLUMNS = 24
OF_PROMETHEUS = {"up", "ALERTS"}


def test_panels_have_names_and_places_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert panel["title"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= COLUMNS, panel["title"]
    for one, other in combinations(panels, 2):
        a, b = one["gridPos"], other["gridPos"]
        is_beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        is_below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert is_beside or is_below, f"{one['title']} lies on {other['title']}"


def test_every_panel_asks_the_chosen_source_and_says_in_what_unit() -> None:
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            continue
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources), panel["title"]
        if panel["type"] in ("timeseries", "stat"):
            assert panel["fieldConfig"]["defaults"]["unit"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_the_variables_are_what_the_queries_use() -> None:
    names = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = {name for query in queries() for name in re.findall(r"\$(\w+)", query.expression)}
    assert used - {"__rate_interval"} == names - {"datasource"}
    assert {label for _, label in label_queries()} == names - {"datasource"}
    assert not [query for query in queries() if "$" in with_all_chosen(query.expression)]


def test_what_dashboard_and_alerts_ask_for_is_what_a_server_has() -> None:
    """By name and label: the document's metrics are those of a server's page, which another test sees to."""
    known = documented()
    asked = [query.expression for query in queries()] + [rule["expr"] for rule in rules()]
    asked += [series for series, _ in label_queries()]
    for name, matchers in re.findall(r"\b(\w+)\{([^}]*)\}", " ".join(asked)):
        if name in OF_PROMETHEUS:
            continue
        kind, labels = known[name] if name in known else known[re.sub(r"_(bucket|sum|count)$", "", name)]
        assert (kind == "histogram") == (name not in known), name
        assert set(re.findall(r"(\w+) ?[=!]", matchers)) <= labels | {"instance", "job"}, f"{name}: {matchers}"
    shown = set(re.findall(r"\b(?:cellserve|process)_\w+", " ".join(asked)))
    assert len(shown) > 30
    assert not [name for name in shown if name not in known and re.sub(r"_(bucket|sum|count)$", "", name) not in known]


def test_grafana_finds_the_dashboard_and_prometheus() -> None:
    yaml = YAML(typ="safe")
    (provider,) = yaml.load(PROVISIONING / "dashboards" / "cellserve.yml")["providers"]
    (source,) = yaml.load(PROVISIONING / "datasources" / "prometheus.yml")["datasources"]
    service = yaml.load(ROOT / "docker-compose.yml")["services"]["grafana"]
    mounts = {target: ROOT / folder for folder, target, *_ in (mount.split(":") for mount in service["volumes"])}
    assert mounts[provider["options"]["path"]] == DASHBOARD.parent
    assert mounts["/etc/grafana/provisioning"] == PROVISIONING
    assert source["url"] == "http://prometheus:9090"
    home = PurePosixPath(service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert mounts[str(home.parent)] / home.name == DASHBOARD
    interval = yaml.load(ROOT / "deploy" / "prometheus" / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
