"""Runs a job as processes of this machine, detached from the terminal."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from launchers.cluster import Cluster, LocalTarget
from launchers.job import JobFiles, JobStatus, SchedulerError, State, job_files
from launchers.record import JobRecord, read_record
from launchers.script import (
    HEADER,
    PREEMPTED,
    is_preparation,
    log_folder,
    preamble,
    preparation_command,
    training_command,
    working_directory,
)
from trainer.errors import RefusedError

START_SECONDS = 30.0
"""How long the supervisor may take to say that it has started; it imports nothing heavy."""
_POLL_SECONDS = 0.02


class LocalLauncher:
    """Jobs are numbered from 1 in the log folder; script, record and logs of a job lie there side by side."""

    def __init__(self, cluster: Cluster, target: LocalTarget, *, current: Path) -> None:
        self._cluster, self._target = cluster, target
        self._folder = working_directory(cluster, current)

    @property
    def _logs(self) -> Path:
        return log_folder(self._cluster, self._folder)

    def render(self, arguments: Sequence[str]) -> str:
        """Run by hand with bash, it runs in the foreground as job 0. Where ranks train, data is prepared by workers."""
        cluster, ranks = self._cluster, self._target.ranks
        if is_preparation(arguments):
            command, ranks = preparation_command(cluster, arguments, workers=str(ranks)), 1
        else:
            command = training_command(cluster, arguments)
        prefix = shlex.quote(str(self._logs / cluster.name)) + '-"${LAUNCH_JOB:-0}"'
        lines = [
            "#!/bin/bash",
            HEADER,
            "set -u",
            *preamble(cluster, self._folder),
            f"mkdir -p -- {shlex.quote(str(self._logs))} || exit 1",
            f"exec {shlex.quote(cluster.python)} -m launchers.ranks --ranks={ranks} \\",
            f"  --max-restarts={cluster.max_restarts} --grace-seconds={cluster.grace_seconds} \\",
            f"  --prefix={prefix} -- \\",
            f"  {command}",
        ]
        return "\n".join(lines) + "\n"

    def submit(self, arguments: Sequence[str]) -> str:
        script = self.render(arguments)
        made_folders = [folder for folder in (self._logs, *self._logs.parents) if not folder.exists()]
        files = self._new_job(script)
        with files.log.open("ab") as log:
            process = subprocess.Popen(
                ["/bin/bash", str(files.script)],
                env=os.environ | {"LAUNCH_JOB": files.job},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if not _has_started(files, process):
            said = _remove_job(files, process, made_folders)
            raise SchedulerError(
                f"the job did not start by `python: {self._cluster.python}` in {self._folder}; it said: "
                f"{said or 'nothing'}; set `python` in CLUSTER to an interpreter that has this project installed"
            )
        # the job outlives this process on purpose: without this, Popen warns about it when it is collected
        process.returncode = 0
        return files.job

    def status(self, job: str) -> JobStatus:
        record = read_record(self._files(job).record)
        pids = " ".join(str(rank.pid) for rank in record.ranks if rank.is_alive)
        return JobStatus(
            job=job,
            state=_state(record),
            restarts=record.restarts,
            exit_code=record.exit_code,
            detail=f"processes of ranks: {pids or 'none'}",
        )

    def cancel(self, job: str) -> None:
        """To the supervisor, which hands it on; where that was killed, to the ranks that it left behind."""
        record = read_record(self._files(job).record)
        living = [process for process in (record.supervisor, *record.ranks) if process.is_alive]
        if not living:
            raise RefusedError(f"job {job} is {_state(record)}; only a running job can be cancelled")
        for process in living[:1] if living[0] == record.supervisor else living:
            process.send(signal.SIGTERM)

    def _files(self, job: str) -> JobFiles:
        return job_files(self._logs, self._cluster.name, job=job)

    def _new_job(self, script: str) -> JobFiles:
        """Takes the first free number by creating its script, which only one process can."""
        self._logs.mkdir(parents=True, exist_ok=True)
        number = 0
        while True:
            number += 1
            files = self._files(str(number))
            try:
                with files.script.open("x", encoding="utf-8") as file:
                    file.write(script)
            except FileExistsError:
                continue
            return files


def _has_started(files: JobFiles, process: subprocess.Popen[bytes]) -> bool:
    """Waits until the supervisor runs, so that a job id that was printed is a job that can be asked for."""
    deadline = time.monotonic() + START_SECONDS
    while not files.record.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            return files.record.exists()  # it may have run to its end meanwhile
        time.sleep(_POLL_SECONDS)
    return True


def _remove_job(files: JobFiles, process: subprocess.Popen[bytes], made_folders: Sequence[Path]) -> str:
    """Ends what may still run, and leaves nothing of a job without an id; gives the end of what it said."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # it leads a session of its own
    process.wait()
    said = files.log.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
    for path in (files.log, files.script):
        path.unlink(missing_ok=True)
    for folder in made_folders:
        with suppress(OSError):  # another job has come meanwhile
            folder.rmdir()
    return said


def _state(record: JobRecord) -> State:
    if record.exit_code is None:
        living = any(process.is_alive for process in (record.supervisor, *record.ranks))
        return "running" if living else "lost"
    if record.cancelled:
        return "cancelled"
    endings: dict[int, State] = {0: "finished", PREEMPTED: "preempted"}
    return endings.get(record.exit_code, "failed")
