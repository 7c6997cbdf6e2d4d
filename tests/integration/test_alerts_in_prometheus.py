"""Alerts on a real Prometheus, where a process that hangs takes its endpoint with it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from launchers.monitoring.alerts import Limits
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


Processes = dict[str, "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def server(require_program: RequireProgram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    program = require_program("prometheus", package="prometheus")
    with prometheus_server(tmp_path_factory.mktemp("prometheus"), program, limits=QUICK) as server:
        yield server


@pytest.fixture(scope="module")
def reporters(server: PrometheusServer, repository: Path) -> Iterator[Processes]:
    """Processes that report steps, each for one test to do with as it likes, once Prometheus has seen their steps."""
    environment = os.environ | {"PYTHONPATH": str(repository)}
    program = [sys.executable, str(Path(__file__).with_name("practice_exporter.py")), str(server.targets)]
    with ExitStack() as stack:
        started: Processes = {}
        for run in ("hangs", "dies", "ends"):
            started[run] = stack.enter_context(subprocess.Popen([*program, run], env=environment))
            stack.callback(started[run].kill)
        for run in started:
            eventually(lambda name=run: server.sees_steps(name), what=f"Prometheus sees steps of {run}")
        yield started


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
    server: PrometheusServer, reporters: Processes, run: str, fate: signal.Signals
) -> None:
    reporters[run].send_signal(fate)
    eventually(
        lambda: server.firing(run) == {"TrainingStalled", "TrainerUnreachable"},
        what=f"both alerts of {run} fire",
    )


def test_a_run_that_ended_well_is_forgotten(server: PrometheusServer, reporters: Processes) -> None:
    reporters["ends"].terminate()
    assert reporters["ends"].wait(timeout=60) == 0
    eventually(lambda: not server.ask('up{run="ends"}'), what="the target is withdrawn")
    last = (
        f'time() - max_over_time(trainer_last_step_timestamp_seconds{{run="ends"}}[1h]) > {3 * QUICK.stalled_seconds}'
    )
    eventually(lambda: server.ask(last), what="the last step is far longer ago than the alert allows")
    # one that fired before Prometheus knew, since it is given no patience here, ends with the next evaluation
    eventually(lambda: not server.firing("ends"), what="no alert of the run fires")
