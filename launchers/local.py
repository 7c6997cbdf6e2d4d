"""Runs a job as processes of this machine, detached from the terminal."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from launchers.cluster import Cluster, LocalTarget
from launchers.detached import DetachedJobs
from launchers.job import JobStatus
from launchers.script import (
    HEADER,
    is_preparation,
    job_prefix,
    log_folder,
    preamble,
    preparation_command,
    training_command,
    working_directory,
)

START_SECONDS = 30.0
"""How long the supervisor may take to say that it has started; it imports nothing heavy."""


class LocalLauncher:
    """See `launchers.ranks` for what the script runs."""

    def __init__(self, cluster: Cluster, target: LocalTarget, *, current: Path) -> None:
        self._cluster, self._target = cluster, target
        self._folder = working_directory(cluster, current)
        self._jobs = DetachedJobs(log_folder(cluster, self._folder), cluster.name)

    @property
    def checkout(self) -> Path:
        return self._folder

    def render(self, arguments: Sequence[str]) -> str:
        """Run by hand with bash, it runs in the foreground as job 0. Where ranks train, data is prepared by workers."""
        cluster, ranks, logs = self._cluster, self._target.ranks, self._jobs.logs
        if is_preparation(arguments):
            command, ranks = preparation_command(cluster, arguments, workers=str(ranks)), 1
        else:
            command = training_command(cluster, arguments)
        lines = [
            "#!/bin/bash",
            HEADER,
            "set -u",
            *preamble(cluster, self._folder),
            f"mkdir -p -- {shlex.quote(str(logs))} || exit 1",
            f"exec {shlex.quote(cluster.python)} -m launchers.ranks --ranks={ranks} \\",
            f"  --max-restarts={cluster.max_restarts} --grace-seconds={cluster.grace_seconds} \\",
            f"  --prefix={job_prefix(logs, cluster.name)} -- \\",
            f"  {command}",
        ]
        return "\n".join(lines) + "\n"

    def submit(self, arguments: Sequence[str]) -> str:
        return self._jobs.submit(
            self.render(arguments),
            within_seconds=START_SECONDS,
            how=f"by `python: {self._cluster.python}` in {self._folder}",
            advice="set `python` in CLUSTER to an interpreter that has this project installed",
        )

    def status(self, job: str) -> JobStatus:
        return self._jobs.status(job)

    def cancel(self, job: str) -> None:
        self._jobs.cancel(job)

    def logs(self, job: str, *, rank: int | None, lines: int, follow: bool) -> None:
        self._jobs.show_logs(job, rank=rank, lines=lines, follow=follow)
