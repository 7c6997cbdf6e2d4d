"""A folder in which the stand-in trainer practises, and what a test asks of it."""

import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launchers.__main__ import main

LOOK_EVERY_SECONDS = 0.02
CONFIG = """\
name: practice
output: nowhere
steps: 1
stage: {kind: tokeniser, tokeniser: {widths: [4], kernels: [{}], blocks: [1]}, compressions: [{levels: [{}]}]}
data: {datasets: [{url: nowhere}], window: {frames: 1}, batch_size: 2}
engine: {micro_batch_size: 1}
"""
"""Of two ranks; the stand-in does not read it."""


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


def command_line(capture: pytest.CaptureFixture[str], *arguments: str) -> Answer:
    """`python -m launchers` in this process: starting an interpreter for each question would take most of the time."""
    capture.readouterr()
    code = main(arguments)
    said = capture.readouterr()
    return Answer(code, said.out, said.err)


def eventually(question: Callable[[], Any], *, what: str, within_seconds: float = 60.0) -> Any:
    """The first answer that is true. The bound is generous: it tells a hang from a slow machine, nothing else."""
    deadline = time.monotonic() + within_seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"not within {within_seconds} s: {what}"
        time.sleep(LOOK_EVERY_SECONDS)
    return answer


@dataclass(frozen=True)
class Practice:
    """`python` runs the stand-in where it is asked for the trainer; `folder` is what that works in."""

    python: Path
    checkout: Path
    folder: Path

    @property
    def command(self) -> list[str]:
        return ["train", str(self.folder / "practice.yaml")]

    def start(self, rank: int, *, number: int) -> dict[str, Any]:
        """What this rank noted at its start of this number, once it has."""
        path = self.folder / f"start-{rank}-{number}.json"
        eventually(path.exists, what=f"rank {rank} starts the {number}. time")
        note: dict[str, Any] = json.loads(path.read_text())
        return note

    def both_are_born(self) -> None:
        """Until both ranks run, though they do not listen to signals yet: for jobs that were ordered `late`."""
        for rank in range(2):
            eventually((self.folder / f"born-{rank}").exists, what=f"rank {rank} is born")

    def order(self, name: str) -> None:
        """`finish`, `crash-RANK`, `late`, or `listen`."""
        (self.folder / name).touch()


def make_practice(folder: Path) -> Practice:
    practice = Practice(folder / "python", folder / "check out", folder / "work")
    practice.checkout.mkdir()
    practice.folder.mkdir()
    Path(practice.command[1]).write_text(CONFIG)
    stand_in, real = shlex.quote(str(Path(__file__).with_name("stand_in_trainer.py"))), shlex.quote(sys.executable)
    practice.python.write_text(
        f'#!/bin/sh\n[ "$2" != trainer ] && exec {real} "$@"\nshift 2\nexec {real} {stand_in} "$@"\n'
    )
    practice.python.chmod(0o755)
    return practice
