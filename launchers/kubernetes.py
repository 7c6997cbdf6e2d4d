"""Runs a job as a JobSet of a Kubernetes cluster, through kubectl.

Nothing of the machine that submits is taken along: the image holds the code and its configs.
"""

import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from launchers.cluster import Cluster, KubernetesTarget
from launchers.commands import find_program, run_command
from launchers.job import JobStatus, SchedulerError
from launchers.jobset import CONTAINER, JOBSET_LABEL, render_jobset
from launchers.jobset_state import JobSet, Pod, PodList, job_status, read_answer
from launchers.output import lines_of_rank
from trainer.errors import RefusedError

MOST_PODS = 10_000
"""How many logs kubectl may read at once; its own bound is 5."""
_KIND = "jobsets.jobset.x-k8s.io"
_JOB = re.compile(r"[a-z]([a-z0-9\-]{0,61}[a-z0-9])?")


class KubernetesLauncher:
    """See `jobset.py` for what is submitted, `launchers.ranks` for what each pod runs."""

    def __init__(self, cluster: Cluster, target: KubernetesTarget, *, current: Path) -> None:
        self._cluster, self._target, self._current = cluster, target, current

    @property
    def checkout(self) -> Path:
        """The config is checked here, and read in the image at the same path below its working directory."""
        return self._current

    def render(self, arguments: Sequence[str]) -> str:
        return render_jobset(self._cluster, self._target, arguments)

    def submit(self, arguments: Sequence[str]) -> str:
        """The cluster itself ends the name; kubectl prints it as `KIND/NAME`."""
        text = self.render(arguments)
        said = run_command(self._kubectl("create", "--filename=-", "--output=name"), text=text)
        return _checked(said.strip().rpartition("/")[2])

    def status(self, job: str) -> JobStatus:
        """The cluster keeps a job that ended until somebody deletes it; a cancelled one goes with its last pod."""
        said = run_command(self._kubectl("get", _KIND, _checked(job), "--output=json"))
        return job_status(read_answer(said, JobSet, job=job), self._pods(job))

    def cancel(self, job: str) -> None:
        """SIGTERM to every pod, SIGKILL when its grace period is over; `status` finds the job until all have ended."""
        run_command(self._kubectl("delete", _KIND, _checked(job), "--cascade=foreground", "--wait=false"))

    def logs(self, job: str, *, rank: int | None, lines: int, follow: bool) -> None:
        """Of the pods there are: those of an earlier start are gone with their logs."""
        options = [f"--container={CONTAINER}", *(["--follow"] if follow else [])]
        if rank is not None:
            pod = self._pod_of_rank(_checked(job), rank)
            # the last lines of one rank are found among all of its pod; who follows is not made to wait for that
            tail = lines * pod.ranks if follow else -1
            command = self._kubectl("logs", pod.metadata.name, f"--tail={tail}", *options)
            _show_rank(command, rank, lines=None if follow else lines)
        else:
            selector = f"--selector={JOBSET_LABEL}={_checked(job)}"
            options += ["--prefix", f"--max-log-requests={MOST_PODS}", f"--tail={lines}"]
            command = self._kubectl("logs", selector, *options)
            os.execv(command[0], command)

    def _pod_of_rank(self, job: str, rank: int) -> Pod:
        pods = self._pods(job)
        for pod in pods:
            if rank // pod.ranks == pod.node:
                return pod
        raise RefusedError(f"job {job}: none of its {len(pods)} pods holds rank {rank}; `status` says what there is")

    def _pods(self, job: str) -> tuple[Pod, ...]:
        said = run_command(self._kubectl("get", "pods", f"--selector={JOBSET_LABEL}={job}", "--output=json"))
        return read_answer(said, PodList, job=job).items

    def _kubectl(self, *arguments: str) -> list[str]:
        target = self._target
        program = find_program(target.kubectl[0], advice="run this on a machine where `kubectl get jobsets` answers")
        place = {"context": target.context, "namespace": target.namespace}
        options = [f"--{name}={value}" for name, value in place.items() if value is not None]
        return [program, *target.kubectl[1:], *options, *arguments]


def _show_rank(command: Sequence[str], rank: int, *, lines: int | None) -> None:
    """Prints that rank's last `lines`, or (None) all as they come. Ctrl-C, or a reader that leaves, ends it quietly."""
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        own = lines_of_rank(process.stdout, rank)
        for line in own if lines is None else deque(own, maxlen=lines):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    if process.returncode != 0:
        raise SchedulerError(f"kubectl logs ended with exit code {process.returncode}; what it said stands above")


def _checked(job: str) -> str:
    """Raises RefusedError for an id that no cluster gives."""
    if _JOB.fullmatch(job) is None:
        raise RefusedError(f"job {job!r} is not an id that `submit` prints; expected a name such as `wellspring-x7k2p`")
    return job
