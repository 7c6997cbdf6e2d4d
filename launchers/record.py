"""The record of a job on this machine: which processes of which machine it is, how often it restarted, how it ended.

A process is known by its id and its start time, because ids are used again. Written by `supervisor.py` alone.
"""

import os
import signal
import socket
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from launchers.cluster import NotNegative
from launchers.job import write_whole
from trainer.config.schema import Section
from trainer.errors import RefusedError

MAX_RECORD_BYTES = 1 << 20
_STATE, _START_TIME = 0, 19
"""Places in /proc/PID/stat, counted from behind the command's closing parenthesis (proc(5), fields 3 and 22)."""


class Process(Section):
    """One process of this boot."""

    pid: Annotated[int, Field(ge=1)]
    start_ticks: Annotated[int, Field(ge=0)]
    """Clock ticks from boot to the start of the process."""

    @property
    def is_alive(self) -> bool:
        """False for a zombie too: it has ended, though its parent has not asked yet."""
        fields = _stat(self.pid)
        return fields is not None and fields[_STATE] not in "ZX" and int(fields[_START_TIME]) == self.start_ticks

    def send(self, number: signal.Signals) -> None:
        """Signals the process if it still is the one recorded."""
        if self.is_alive:
            os.kill(self.pid, number)


class JobRecord(Section):
    """What is known of a job whose supervisor runs on this machine."""

    machine: str
    """Host name of the machine whose processes these are."""
    supervisor: Process
    members: tuple[Process, ...]
    """The ranks of the latest start, or the ssh processes that hold those of each host."""
    restarts: NotNegative
    exit_code: int | None
    """None until the job has ended."""
    cancelled: bool = False
    """Whether it was asked to end for good."""


def this_machine() -> str:
    return socket.gethostname()


def process_of(pid: int) -> Process | None:
    """The process that has this id now; None when there is none."""
    fields = _stat(pid)
    return None if fields is None else Process(pid=pid, start_ticks=int(fields[_START_TIME]))


def write_record(path: Path, record: JobRecord) -> None:
    write_whole(path, record.model_dump_json() + "\n")


def read_record(path: Path) -> JobRecord:
    """Raises RefusedError when there is no record, it is not one, or only another machine can say how it stands."""
    try:
        with path.open("rb") as file:
            record = JobRecord.model_validate_json(file.read(MAX_RECORD_BYTES))
    except FileNotFoundError:
        raise RefusedError(f"{path}: no such job; `submit` prints the id of each job that it starts") from None
    except OSError as error:
        raise RefusedError(
            f"{path}: {error.strerror}; set `logs` to the folder that the job was submitted with"
        ) from error
    except ValidationError as error:
        raise RefusedError(f"{path}: not a job record: {error.errors()[0]['msg']}; delete it") from None
    if record.exit_code is None and record.machine != this_machine():
        raise RefusedError(f"{path}: the job runs on {record.machine}, this is {this_machine()}; ask there")
    return record


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
