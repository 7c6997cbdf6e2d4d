"""Runs a job under Slurm: an sbatch script that starts one task for each rank, and requeues after a preemption.

No agent stands between srun and the ranks, so the scheduler's notice reaches each of them and exit codes come back.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from launchers.cluster import Cluster, SlurmTarget
from launchers.commands import find_program, run_command
from launchers.job import JobStatus, SchedulerError, State, job_files, make_log_folder, show_logs
from launchers.script import (
    HEADER,
    is_preparation,
    log_folder,
    preamble,
    training_command,
    working_directory,
)
from launchers.slurm_array import render_array
from trainer.errors import PREEMPTED, RefusedError

STATES: dict[str, State] = {
    "PENDING": "pending",
    "REQUEUED": "pending",
    "REQUEUE_HOLD": "pending",
    "SUSPENDED": "pending",
    "CONFIGURING": "pending",
    "RUNNING": "running",
    "COMPLETING": "running",
    "COMPLETED": "finished",
    "PREEMPTED": "preempted",
    "CANCELLED": "cancelled",
}
"""What Slurm calls each state; every other one is a failure (FAILED, TIMEOUT, NODE_FAIL, OUT_OF_MEMORY, …)."""
WEIGHTIEST_FIRST: tuple[State, ...] = ("running", "pending", "failed", "lost", "cancelled", "preempted", "finished")
"""An array is in the first of these states that one of its tasks is in."""
_OWN_OPTIONS = (
    *("job-name", "nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "time", "array", "chdir"),
    *(
        "output",
        "error",
        "input",
        "open-mode",
        "requeue",
        "no-requeue",
        "signal",
        "wait",
        "wrap",
        "parsable",
        "test-only",
    ),
)
"""Of sbatch, that scripts set or that would break them."""
SPECIAL = "'\"\\%#"
_RANK = """  trap "" USR2  # a notice before the trainer listens is ignored instead of deadly
  export RANK="$SLURM_PROCID" WORLD_SIZE="$SLURM_NTASKS" LOCAL_RANK="$SLURM_LOCALID" LOCAL_WORLD_SIZE={ranks_per_node}
  exec "$0" "$@\""""


class SlurmLauncher:
    """Submits through sbatch, asks scontrol, cancels through scancel."""

    def __init__(self, cluster: Cluster, target: SlurmTarget, *, current: Path) -> None:
        self._cluster, self._target = cluster, target
        self._folder = working_directory(cluster, current)

    @property
    def checkout(self) -> Path:
        return self._folder

    @property
    def _logs(self) -> Path:
        """Raises RefusedError for a folder that Slurm would read as something else."""
        logs = log_folder(self._cluster, self._folder)
        if any(character.isspace() or character in SPECIAL for character in str(logs)):
            raise RefusedError(
                f"logs: {logs} holds a blank or one of {SPECIAL}, which Slurm expands or splits; "
                "set `logs` to an absolute path without them"
            )
        return logs

    def render(self, arguments: Sequence[str]) -> str:
        cluster, target = self._cluster, self._target
        if is_preparation(arguments):
            sites = self._site_directives(with_gpus=False)
            return render_array(cluster, target, arguments, sites=sites, logs=self._logs, folder=self._folder)
        lines = [
            "#!/bin/bash",
            *(f"#SBATCH {line}" for line in self._directives()),
            HEADER,
            "set -u",
            "trap : USR2  # meant for the ranks; the script itself outlives it",
            *preamble(self._cluster, self._folder),
            *self._meeting_point(),
            *self._start(arguments),
            *_requeue(self._cluster.max_restarts),
        ]
        return "\n".join(lines) + "\n"

    def submit(self, arguments: Sequence[str]) -> str:
        """Slurm writes no log into a folder that is missing, and says so nowhere: it is made here."""
        script = self.render(arguments)
        program = _program("sbatch")
        make_log_folder(self._logs)
        said = run_command([program, "--parsable"], text=script)
        job = said.strip().partition(";")[0]
        job_files(self._logs, self._cluster.name, job=job)
        return job

    def status(self, job: str) -> JobStatus:
        """From the controller, which forgets a job some minutes after its end."""
        job_files(self._logs, self._cluster.name, job=job)
        return parse_job(run_command([_program("scontrol"), "show", "job", "--oneliner", job]), job=job)

    def cancel(self, job: str) -> None:
        """SIGTERM to every rank, SIGKILL after the site's KillWait; Slurm does not requeue a cancelled job."""
        job_files(self._logs, self._cluster.name, job=job)
        run_command([_program("scancel"), job])

    def logs(self, job: str, *, rank: int | None, lines: int, follow: bool) -> None:
        show_logs(job_files(self._logs, self._cluster.name, job=job).logs(rank), lines=lines, follow=follow)

    def _directives(self) -> list[str]:
        target = self._target
        return [
            f"--job-name={self._cluster.name}",
            f"--nodes={target.nodes}",
            f"--ntasks-per-node={target.ranks_per_node}",
            f"--cpus-per-task={target.cpus_per_rank}",
            *self._site_directives(with_gpus=True),
            f"--output={self._logs}/%x-%j.log",
            "--open-mode=append",
            "--requeue",
            f"--signal=USR2@{target.notice_seconds}",
        ]

    def _site_directives(self, *, with_gpus: bool) -> list[str]:
        """What a node must have, and who pays."""
        target = self._target
        optional = {
            "mem": None if target.memory_gibibytes is None else f"{target.memory_gibibytes}G",
            "gpus-per-node": (target.gpus_per_node or None) if with_gpus else None,
            "partition": target.partition,
            "account": target.account,
            "qos": target.qos,
            "constraint": target.constraint,
        }
        named = [f"--{name}={value}" for name, value in optional.items() if value is not None]
        for option in target.options:
            _refuse_own(option, [*_OWN_OPTIONS, *optional])
        return [f"--time={target.time_limit_minutes}", *named, *target.options]

    def _meeting_point(self) -> list[str]:
        """Where the ranks find each other: the first node, and a port below those that Linux gives to clients."""
        address = [] if "MASTER_ADDR" in self._cluster.environment else [
            'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
        ]  # fmt: skip
        return [*address, "MASTER_PORT=$((15000 + SLURM_JOB_ID % 16000))", "export MASTER_ADDR MASTER_PORT"]

    def _start(self, arguments: Sequence[str]) -> list[str]:
        """Not --kill-on-bad-exit: the first rank to leave with a snapshot would kill those still closing."""
        cluster, target = self._cluster, self._target
        rank_logs = f"{self._logs}/%x-%j.rank-%t.log"
        return [
            f"srun --cpus-per-task={target.cpus_per_rank} --kill-on-bad-exit=0 --wait={cluster.grace_seconds} \\",
            f"  --input=none --open-mode=append --output={rank_logs} \\",
            "  /bin/bash -c '",
            _RANK.format(ranks_per_node=target.ranks_per_node),
            f"' {training_command(cluster, arguments)}",
            "code=$?",
        ]


