"""The Slurm script of a preparation of data: an array of which each task is one machine and makes one part. Pure text.

No task waits for another: a part goes on wherever it is started again, and the one that ends last writes the manifest.
"""

from collections.abc import Sequence
from pathlib import Path

from launchers.cluster import Cluster, SlurmTarget
from launchers.script import HEADER, preamble, preparation_command

_WAIT = """conversion=$!
trap 'notice=1; kill "$conversion"' USR2  # the time ends, or another job needs the machine
wait "$conversion"
code=$?"""


def render_array(
    cluster: Cluster, target: SlurmTarget, arguments: Sequence[str], *, sites: Sequence[str], logs: Path, folder: Path
) -> str:
    """`nodes` tasks of one node each, without GPUs; a worker for each CPU. `sites`: directives that every job has."""
    directives = [
        f"--job-name={cluster.name}",
        f"--array=0-{target.nodes - 1}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={target.ranks_per_node * target.cpus_per_rank}",
        *sites,
        f"--output={logs}/%x-%A.rank-%a.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR2@{target.notice_seconds}",
    ]
    command = preparation_command(cluster, arguments, workers='"$SLURM_CPUS_PER_TASK"')
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {line}" for line in directives),
        HEADER,
        "set -u",
        "trap : USR2  # a notice that comes this early is lost, and deadly without this",
        *preamble(cluster, folder),
        f'{command} --part "$SLURM_ARRAY_TASK_ID/{target.nodes}" &',
        _WAIT,
        *_requeue(cluster.max_restarts),
    ]
    return "\n".join(lines) + "\n"


def _requeue(max_restarts: int) -> list[str]:
    """A conversion may be killed anywhere, so a notice just begins it anew."""
    return [
        'if [ -n "${notice:-}" ]; then',
        '  wait "$conversion"',
        f'  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_restarts} ]; then',
        '    echo "launchers: stopped by a notice; requeue after restart ${SLURM_RESTART_COUNT:-0}"',
        '    scontrol requeue "$SLURM_JOB_ID" && exit 0',
        "  fi",
        '  echo "launchers: stopped by a notice, not requeued; submit the same command again to go on"',
        "fi",
        'exit "$code"',
    ]
