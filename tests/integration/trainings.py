"""Starts the trainer in a folder of its own, as people and schedulers do, and reads what it left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.integration.practice import eventually
from tests.integration.tiny_corpus import write_configs
from tests.ports import free_port
from trainer.snapshot import open_snapshot

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN_TOKENISER = ("trainer", "train", "tokeniser.yaml")
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")


@dataclass(frozen=True)
class Ended:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Rank:
    """A running rank; what it says goes to `said`."""

    process: subprocess.Popen[bytes]
    said: Path

    def end(self, *, within_seconds: float = 180.0) -> Ended:
        """Waits for it. The bound tells a hang from a slow machine, nothing else."""
        code = self.process.wait(timeout=within_seconds)
        return Ended(code, "", self.said.read_text(errors="replace"))


@dataclass(frozen=True)
class Workshop:
    """A folder with the tiny configs in it, in which trainings run."""

    folder: Path

    def run(self, *module_and_arguments: str, within_seconds: float = 180.0) -> Ended:
        """`python -m …`, to its end."""
        command = [sys.executable, "-m", *module_and_arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=_environment(), capture_output=True, text=True, timeout=within_seconds
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def interrupted(self, number: signal.Signals, *module_and_arguments: str, run: str, step: int) -> Ended:
        """As `run`, but its whole process group gets the signal, as from a terminal, after this snapshot."""
        said = self.folder / "interrupted.log"
        with said.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *module_and_arguments],
                cwd=self.folder,
                env=_environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.wait_for_snapshot(run, step, of=[Rank(process, said)])
            os.killpg(process.pid, number)
            return Rank(process, said).end()
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def ranks(self, module: str, *arguments: str, size: int) -> Iterator[list[Rank]]:
        """`python -m module` as ranks 0 to size - 1, started as srun does; what still runs at the end is killed."""
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
        started = []
        try:
            for rank in range(size):
                variables = {**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
                started.append(self._start(module, *arguments, environment=variables))
            yield started
        finally:
            for running in started:
                running.process.kill()
                running.process.wait()

    def notify(self, command: Sequence[str], *, number: signal.Signals, run: str, step: int, size: int) -> list[Ended]:
        """The ends of ranks of which the last alone is given notice after the snapshot of this step."""
        with self.ranks(*command, size=size) as ranks:
            self.wait_for_snapshot(run, step, of=ranks)
            ranks[-1].process.send_signal(number)
            return [rank.end() for rank in ranks]

    def finish(self, module: str, *arguments: str, size: int, within_seconds: float = 180.0) -> list[Ended]:
        """As `ranks`, to their ends, which must be good."""
        with self.ranks(module, *arguments, size=size) as started:
            ended = [rank.end(within_seconds=within_seconds) for rank in started]
        assert [rank.code for rank in ended] == [0] * size, "\n".join(rank.err[-3000:] for rank in ended)
        return ended

    def _start(self, module: str, *arguments: str, environment: Mapping[str, str]) -> Rank:
        said = self.folder / f"rank-{environment['RANK']}-of-{environment['WORLD_SIZE']}.log"
        command = [sys.executable, "-W", "error", "-m", module, *arguments]
        with said.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=_environment() | environment, stdout=log, stderr=log
            )
        return Rank(process, said)

    def lines(self, run: str) -> list[dict[str, Any]]:
        """The whole lines of a run's log; none before it has begun."""
        path = self.folder / run / "log.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}\n")]

    def losses(self, run: str) -> dict[int, float]:
        """Step -> loss. Fails where a step was logged twice."""
        lines = [line for line in self.lines(run) if "loss" in line]
        steps = [line["step"] for line in lines]
        assert len(steps) == len(set(steps)), f"steps logged twice: {steps}"
        return {line["step"]: line["loss"] for line in lines}

    def scores(self, run: str) -> list[dict[str, float]]:
        """Of each evaluation in the log, in order."""
        lines = ({key: value for key, value in line.items() if "/" in key} for line in self.lines(run))
        return [
            {key: value for key, value in line.items() if key.startswith("valid/")}
            for line in lines
            if "valid/vrmse" in line
        ]

    def snapshots(self, run: str) -> list[int]:
        """Steps of the complete ones."""
        paths = (self.folder / run / "snapshots").glob("step-*/manifest.json")
        return sorted(int(path.parent.name.removeprefix("step-")) for path in paths)

    def state(self, run: str) -> dict[str, torch.Tensor]:
        """Weights and optimiser states of the newest snapshot, by `PARAMETER/STATE`."""
        snapshot = open_snapshot(str(self.folder / run))
        return {
            f"{name}/{state}": value for name in sorted(snapshot.names) for state, value in snapshot.read(name).items()
        }

    def wait_for_snapshot(self, run: str, step: int, *, of: Sequence[Rank]) -> None:
        """Until the run has this snapshot. Fails when a rank ends before."""
        manifest = self.folder / run / "snapshots" / f"step-{step:08d}" / "manifest.json"

        def is_there_or_over() -> bool:
            return manifest.exists() or any(rank.process.poll() is not None for rank in of)

        eventually(is_there_or_over, what=f"{run} writes {manifest}", within_seconds=180)
        assert manifest.exists(), "\n".join(rank.said.read_text()[-3000:] for rank in of)

    def take_over(self, run: str, *, source: "Workshop", up_to: int, name: str) -> None:
        """A copy of another workshop's run, as it was when its snapshot of this step was the newest."""
        shutil.copytree(source.folder / run, self.folder / name)
        for path in (self.folder / name / "snapshots").iterdir():
            if int(path.name.removeprefix("step-")) > up_to:
                shutil.rmtree(path)
        assert self.snapshots(name)[-1] == up_to


def make_workshop(folder: Path, corpus: Path) -> Workshop:
    folder.mkdir(exist_ok=True)
    write_configs(folder, corpus)
    return Workshop(folder)


def same_state(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def _environment() -> dict[str, str]:
    """Nothing of a distributed job that these tests may themselves run in."""
    ours = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**ours, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
