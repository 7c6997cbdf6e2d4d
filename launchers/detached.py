"""Jobs whose supervisor is a process of this machine, detached from the terminal.

Numbered from 1 in the log folder, where script, record and logs of a job lie side by side.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launchers.job import JobFiles, JobStatus, SchedulerError, State, job_files, make_log_folder, show_logs
from launchers.record import JobRecord, read_record
from trainer.errors import PREEMPTED, RefusedError

_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class DetachedJobs:
    """Starts scripts and finds their jobs again. `name` begins the names of all their files in `logs`."""

    logs: Path
    name: str

    def submit(self, script: str, *, within_seconds: float, how: str, advice: str) -> str:
        """Gives the job's id. Raises SchedulerError with what was said, and leaves nothing, where it doesn't start."""
        made_folders = [folder for folder in (self.logs, *self.logs.parents) if not folder.exists()]
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
        try:
            has_started = _has_started(files, process, within_seconds=within_seconds)
        except KeyboardInterrupt:
            _remove_job(files, process, made_folders)
            raise
        if not has_started:
            said = _remove_job(files, process, made_folders)
            raise SchedulerError(f"the job did not start {how}; it said: {said or 'nothing'}; {advice}")
        # the job outlives this process on purpose: without this, Popen warns about it when it is collected
        process.returncode = 0
        return files.job

    def status(self, job: str) -> JobStatus:
        record = read_record(self._files(job).record)
        pids = " ".join(str(member.pid) for member in record.members if member.is_alive)
        return JobStatus(
            job=job,
            state=_state(record),
            restarts=record.restarts,
            exit_code=record.exit_code,
            detail=f"processes on {record.machine}: {pids or 'none'}",
        )

    def cancel(self, job: str) -> None:
        """To the supervisor, which hands it on; where that was killed, to the members that it left behind."""
        record = read_record(self._files(job).record)
        living = [process for process in (record.supervisor, *record.members) if process.is_alive]
        if not living:
            raise RefusedError(f"job {job} is {_state(record)}; only a running job can be cancelled")
        for process in living[:1] if living[0] == record.supervisor else living:
            process.send(signal.SIGTERM)

    def show_logs(self, job: str, *, rank: int | None, lines: int, follow: bool) -> None:
        show_logs(self._files(job).logs(rank), lines=lines, follow=follow)

    def _files(self, job: str) -> JobFiles:
        return job_files(self.logs, self.name, job=job)

    def _new_job(self, script: str) -> JobFiles:
        """Takes the first free number by creating its script, which only one process can."""
        make_log_folder(self.logs)
        number = 0
        while True:
            number += 1
            files = self._files(str(number))
            if files.record.exists():  # of a job whose script somebody has deleted
                continue
            try:
                with files.script.open("x", encoding="utf-8") as file:
                    file.write(script)
            except FileExistsError:
                continue
            except OSError as error:
                files.script.unlink(missing_ok=True)
                raise RefusedError(
                    f"logs: {files.script}: {error.strerror}; make room, or name another folder"
                ) from error
            return files


def _has_started(files: JobFiles, process: "subprocess.Popen[bytes]", *, within_seconds: float) -> bool:
    """Waits until the supervisor runs, so that a job id that was printed is a job that can be asked for."""
    deadline = time.monotonic() + within_seconds
    while not files.record.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            return files.record.exists()  # it may have run to its end meanwhile
        time.sleep(_POLL_SECONDS)
    return True


def _remove_job(files: JobFiles, process: "subprocess.Popen[bytes]", made_folders: Sequence[Path]) -> str:
    """Ends what may still run, and leaves nothing of a job without an id; gives the end of what it said."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # it leads a session of its own
    process.wait()
    said = files.log.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
    for path in files.all():
        path.unlink(missing_ok=True)
    for folder in made_folders:
        with suppress(OSError):  # another job has come meanwhile
            folder.rmdir()
    return said


def _state(record: JobRecord) -> State:
    if record.exit_code is None:
        living = any(process.is_alive for process in (record.supervisor, *record.members))
        return "running" if living else "lost"
    if record.cancelled:
        return "cancelled"
    endings: dict[int, State] = {0: "finished", PREEMPTED: "preempted"}
    return endings.get(record.exit_code, "failed")
