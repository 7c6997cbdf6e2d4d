"""What every launcher can do, and what it says of a job."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

from trainer.errors import RefusedError

State = Literal["pending", "running", "finished", "preempted", "failed", "cancelled", "lost"]
"""`preempted` has a snapshot and will not be started again by itself; `lost` left no exit code."""
_JOB = re.compile(r"[0-9]{1,18}")


class SchedulerError(Exception):
    """A scheduler or job that did not do what it was asked. Commands print it and exit 1."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job, now."""

    job: str
    state: State
    restarts: int
    exit_code: int | None
    """Of the job as a whole; None while it has not ended, or where it is not known."""
    detail: str
    """What the scheduler or the machine itself says: nodes, reason, process ids."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Launcher(Protocol):
    """One kind of target. Made for one cluster and one working directory; holds no state of its own."""

    @property
    def checkout(self) -> Path:
        """The folder here in which the config of a job is found, to be checked before it is submitted."""

    def render(self, arguments: Sequence[str]) -> str:
        """The job script for `python -m trainer *arguments`; for `python -m *arguments` where data_prep comes first."""

    def submit(self, arguments: Sequence[str]) -> str:
        """Starts exactly the rendered script; gives the job's id."""

    def status(self, job: str) -> JobStatus: ...

    def cancel(self, job: str) -> None:
        """Asks the ranks to take a snapshot and end; they are not started again."""

    def logs(self, job: str, *, rank: int | None, lines: int, follow: bool) -> None:
        """Becomes the program that shows the ends of the job's logs, or of one rank's; does not return."""


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The files of one job, all beginning alike in the log folder."""

    folder: Path
    name: str
    job: str

    @property
    def prefix(self) -> Path:
        return self.folder / f"{self.name}-{self.job}"

    @property
    def log(self) -> Path:
        return Path(f"{self.prefix}.log")

    @property
    def script(self) -> Path:
        return Path(f"{self.prefix}.sh")

    @property
    def record(self) -> Path:
        return Path(f"{self.prefix}.json")

    def logs(self, rank: int | None) -> list[Path]:
        """The log of one rank, or those of the job and all its ranks. Raises RefusedError when there is none."""
        found = [Path(f"{self.prefix}.rank-{rank}.log")] if rank is not None else self._all_logs()
        missing = [path for path in found if not path.is_file()]
        if missing or not found:
            raise RefusedError(f"{(missing or [self.log])[0]}: no such log; look at what is in {self.folder}")
        return found

    def all(self) -> list[Path]:
        """What there may be of it."""
        return [self.script, self.record, _partial_of(self.record), *self._all_logs()]

    def _all_logs(self) -> list[Path]:
        beginning = f"{self.prefix.name}.rank-"
        found = self.folder.glob(f"{beginning}*.log")
        numbers = {path: path.name.removeprefix(beginning).removesuffix(".log") for path in found}
        ranks = sorted((path for path in numbers if numbers[path].isdecimal()), key=lambda path: int(numbers[path]))
        return [path for path in (self.log, *ranks) if path.is_file()]


def write_whole(path: Path, text: str) -> None:
    """In place of what was there; whoever reads it meanwhile finds the one or the other. Raises OSError."""
    partial = _partial_of(path)
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _partial_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def make_log_folder(folder: Path) -> None:
    """Raises RefusedError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusedError(f"logs: {folder}: {error.strerror}; name a folder to write to") from error


def job_files(folder: Path, name: str, *, job: str) -> JobFiles:
    """Raises RefusedError for an id that no launcher gives."""
    if _JOB.fullmatch(job) is None:
        raise RefusedError(f"job {job!r} is not an id that `submit` prints; expected digits")
    return JobFiles(folder, name, job)


def show_logs(paths: Sequence[Path], *, lines: int, follow: bool) -> None:
    """Becomes `tail` on these files; does not return."""
    arguments = ["tail", f"--lines={lines}", *(["-F"] if follow else []), "--", *map(str, paths)]
    os.execvp("tail", arguments)
