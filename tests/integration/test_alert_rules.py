"""The committed alert rules, minute by minute, in promtool's own unit tests: when each fires and when it stays silent.

Series are in promtool's notation, one value a minute from time 0: `a+bxn` starts at a and grows by b n times,
`axn` stands for n + 1 times a.
"""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import RequireProgram

LAST_STEP, SNAPSHOT = "trainer_last_step_timestamp_seconds", "trainer_last_snapshot_timestamp_seconds"
SKIPPED = "trainer_skipped_steps_total"
DATA_WAIT = 'trainer_phase_seconds_total{job="trainer", run="r", phase="data"}'
HEALTHY = {
    "up": "1x600",
    LAST_STEP: "0+60x600",
    SNAPSHOT: "0+60x600",
    DATA_WAIT: "0+1x600",
    SKIPPED: "0x600",
}
"""Ten hours of a run that goes well: a step and a snapshot each minute, one second of it waiting."""
CASES: dict[str, tuple[dict[str, str], str, set[str]]] = {
    "a healthy run": ({}, "300m", set()),
    "no step for ten minutes": ({LAST_STEP: "0+60x290 17400x300"}, "300m", set()),
    "no step for twenty minutes": ({LAST_STEP: "0+60x280 16800x300"}, "300m", {"TrainingStalled"}),
    "no step since the start": ({LAST_STEP: "0x600"}, "30m", {"TrainingStalled"}),
    "killed a minute ago": ({"up": "1x298 0x300", LAST_STEP: "0+60x298"}, "300m", set()),
    "killed ten minutes ago": (
        {"up": "1x289 0x300", LAST_STEP: "0+60x289", SNAPSHOT: "0+60x289"},
        "300m",
        {"TrainerUnreachable"},
    ),
    "killed an hour ago": (
        {"up": "1x239 0x300", LAST_STEP: "0+60x239", SNAPSHOT: "0+60x239"},
        "300m",
        {"TrainerUnreachable", "TrainingStalled"},
    ),
    "ended well an hour ago": (
        {"up": "1x239 stale", LAST_STEP: "0+60x239 stale", SNAPSHOT: "0+60x239 stale"},
        "300m",
        set(),
    ),
    "half of the time waiting": ({DATA_WAIT: "0+30x600"}, "300m", {"DataStarvation"}),
    "waiting for a minute only": ({DATA_WAIT: "0+1x290 320+1x300"}, "300m", set()),
    "a step left out": ({SKIPPED: "0x298 1x2"}, "300m", {"LossNotFinite"}),
    "a step left out an hour ago": ({SKIPPED: "0x239 1x300"}, "300m", set()),
    "snapshot of three hours ago": ({SNAPSHOT: "0+60x120 7200x600"}, "300m", set()),
    "snapshot of five hours ago": ({SNAPSHOT: "0x600"}, "300m", {"SnapshotTooOld"}),
}
"""What differs from a healthy run, when to look, which alerts are then firing."""


@pytest.fixture(scope="session")
def promtool(require_program: RequireProgram) -> str:
    return require_program("promtool", package="prometheus")


def series(changes: dict[str, str]) -> list[dict[str, str]]:
    return [
        {"series": name if "{" in name else f'{name}{{job="trainer", run="r"}}', "values": values}
        for name, values in (HEALTHY | changes).items()
    ]


def firing_test(changes: dict[str, str], when: str, *, names: set[str]) -> dict[str, Any]:
    labels = sorted(names)
    samples = [{"labels": f'{{alertname="{name}", run="r"}}', "value": 1} for name in labels]
    question = 'count by (alertname, run) (ALERTS{alertstate="firing"})'
    return {
        "interval": "1m",
        "input_series": series(changes),
        "promql_expr_test": [{"expr": question, "eval_time": when, "exp_samples": samples}],
    }


@pytest.mark.parametrize("case", CASES)
def test_alerts_fire_and_stay_silent(case: str, promtool: str, repository: Path, tmp_path: Path) -> None:
    changes, when, names = CASES[case]
    rules = str(repository / "configs/monitoring/alerts.yml")
    tests = {
        "rule_files": [rules],
        "evaluation_interval": "1m",
        "tests": [firing_test(changes, when, names=names)],
    }
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        [promtool, "test", "rules", str(tmp_path / "tests.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires(repository: Path) -> None:
    groups = yaml.safe_load((repository / "configs/monitoring/alerts.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    assert alerts == set().union(*(names for _, _, names in CASES.values()))


@pytest.mark.parametrize(("kind", "name"), [("config", "prometheus.yml"), ("rules", "alerts.yml")])
def test_promtool_accepts_the_committed_file(kind: str, name: str, promtool: str, repository: Path) -> None:
    command = [promtool, "check", kind, str(repository / "configs/monitoring" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
