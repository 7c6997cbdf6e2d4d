"""Where a report goes besides Prometheus: a JSONL file and the terminal."""

import json
import math
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from trainer.errors import RefusedError, TrainingError
from trainer.interfaces import SNAPSHOT_STEP, Report

LOG_NAME = "log.jsonl"
"""Of the log in a run's folder."""


class JsonlSink:
    """One JSON object for each report, in a file opened by `open_log`; a value that is not finite is null there."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def publish(self, report: Report) -> None:
        """Raises TrainingError where the log cannot be written: on a full disk, say."""
        line: dict[str, float | None] = {"step": report.step, "samples": report.samples, "time": report.time}
        for name, value in (*report.scalars.items(), *report.totals.items()):
            line[name] = value if math.isfinite(value) else None
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self._file.name}: {error.strerror}; make room, and start the run again: it goes on from its last "
                "snapshot"
            ) from error

    def close(self) -> None:
        self._file.close()


def open_log(path: Path, *, resumed_step: int) -> TextIO:
    """A run's log, ready to be appended to.

    Lines of steps past the one that the run resumes from are dropped: they will be written again. Raises as `read_log`.
    """
    lines = [line for line, values in read_log(path) if values["step"] <= resumed_step]
    kept = path.with_name(path.name + ".part")
    kept.write_text("".join(lines), encoding="utf-8")
    kept.replace(path)
    return path.open("a", encoding="utf-8")


class ConsoleSink:
    """One line for each report, for people: progress, loss, speed, time waiting for data, time left."""

    def __init__(self, name: str, *, steps: int, stream: TextIO) -> None:
        self._name, self._steps, self._stream = name, steps, stream
        self._last: Report | None = None

    def publish(self, report: Report) -> None:
        if "loss" in report.scalars:
            self._stream.write(self._training_line(report) + "\n")
            self._last = report
        else:
            self._stream.write(f"[{self._name}] {report.step}/{self._steps}  {_said(report.scalars)}\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()

    def _training_line(self, report: Report) -> str:
        before = self._last.totals if self._last else {}
        seconds = {
            phase: report.totals.get(f"seconds/{phase}", 0.0) - before.get(f"seconds/{phase}", 0.0)
            for phase in ("data", "step")
        }
        busy = sum(seconds.values()) or 1e-9
        windows = report.totals["windows"] - before.get("windows", 0.0)
        left = (self._steps - report.step) * busy / max(len(report.step_seconds), 1)
        return (
            f"[{self._name}] {report.step}/{self._steps}  loss {report.scalars['loss']:.4f}  "
            f"gradient norm {report.scalars['gradient_norm']:.3g}  lr {report.scalars['learning_rate']:.2e}  "
            f"{windows / busy:.1f} windows/s  waiting for data {100 * seconds['data'] / busy:.1f}%  "
            f"remaining {timedelta(seconds=round(left))}"
        )


def _said(scalars: Mapping[str, float]) -> str:
    """Scores of single channels and leads are for the log."""
    if SNAPSHOT_STEP in scalars:
        return f"snapshot of step {scalars[SNAPSHOT_STEP]:.0f} written"
    return "  ".join(f"{name} {value:.4f}" for name, value in scalars.items() if "@" not in name)


def read_log(path: Path) -> list[tuple[str, dict[str, float]]]:
    """The whole lines of a run's log and what each says, with null for not a number; none where there is no log.

    A line torn by a kill is dropped. Raises RefusedError for one that no run has written.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [(line, _values(line, f"{path}:{number}")) for number, line in enumerate(lines, 1) if line.endswith("}\n")]


def _values(line: str, place: str) -> dict[str, float]:
    try:
        values: Any = json.loads(line)
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, dict) or not isinstance(values.get("step"), int):
        raise RefusedError(
            f"{place}: {line.strip()[:80]!r} is no line of a run's log, which is a JSON object with a `step`; mend it "
            "or take it out, or give this run another `output`"
        )
    return {name: math.nan if value is None else value for name, value in values.items()}
