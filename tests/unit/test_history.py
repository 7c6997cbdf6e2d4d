"""What follows from the lines of a run's log."""

import json
from pathlib import Path

import pytest

from trainer.history import History, read_history

FIRST = [
    {"step": 10, "steps": 10, "loss": 2.0, "windows": 40, "tokens": 400, "bytes": 4e6, "skipped_steps": 1}
    | {"seconds/data": 1.0, "seconds/step": 9.0},
    {"step": 10, "valid/vrmse": 0.5, "seconds/data": 1.0, "seconds/step": 9.0, "seconds/evaluation": 2.0},
    {"step": 20, "steps": 20, "loss": 1.0, "windows": 80, "tokens": 800, "bytes": 8e6, "skipped_steps": 1}
    | {"seconds/data": 2.0, "seconds/step": 18.0, "seconds/evaluation": 2.0},
]
SECOND = [
    {"step": 40, "steps": 20, "loss": 0.5, "windows": 80, "tokens": 800, "bytes": 8e6, "skipped_steps": 0}
    | {"seconds/data": 8.0, "seconds/step": 32.0},
]


@pytest.fixture
def history() -> History:
    """A process that trained to step 20, and one that went on from there and has counted as many steps."""
    return History([*FIRST, *SECOND])


def test_each_start_counts_from_its_own_beginning(history: History) -> None:
    assert [[line["step"] for line in lines] for lines in history.processes] == [[10, 20], [40]]


def test_totals_are_those_of_all_starts(history: History) -> None:
    assert history.total("windows") == 80 + 80
    assert history.total("skipped_steps") == 1
    assert history.phases() == {"data": 10.0, "evaluation": 2.0, "step": 50.0}


def test_a_rate_is_of_one_report_and_never_across_a_start(history: History) -> None:
    assert history.rate("windows") == [(10, 4.0), (20, 4.0), (40, 2.0)]
    assert history.rate("seconds/data") == [(10, 0.1), (20, 0.1), (40, 0.2)]


def test_throughput_is_of_the_last_start(history: History) -> None:
    assert history.throughput() == {
        "windows_per_second": 2.0,
        "tokens_per_second": 20.0,
        "megabytes_per_second": 0.2,
        "waiting_for_data": 0.2,
        "step_seconds": 1.6,
    }


def test_a_curve_has_the_lines_that_say_something_of_it(history: History) -> None:
    assert history.curve("loss") == [(10, 2.0), (20, 1.0), (40, 0.5)]
    assert history.curve("valid/vrmse") == [(10, 0.5)]
    assert history.last("valid/vrmse") == 0.5
    assert history.last("test/vrmse") is None


def test_a_run_that_has_not_reported_has_no_speed(tmp_path: Path) -> None:
    history = read_history(tmp_path)
    assert (history.lines, history.throughput(), history.phases(), history.rate("windows")) == ([], {}, {}, [])


def test_a_torn_line_of_the_log_is_no_line(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 10}) + '\n{"step": 20, "lo')
    assert [line["step"] for line in read_history(tmp_path).lines] == [10]
