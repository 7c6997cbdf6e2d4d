"""A real Slurm of virtual nodes on loopback: own key, ports and folders; nothing outside its folder is touched.

Where two programs share one machine, Slurm tells nodes apart by port.
"""

import getpass
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.daemons import start_daemon, with_system_folders
from tests.integration.practice import eventually
from tests.ports import free_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
CONFIG = """
ClusterName=wellspring
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# a requeued job may start once its old credential has expired; 5 s is the least that Slurm takes
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmdDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=300
JobRequeue=1
NodeName=DEFAULT CPUs=4 RealMemory=4000 State=UNKNOWN
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=train Nodes=n[1-{num_nodes}] Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=urgent Nodes=n[1-{num_nodes}] State=UP PriorityTier=10 PreemptMode=OFF
"""


@dataclass(frozen=True)
class SlurmCluster:
    """A running cluster; `environment` makes Slurm's commands talk to it."""

    folder: Path
    environment: Mapping[str, str]

    def ask(self, *command: str) -> str:
        done = subprocess.run(
            command, env=dict(self.environment), capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    def wait_for_restart(self, job: str) -> None:
        """Until the requeued job runs again, sooner than Slurm would by itself.

        Not at once: credentials are told apart by whole seconds, and in the second in which the first start ended
        its nodes refuse the next one ("Job credential revoked"), which Slurm takes for the end of the job.
        """
        eventually(lambda: "JobState=PENDING" in self._show(job), what=f"job {job} waits for its restart")
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now+2seconds")
        eventually(lambda: "JobState=RUNNING" in self._show(job), what=f"job {job} restarts")

    def has_signalled(self, job: str, number: signal.Signals) -> bool:
        """Whether every node says that it has delivered the signal to the job's ranks."""
        said = f"Sent signal {int(number)} to StepId={job}.0"
        return all(said in path.read_text() for path in self.folder.glob("log/slurmd-*.log"))

    def _show(self, job: str) -> str:
        return self.ask("scontrol", "show", "job", job)


@contextmanager
def slurm_cluster(num_nodes: int) -> Iterator[SlurmCluster]:
    """Up to the moment when every node is idle; ended with everything that ran in it."""
    with ExitStack() as stack:
        # munge's socket needs a path of at most 107 characters, more than pytest's folders leave
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        cluster = _configure(folder, num_nodes)
        munge = folder / "munge"
        _daemon(stack, cluster, _munged(munge))
        eventually((munge / "socket").exists, what="munged opens its socket")
        _daemon(stack, cluster, ["slurmctld", "-D", "-c", "-f", str(folder / "slurm.conf")])
        for number in range(1, num_nodes + 1):
            _daemon(stack, cluster, ["slurmd", "-D", "-N", f"n{number}", "-f", str(folder / "slurm.conf")])
        eventually(lambda: _all_idle(cluster, num_nodes), what="all nodes are idle")
        yield cluster
        cluster.ask("scancel", "--user", getpass.getuser(), "--signal=KILL", "--full")
        cluster.ask("scancel", "--user", getpass.getuser())
        eventually(lambda: not cluster.ask("squeue", "--noheader"), what="the queue is empty")


def _configure(folder: Path, num_nodes: int) -> SlurmCluster:
    for name in ("state", "log", "munge"):
        (folder / name).mkdir()
    ports, host = free_ports(num_nodes + 1), socket.gethostname().partition(".")[0]
    nodes = [
        f"NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[number]}"
        for number in range(1, num_nodes + 1)
    ]
    text = CONFIG.format(
        host=host, ports=ports, user=getpass.getuser(), folder=folder, nodes="\n".join(nodes), num_nodes=num_nodes
    )
    (folder / "slurm.conf").write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
    return SlurmCluster(folder, with_system_folders(environment) | {"SLURM_CONF": str(folder / "slurm.conf")})


def _munged(folder: Path) -> list[str]:
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={folder / name}" for option, name in files.items()]
    return ["munged", "--foreground", "--force", "--num-threads=2", *options]


def _daemon(stack: ExitStack, cluster: SlurmCluster, command: Sequence[str]) -> None:
    log = cluster.folder / "log" / f"{command[0]}.out"
    start_daemon(stack, command, environment=cluster.environment, log=log)


def _all_idle(cluster: SlurmCluster, num_nodes: int) -> bool:
    answer = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--partition=train", "--format=%T"],
        env=dict(cluster.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.split() == ["idle"] * num_nodes
