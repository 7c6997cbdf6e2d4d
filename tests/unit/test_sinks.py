"""Where reports go besides Prometheus."""

import io
import json
import math
from pathlib import Path

import pytest

from trainer.errors import RefusedError
from trainer.interfaces import Report
from trainer.metrics.sinks import ConsoleSink, JsonlSink, open_log, read_log


def report(step: int, **scalars: float) -> Report:
    values = {"loss": 1.0, "gradient_norm": 1.0, "learning_rate": 1e-3} | scalars
    totals = {"windows": 8.0 * step, "seconds/data": 0.25 * step, "seconds/step": 0.75 * step}
    return Report(step=step, samples=8 * step, time=0.0, scalars=values, totals=totals, step_seconds=(0.75,) * 10)


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_the_log_has_one_object_a_report(tmp_path: Path) -> None:
    sink = JsonlSink(open_log(tmp_path / "log.jsonl", resumed_step=0))
    for step in (10, 20):
        sink.publish(report(step))
    sink.close()
    assert steps_in(tmp_path / "log.jsonl") == [10, 20]


def test_a_resumed_run_drops_the_lines_that_it_will_write_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    sink = JsonlSink(open_log(path, resumed_step=0))
    for step in (10, 20, 30):
        sink.publish(report(step))
    sink.close()
    JsonlSink(open_log(path, resumed_step=20)).close()
    assert steps_in(path) == [10, 20]


def test_a_line_torn_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 10}\n{"step": 20, "lo')
    open_log(path, resumed_step=20).close()
    assert steps_in(path) == [10]


def test_what_is_not_finite_is_null_and_read_as_not_a_number(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    sink = JsonlSink(open_log(path, resumed_step=0))
    sink.publish(report(10, loss=math.inf, gradient_norm=math.nan))
    sink.close()
    values = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert (values["loss"], values["gradient_norm"]) == (None, None)
    [(_, read)] = read_log(path)
    assert math.isnan(read["loss"])


@pytest.mark.parametrize("line", ['{"step": 20}}', "[20]}", '{"stap": 20}', '{"step": "20"}', "\xff}"])
def test_a_line_that_no_run_has_written_is_refused_and_the_log_stays(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    before = ('{"step": 10}\n' + line + "\n").encode("latin-1")
    path.write_bytes(before)
    with pytest.raises(RefusedError, match=r"log\.jsonl:2: .* is no line of a run's log"):
        open_log(path, resumed_step=20)
    assert path.read_bytes() == before


def test_the_terminal_shows_speed_waiting_and_time_left() -> None:
    stream = io.StringIO()
    sink = ConsoleSink("run", steps=100, stream=stream)
    sink.publish(report(10))
    line = stream.getvalue()
    assert "10/100" in line
    assert "8.0 windows/s" in line
    assert "waiting for data 25.0%" in line
    assert "remaining 0:01:30" in line


def test_the_terminal_leaves_out_the_details_of_scores() -> None:
    stream = io.StringIO()
    sink = ConsoleSink("run", steps=100, stream=stream)
    sink.publish(Report(100, 800, 0.0, scalars={"valid/vrmse": 0.5, "valid/vrmse@density": 0.4}, totals={}))
    assert "valid/vrmse 0.5000" in stream.getvalue()
    assert "density" not in stream.getvalue()
