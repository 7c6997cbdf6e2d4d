"""Where the time of some steps goes: a PyTorch trace for a trace viewer, and a table for people."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch.profiler import ProfilerActivity, profile

from data_prep.contract.storage import Storage
from trainer.errors import RefusedError

ROWS = 30
"""Operators in the table."""


@dataclass(frozen=True, slots=True)
class Steps:
    """From the first to the last, both included, as the log counts them."""

    first: int
    last: int


def parse_steps(text: str) -> Steps:
    """`steps=10:20`. Raises RefusedError for anything else."""
    match = re.fullmatch(r"steps=(\d{1,9}):(\d{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise RefusedError(f"--profile={text}: expected the first and the last step, as in --profile=steps=10:20")
    return Steps(int(match[1]), int(match[2]))


def refuse_unreached(steps: Steps, *, after: int, last: int) -> None:
    """Raises RefusedError where a run that goes on after step `after`, to step `last`, makes none of the first ones."""
    if not after < steps.first <= last:
        raise RefusedError(
            f"--profile=steps={steps.first}:{steps.last}: this run makes the steps {after + 1} to {last}; "
            "begin the profile at one of them"
        )


class Profile:
    """Records the steps of one rank. Used as a context, so that a run that ends early leaves what there is."""

    def __init__(
        self,
        steps: Steps,
        *,
        folder: Path,
        rank: int,
        phases: Callable[[], Mapping[str, float]],
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`phases`: seconds of each phase of the loop so far. Writes rank-N.json and rank-N.txt into `folder`.

        `say`: told where they lie.
        """
        self._say = say
        self._steps, self._folder, self._rank, self._phases = steps, folder, rank, phases
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._profiler = profile(activities=activities)
        self._begun: tuple[int, Mapping[str, float]] | None = None
        self._step = 0

    def __enter__(self) -> Self:
        """Raises RefusedError where nothing could be written."""
        Storage(str(self._folder)).refuse_unwritable(cure="make room for the profile, or leave out --profile")
        return self

    def __exit__(self, *_error: object) -> None:
        self._finish()

    def boundary(self, step: int) -> None:
        """Called between steps, when `step` of them are done."""
        self._step = step
        if step == self._steps.first - 1:
            self._begun = step, dict(self._phases())
            self._profiler.start()
        elif step == self._steps.last:
            self._finish()

    def _finish(self) -> None:
        if self._begun is None:
            return
        (first, before), self._begun = self._begun, None
        self._profiler.stop()
        if self._step == first:
            return
        table = self._table(self._step - first, before)
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"rank-{self._rank:05d}"
        self._profiler.export_chrome_trace(str(self._folder / f"{name}.json"))
        (self._folder / f"{name}.txt").write_text(table, encoding="utf-8")
        self._say(
            f"profile of {self._step - first} steps: {self._folder / name}.txt has the table, {name}.json the trace "
            "(chrome://tracing, Perfetto)"
        )

    def _table(self, count: int, before: Mapping[str, float]) -> str:
        seconds = {phase: total - before.get(phase, 0.0) for phase, total in self._phases().items()}
        rows = sorted(seconds.items(), key=lambda row: -row[1])
        lines = [f"{phase:12}{1000 * total / count:10.2f} ms a step" for phase, total in rows]
        by = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        operators = self._profiler.key_averages().table(sort_by=by, row_limit=ROWS)
        return "\n".join([f"steps of the profile: {count}", *lines, "", operators, ""])
