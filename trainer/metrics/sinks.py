"""Where a report goes besides Prometheus: a JSONL file and the terminal."""

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TextIO

from trainer.errors import TrainingError
from trainer.interfaces import SNAPSHOT_STEP, Report


class JsonlSink:
    """One JSON object for each report, in a file opened by `open_log`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def publish(self, report: Report) -> None:
        """Raises TrainingError where the log cannot be written: on a full disk, say."""
        line = {"step": report.step, "samples": report.samples, "time": report.time}
        try:
            self._file.write(json.dumps(line | dict(report.scalars) | dict(report.totals)) + "\n")
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

    Lines of steps past the one that the run resumes from are dropped: they will be written again.
    """
    kept = path.with_name(path.name + ".part")
    kept.write_text("".join(_lines_up_to(path, resumed_step)), encoding="utf-8")
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


def _lines_up_to(path: Path, step: int) -> list[str]:
    """The whole lines of a former log whose step is not past `step`; a line torn by a kill is dropped."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]
    return [line for line in lines if json.loads(line)["step"] <= step]
