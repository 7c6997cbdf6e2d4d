"""Alerts, dashboard and endpoint on a real Prometheus."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from launchers.monitoring.alerts import Limits
from launchers.monitoring.dashboard import dashboard
from tests.conftest import RequireProgram
from tests.integration.practice import eventually
from tests.integration.prometheus_server import PrometheusServer, prometheus_server

QUICK = Limits(
    stalled_seconds=4,
    memory_seconds=600,
    data_window_seconds=10,
    snapshot_age_seconds=600,
    patience_seconds=0,
)
"""The committed rules, in seconds instead of quarters of an hour."""


@pytest.fixture(scope="module")
def server(require_program: RequireProgram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    program = require_program("prometheus", package="prometheus")
    with prometheus_server(tmp_path_factory.mktemp("prometheus"), program, limits=QUICK) as server:
        yield server


Processes = dict[str, "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def runs(server: PrometheusServer, repository: Path) -> Iterator[Processes]:
    """Processes that report steps, each for one test to do with as it likes, once Prometheus has seen their steps."""
    environment = os.environ | {"PYTHONPATH": str(repository)}
    program = [sys.executable, str(Path(__file__).with_name("practice_exporter.py")), str(server.targets)]
    with ExitStack() as stack:
        started: Processes = {}
        for run in ("healthy", "hangs", "dies", "ends"):
            started[run] = stack.enter_context(subprocess.Popen([*program, run], env=environment))
            stack.callback(started[run].kill)
        for run in started:
            seen = f'rate(trainer_steps_total{{run="{run}"}}[10s]) > 0'
            eventually(lambda question=seen: server.ask(question), what=f"Prometheus sees steps of {run}")
        yield started


def alerts_of(server: PrometheusServer, run: str) -> set[str]:
    """The names of this run's firing alerts."""
    found = server.ask(f'ALERTS{{alertstate="firing", run="{run}"}}')
    return {series["metric"]["alertname"] for series in found}


def dashboard_expressions() -> list[str]:
    """As Grafana would send them, with all runs and a short window."""
    panels: list[dict[str, Any]] = dashboard()["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [expression.replace("$run", ".*").replace("$__rate_interval", "10s") for expression in found]


@pytest.mark.parametrize("expression", dashboard_expressions())
def test_every_dashboard_query_gives_data(server: PrometheusServer, runs: Processes, expression: str) -> None:
    found = eventually(lambda: server.ask(expression), what=f"{expression} gives data")
    assert "healthy" in {series["metric"]["run"] for series in found}


def test_a_healthy_run_raises_no_alert(server: PrometheusServer, runs: Processes) -> None:
    assert alerts_of(server, "healthy") == set()


def test_every_rule_is_evaluated_without_error(server: PrometheusServer) -> None:
    groups = eventually(
        lambda: [group for group in server.get("rules")["groups"] if float(group["evaluationTime"]) > 0],
        what="the rules are evaluated",
    )
    assert {rule["name"]: rule["health"] for rule in groups[0]["rules"]} == {
        "TrainingStalled": "ok",
        "TrainerUnreachable": "ok",
        "DataStarvation": "ok",
        "LossNotFinite": "ok",
        "SnapshotTooOld": "ok",
    }


@pytest.mark.parametrize(("run", "fate"), [("hangs", signal.SIGSTOP), ("dies", signal.SIGKILL)])
def test_a_trainer_that_is_lost_with_its_endpoint_is_noticed(
    server: PrometheusServer, runs: Processes, run: str, fate: signal.Signals
) -> None:
    runs[run].send_signal(fate)
    eventually(
        lambda: alerts_of(server, run) == {"TrainingStalled", "TrainerUnreachable"},
        what=f"both alerts of {run} fire",
    )


def test_a_run_that_ended_well_is_forgotten(server: PrometheusServer, runs: Processes) -> None:
    runs["ends"].terminate()
    assert runs["ends"].wait(timeout=60) == 0
    eventually(lambda: not server.ask('up{run="ends"}'), what="the target is withdrawn")
    last = (
        f'time() - max_over_time(trainer_last_step_timestamp_seconds{{run="ends"}}[1h]) > {2 * QUICK.stalled_seconds}'
    )
    eventually(lambda: server.ask(last), what="the last step is longer ago than the alert allows")
    assert alerts_of(server, "ends") == set()


def test_a_run_announces_its_endpoint_with_its_name(server: PrometheusServer, runs: Processes) -> None:
    (entry,) = json.loads((server.targets / "healthy.json").read_text())
    assert entry["labels"] == {"run": "healthy", "node": "0"}


def test_other_scalars_are_scores_by_name(server: PrometheusServer, runs: Processes) -> None:
    assert server.value('trainer_score{run="healthy", name="validation/vrmse"}') == 0.9