def _refuse_own(option: str, own: Sequence[str]) -> None:
    """Raises RefusedError for an option that the script depends on, or the beginning of its name, which Slurm takes."""
    name = option[2:].partition("=")[0]
    if any(taken.startswith(name) for taken in own):
        raise RefusedError(
            f"target.options: {option}: the launcher sets this itself, by other keys or as its script needs"
        )


def parse_job(text: str, *, job: str) -> JobStatus:
    """Reads what `scontrol show job --oneliner` says: a line, or one for each task of an array.

    Raises SchedulerError where a line is of no job.
    """
    tasks = [_parse_task(line, job=job) for line in text.strip().splitlines() or [text]]
    if len(tasks) == 1:
        return tasks[0]
    state = min((task.state for task in tasks), key=WEIGHTIEST_FIRST.index)
    codes = [task.exit_code for task in tasks if task.exit_code is not None]
    counts = Counter(task.state for task in tasks)
    return JobStatus(
        job=job,
        state=state,
        restarts=max(task.restarts for task in tasks),
        exit_code=max(codes, default=None) if state not in ("pending", "running") else None,
        detail=f"{len(tasks)} tasks: "
        + ", ".join(f"{counts[name]} {name}" for name in WEIGHTIEST_FIRST if counts[name]),
    )


def _parse_task(text: str, *, job: str) -> JobStatus:
    found = {name: _field(text, name) for name in ("JobState", "Restarts", "ExitCode", "Reason", "NodeList")}
    if found["JobState"] is None:
        raise SchedulerError(f"scontrol show job {job}: no JobState in its answer: {text.strip()[:200]!r}")
    state = STATES.get(found["JobState"], "failed")
    code, _, number = (found["ExitCode"] or "0:0").partition(":")
    exit_code = int(code) or (128 + int(number) if number != "0" else 0)
    if state == "failed" and exit_code == PREEMPTED:
        state = "preempted"
    return JobStatus(
        job=job,
        state=state,
        restarts=int(found["Restarts"] or 0),
        exit_code=exit_code if state in ("finished", "preempted", "failed") else None,
        detail=f"{found['JobState']}, reason {found['Reason']}, nodes {found['NodeList']}",
    )


def _field(text: str, name: str) -> str | None:
    """The first one: a later field, such as the command, may hold any text."""
    match = re.search(rf"(?:^|\s){name}=(\S*)", text)
    return None if match is None else match.group(1)


def _requeue(max_restarts: int) -> list[str]:
    """SLURM_RESTART_COUNT counts every requeue, those after a lost node too."""
    return [
        f'if [ "$code" -eq {PREEMPTED} ]; then',
        f'  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_restarts} ]; then',
        '    echo "launchers: preempted with a snapshot; requeue after restart ${SLURM_RESTART_COUNT:-0}"',
        '    scontrol requeue "$SLURM_JOB_ID" && exit 0',
        "  fi",
        '  echo "launchers: preempted with a snapshot, not requeued; submit the same command again to go on"',
        "fi",
        'exit "$code"',
    ]


def _program(name: str) -> str:
    return find_program(name, advice="run this on a login node of the Slurm cluster")
