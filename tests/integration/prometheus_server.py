"""A real Prometheus on loopback with rules and targets of the test's own, and what a test asks of it."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from launchers.monitoring.alerts import Limits, alert_rules
from launchers.monitoring.scrape import ALERT_FILE, scrape_config
from tests.integration.practice import eventually
from tests.ports import free_port


@dataclass(frozen=True)
class PrometheusServer:
    """Scrapes and evaluates every second; finds targets in `targets`."""

    url: str
    targets: Path

    def get(self, path: str, **parameters: str) -> Any:
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as response:
            return json.load(response)["data"]

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The series that the expression gives now."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float:
        """Of an expression that gives one series; NaN where it gives none."""
        found = self.ask(expression)
        return float(found[0]["value"][1]) if found else float("nan")

    def firing(self, run: str) -> set[str]:
        """The names of this run's firing alerts."""
        found = self.ask(f'ALERTS{{alertstate="firing", run="{run}"}}')
        return {series["metric"]["alertname"] for series in found}

    def sees_steps(self, run: str) -> bool:
        return bool(self.ask(f'rate(trainer_steps_total{{run="{run}"}}[10s]) > 0'))


@contextmanager
def prometheus_server(folder: Path, program: str, *, limits: Limits) -> Iterator[PrometheusServer]:
    """Up to the moment when it answers; its data lies in `folder` and goes with it."""
    targets = folder / "targets"
    targets.mkdir(parents=True)
    config = scrape_config(targets=f"{targets}/*.json", interval_seconds=1)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / ALERT_FILE).write_text(yaml.safe_dump(alert_rules(limits)))
    address = f"127.0.0.1:{free_port()}"
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            eventually(lambda: _is_ready(f"http://{address}"), what="Prometheus answers")
            yield PrometheusServer(f"http://{address}", targets)
        finally:
            process.kill()  # nothing of its data is wanted any more


def _is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/-/ready", timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, ConnectionError):
        return False
