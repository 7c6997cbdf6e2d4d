"""What the log of a run says of its course: curves, and where the time of each process went. Reads no weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from trainer.metrics.sinks import LOG_NAME, read_log

Line = Mapping[str, float]
SECONDS = "seconds/"
"""How the totals of the loop's phases begin."""


@dataclass(frozen=True, slots=True)
class History:
    """The lines of a run's log, in order; none before it has begun."""

    lines: Sequence[Line]

    @property
    def trained(self) -> Sequence[Line]:
        """Those of training, not of scores or snapshots."""
        return [line for line in self.lines if "steps" in line]

    @property
    def processes(self) -> Sequence[Sequence[Line]]:
        """The lines of training by the process that wrote them: each began at a step of its own, and counts from there.

        A process that trained on from a snapshot has dropped the lines past it, so no two began at the same step.
        """
        return [list(lines) for _, lines in groupby(self.trained, key=lambda line: line["step"] - line["steps"])]

    def curve(self, name: str) -> list[tuple[float, float]]:
        """(step, value) wherever the log has one."""
        return [(line["step"], line[name]) for line in self.lines if name in line]

    def last(self, name: str) -> float | None:
        """Its newest value."""
        return next((line[name] for line in reversed(self.lines) if name in line), None)

    def rate(self, name: str) -> list[tuple[float, float]]:
        """(step, how much of a total was added a second since the line before), seconds of data and step together."""
        return [(line["step"], added[name] / _seconds(added)) for line, added in self._added() if _seconds(added)]

    def total(self, name: str) -> float:
        """What all processes counted until their last report."""
        return sum(lines[-1].get(name, 0.0) for lines in self.processes)

    def phases(self) -> dict[str, float]:
        """Seconds of each phase of the loop, of all processes until their last report."""
        names = {name for line in self.trained for name in line if name.startswith(SECONDS)}
        return {name.removeprefix(SECONDS): self.total(name) for name in sorted(names)}

    def throughput(self) -> dict[str, float]:
        """Of the last process, from its own counters; empty before its first report."""
        if not self.trained:
            return {}
        last = self.trained[-1]
        seconds = _seconds(last)
        return {
            "windows_per_second": last["windows"] / seconds,
            "tokens_per_second": last["tokens"] / seconds,
            "megabytes_per_second": last["bytes"] / seconds / 1e6,
            "waiting_for_data": last["seconds/data"] / seconds,
            "step_seconds": last["seconds/step"] / last["steps"],
        }

    def _added(self) -> list[tuple[Line, Line]]:
        """Each line of training, and what it adds to the one before of its process."""
        return [
            (line, {name: value - before.get(name, 0.0) for name, value in line.items()})
            for lines in self.processes
            for before, line in pairwise([{}, *lines])
        ]


def read_history(folder: str | Path) -> History:
    """Of the run whose `output` it is. Raises RefusedError for a log that no run has written."""
    return History([values for _, values in read_log(Path(folder) / LOG_NAME)])


def _seconds(line: Line) -> float:
    return line["seconds/data"] + line["seconds/step"]
