"""Runs a job on machines that are reached by ssh: nothing is installed there but the checkout, nothing stays behind.

The job's script runs on the machine that submits, detached from the terminal; it holds what each host runs.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from launchers.cluster import Cluster, SshTarget
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

START_SECONDS = 180.0
"""How long all hosts together may take to answer for the first time."""


class SshLauncher:
    """See `launchers.hosts` for what the script runs, `launchers.ranks` for what each host runs."""

    def __init__(self, cluster: Cluster, target: SshTarget, *, current: Path) -> None:
        self._cluster, self._target, self._current = cluster, target, current
        self._jobs = DetachedJobs(log_folder(cluster, current), cluster.name)

    @property
    def checkout(self) -> Path:
        return self._current

    def render(self, arguments: Sequence[str]) -> str:
        """Run by hand with bash, it runs in the foreground as job 0."""
        cluster, target, logs = self._cluster, self._target, self._jobs.logs
        on_each_host = self._on_each_host(arguments)
        end = _delimiter(on_each_host)
        lines = [
            "#!/bin/bash",
            HEADER,
            "set -u",
            f"cd -- {shlex.quote(str(self._current))} || exit 1",
            f"mkdir -p -- {shlex.quote(str(logs))} || exit 1",
            f"exec {shlex.quote(sys.executable)} -m launchers.hosts --nodes={target.num_nodes} \\",
            f"  --ranks-per-node={1 if is_preparation(arguments) else target.ranks_per_node} \\",
            f"  --max-restarts={cluster.max_restarts} --grace-seconds={cluster.grace_seconds} \\",
            f"  --silence-seconds={target.silence_seconds} --reconnect-minutes={target.reconnect_minutes} \\",
            *self._master_address(),
            *self._metrics(arguments),
            f"  --prefix={job_prefix(logs, cluster.name)} --ssh={shlex.quote(shlex.join(target.ssh))} \\",
            f"  -- {shlex.join(target.hosts)} <<'{end}'",
            *on_each_host,
            end,
        ]
        return "\n".join(lines) + "\n"

    def submit(self, arguments: Sequence[str]) -> str:
        return self._jobs.submit(
            self.render(arguments),
            within_seconds=START_SECONDS,
            how=f"on {self._target.num_nodes} of its {len(self._target.hosts)} hosts",
            advice="each must let `ssh HOST true` in without a question, and hold the checkout and its `python`",
        )

    def status(self, job: str) -> JobStatus:
        return self._jobs.status(job)

    def cancel(self, job: str) -> None:
        self._jobs.cancel(job)

    def logs(self, job: str, *, rank: int | None, lines: int, follow: bool) -> None:
        self._jobs.show_logs(job, rank=rank, lines=lines, follow=follow)

    def _on_each_host(self, arguments: Sequence[str]) -> list[str]:
        """What bash reads there from its standard input, before orders. LAUNCH_NODE: which node, or --ready."""
        cluster, target = self._cluster, self._target
        if is_preparation(arguments):
            ranks = 1
            command = preparation_command(cluster, arguments, workers=str(target.ranks_per_node))
            command += f' --part "${{LAUNCH_NODE#--node=}}/{target.num_nodes}"'
        else:
            ranks, command = target.ranks_per_node, training_command(cluster, arguments)
        return [
            "{",
            *preamble(cluster, working_directory(cluster, self._current)),
            "} < /dev/null  # orders are not for `setup`",
            f'exec {shlex.quote(cluster.python)} -m launchers.ranks "$LAUNCH_NODE" --nodes={target.num_nodes} \\',
            f"  --ranks={ranks} --grace-seconds={cluster.grace_seconds} \\",
            f"  --silence-seconds={target.silence_seconds} -- {command}",
        ]

    def _master_address(self) -> list[str]:
        given = self._cluster.environment.get("MASTER_ADDR")
        return [] if given is None else [f"  --master-address={shlex.quote(str(given))} \\"]

    def _metrics(self, arguments: Sequence[str]) -> list[str]:
        """A preparation serves none."""
        if self._target.metrics_port is None or is_preparation(arguments):
            return []
        folder = shlex.quote(str(self._current / self._target.metrics_targets))
        return [f"  --metrics-port={self._target.metrics_port} --metrics-targets={folder} \\"]


def _delimiter(lines: Sequence[str]) -> str:
    """Ends the lines in the script, and is none of them."""
    end, taken = "ON_EACH_HOST", "\n".join(lines).split("\n")
    while end in taken:
        end += "_"
    return end
