"""A real Prometheus watches real training: two ranks with ZeRO-2, started by our launcher."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launchers.__main__ import launcher_for
from launchers.cluster import Cluster, LocalTarget
from launchers.job import JobStatus, Launcher
from launchers.monitoring.alerts import Limits
from launchers.monitoring.dashboard import dashboard
from tests.conftest import RequireProgram
from tests.integration.practice import eventually
from tests.integration.prometheus_server import PrometheusServer, prometheus_server
from tests.integration.tiny_run import write_tiny_run

TRAINING = "training"


@pytest.fixture(scope="module")
def server(require_program: RequireProgram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    program = require_program("prometheus", package="prometheus")
    with prometheus_server(tmp_path_factory.mktemp("prometheus"), program, limits=Limits(patience_seconds=0)) as server:
        yield server


@dataclass(frozen=True)
class Job:
    """Real training that our launcher started: a tokeniser on two ranks with ZeRO-2."""

    launcher: Launcher
    job: str

    def cancel(self) -> JobStatus:
        self.launcher.cancel(self.job)
        eventually(lambda: self.launcher.status(self.job).state != "running", what="the job ends")
        return self.launcher.status(self.job)


@pytest.fixture(scope="module")
def training(server: PrometheusServer, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    folder = tmp_path_factory.mktemp("training")
    config = write_tiny_run(folder, name=TRAINING, targets=server.targets)
    cluster = Cluster(
        name="job",
        target=LocalTarget(kind="local", ranks=2),
        python=sys.executable,
        logs=str(folder / "logs"),
        environment={"OMP_NUM_THREADS": 1},
    )
    launcher = launcher_for(cluster, current=repository)
    job = Job(launcher, launcher.submit(["train", str(config)]))

    def is_seen() -> bool:
        assert launcher.status(job.job).state == "running", (folder / "logs/job-1.rank-0.log").read_text()[-2000:]
        return server.sees_steps(TRAINING)

    try:
        eventually(is_seen, what="Prometheus sees training", within_seconds=200)
        yield job
    finally:
        if launcher.status(job.job).state == "running":
            job.cancel()


def dashboard_expressions() -> list[str]:
    """As Grafana would send them, with all runs and a short window."""
    panels: list[dict[str, Any]] = dashboard()["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [expression.replace("$run", ".*").replace("$__rate_interval", "10s") for expression in found]


@pytest.mark.parametrize("expression", dashboard_expressions())
def test_every_dashboard_query_gives_data_of_real_training(
    server: PrometheusServer, training: Job, expression: str
) -> None:
    def runs_with_data() -> set[str]:
        return {series["metric"]["run"] for series in server.ask(expression)}

    eventually(lambda: TRAINING in runs_with_data(), what=f"{expression} gives data")


def test_training_that_goes_well_raises_no_alert(server: PrometheusServer, training: Job) -> None:
    assert server.firing(TRAINING) == set()


def test_the_counters_of_real_training_agree(server: PrometheusServer, training: Job) -> None:
    """Four windows a step, each of 2 frames of 3 channels on 8 x 8 points, and of 2 x 4 x 4 latents."""
    expected = {"windows": 4, "tokens": 4 * 2 * 4 * 4, "bytes": 4 * 2 * 3 * 8 * 8 * 4}

    def of_a_step(counter: str) -> float:
        run = f'{{run="{TRAINING}"}}'
        return server.value(f"trainer_{counter}_total{run} / on (run) trainer_steps_total{run}")

    # a scrape may fall between two counters of one report, so not every scrape agrees
    eventually(lambda: {name: of_a_step(name) for name in expected} == expected, what="the counters agree")


def test_a_run_announces_its_endpoint_with_its_name(server: PrometheusServer, training: Job) -> None:
    (entry,) = json.loads((server.targets / f"{TRAINING}-0.json").read_text())
    assert entry["labels"] == {"run": TRAINING, "node": "0"}


def test_cancelled_training_leaves_a_snapshot_and_no_target(server: PrometheusServer, training: Job) -> None:
    ended = training.cancel()
    assert (ended.state, ended.exit_code) == ("cancelled", 3)
    assert not (server.targets / f"{TRAINING}-0.json").exists()
