"""A real Prometheus that scrapes servers of this machine, and what it says of them."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from deploy.fleet import ManagedProcess
from deploy.fleet.ports import HOST, free_ports
from tests.deploy.alert_rules import RULES
from tests.programs import require_program

CONFIGURATION = RULES.with_name("prometheus.yml")
INTERVAL = "1s"
DEADLINE_S = 30.0
POLL_S = 0.1


class Prometheus(ManagedProcess):
    """Runs with the repository's configuration and rules; they are changed in how often and how long alone.

    Args:
        folder: for its files.
        targets: ``host:port`` of the pages that it scrapes.
    """

    def __init__(self, folder: Path, targets: Sequence[str]) -> None:
        (port,) = free_ports(1)
        self._url = f"http://{HOST}:{port}"
        configuration: Any = YAML(typ="safe").load(CONFIGURATION)
        configuration["global"] = dict.fromkeys((*configuration["global"], "scrape_timeout"), INTERVAL)
        (job,) = configuration["scrape_configs"]
        job["static_configs"] = [{"targets": list(targets)}]
        file = folder / CONFIGURATION.name
        YAML(typ="safe").dump(configuration, file)
        # Prometheus looks for the rules beside its configuration.
        rules = re.sub(r"^( *for: ).*$", r"\g<1>0s", RULES.read_text(encoding="utf-8"), flags=re.MULTILINE)
        (folder / RULES.name).write_text(rules, encoding="utf-8")
        command = [require_program("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address={HOST}:{port}", "--log.level=warn"]
        super().__init__("prometheus", command, folder / "prometheus.log", lambda _: self._answers())

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=DEADLINE_S):
                return True
        except (urllib.error.URLError, ConnectionError):
            return False

    def _get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}", timeout=DEADLINE_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now: ``metric`` (labels) and ``value`` each."""
        result: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return result

    def label_values(self, label: str, selector: str) -> list[str]:
        """The values of a label that series have."""
        values: list[str] = self._get(f"label/{label}/values", **{"match[]": selector})
        return values

    def firing(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The alerts that fire now, by name and the instance that they are of."""
        alerts = self._get("alerts")["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"]["instance"]): alert
            for alert in alerts
            if alert["state"] == "firing"
        }

    def wait_for(self, expression: str, count: int = 1) -> None:
        """Waits until an expression gives at least so many results."""
        give_up = time.monotonic() + DEADLINE_S
        while len(self.query(expression)) < count:
            assert time.monotonic() < give_up, f"it never came to hold: {expression}"
            time.sleep(POLL_S)

    def wait_firing(self, alert: str, instance: str) -> dict[str, Any]:
        """Waits until an alert fires, and gives it."""
        give_up = time.monotonic() + DEADLINE_S
        while (found := self.firing().get((alert, instance))) is None:
            assert time.monotonic() < give_up, f"{alert} does not fire for {instance}, but {sorted(self.firing())}"
            time.sleep(POLL_S)
        return found
