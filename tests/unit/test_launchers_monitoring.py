"""The committed monitoring files: as generated, of one piece, and about metrics that exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from launchers.monitoring.__main__ import monitoring_files
from launchers.monitoring.dashboard import dashboard
from trainer.interfaces import Report
from trainer.metrics.prometheus import RunMetrics

METRIC = re.compile(r"\b(?:trainer_[a-z_]+|up)\b(?=\{)")


def exposed_metrics() -> set[str]:
    """The sample names of an endpoint that has seen a report with everything in it."""
    registry = CollectorRegistry()
    totals = {"windows": 1.0, "seconds/data": 1.0}
    report = Report(1, 8, 10.0, scalars={"validation/vrmse": 1.0}, totals=totals, step_seconds=(1.0,))
    RunMetrics(registry, facts={}, started=0.0).update(report)
    lines = generate_latest(registry).decode().splitlines()
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")} | {"up"}


def expressions() -> list[str]:
    rules = yaml.safe_load(monitoring_files()["alerts.yml"])["groups"][0]["rules"]
    panels: list[dict[str, Any]] = dashboard()["panels"]
    return [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("name", monitoring_files())
def test_a_committed_file_is_what_its_generator_writes(name: str, repository: Path) -> None:
    committed = (repository / "configs/monitoring" / name).read_text(encoding="utf-8")
    assert committed == monitoring_files()[name], "run `python -m launchers.monitoring configs/monitoring`"


def test_nothing_else_lies_among_the_monitoring_files(repository: Path) -> None:
    assert {path.name for path in (repository / "configs/monitoring").iterdir()} == set(monitoring_files())


@pytest.mark.parametrize("expression", expressions())
def test_a_query_asks_for_metrics_that_exist(expression: str) -> None:
    asked = set(METRIC.findall(expression))
    assert asked
    assert asked <= exposed_metrics()


def test_panels_do_not_overlap() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard()["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in dashboard()["panels"])


def test_panels_have_ids_and_queries_letters_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)


def test_the_dashboard_shows_what_people_ask_of_a_run() -> None:
    titles = {panel["title"] for panel in dashboard()["panels"]}
    assert titles >= {
        "Windows per second",
        "Tokens per second",
        "Bytes per second",
        "Time per step by phase",
        "Waiting for data",
        "Loss",
        "Gradient norm",
        "Peak memory",
        "Snapshot age",
    }


def test_the_dashboard_is_strict_json() -> None:
    json.loads(monitoring_files()["dashboard.json"], parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
