"""Where a run runs, as people describe it in YAML: the machine or scheduler, the environment, the limits.

Read by every launcher. Knows nothing of training but the name of the module that is started.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from trainer.config.ranges import matching
from trainer.config.schema import Section

Positive = Annotated[int, Field(ge=1, le=10**6)]
NotNegative = Annotated[int, Field(ge=0, le=10**6)]
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[
    str,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}",
        "letters, digits, `_`, `.` and `-`, at most 64, the first a letter or digit",
    ),
]
"""Goes into file names and scheduler directives: no spaces, slashes or quotes."""
SlurmValue = Annotated[
    str,
    matching(r"[A-Za-z0-9_.,:|&*@+\-\[\]()]{1,256}", "1 to 256 letters, digits and `_.,:|&*@+-[]()`, without spaces"),
]
"""Goes into an #SBATCH line, which Slurm parses without a shell."""
SbatchOption = Annotated[
    str,
    matching(
        r"--[a-z][a-z0-9\-]{1,63}(=[A-Za-z0-9_.,:;/=|&*@+%\-\[\]()]{1,256})?",
        "an option by its long name, such as `--exclusive` or `--reservation=NAME`, without spaces or quotes",
    ),
]
Variable = Annotated[str, matching(r"[A-Za-z_][A-Za-z0-9_]*", "a name of letters, digits and `_`, the first no digit")]


def _one_line(text: str) -> str:
    if any(character in text for character in "\n\r\0"):
        raise ValueError("a line break or NUL does not fit on the one line that this becomes")
    return text


OneLine = Annotated[str, AfterValidator(_one_line)]
Host = Annotated[
    str,
    matching(
        r"[A-Za-z0-9_][A-Za-z0-9_.@:%\-]{0,254}",
        "a name or address, or user@name: letters, digits and `_.@:%-`, at most 255, the first a letter, digit or `_`",
    ),
]
"""Stands alone among the arguments of ssh, and must not be taken for an option."""


KubernetesName = Annotated[
    str,
    matching(
        r"[a-z0-9]([a-z0-9.\-]{0,251}[a-z0-9])?",
        "letters a-z, digits, `-` and `.`, at most 253, the first and the last a letter or digit",
    ),
]
LabelName = Annotated[
    str,
    matching(
        r"([a-z0-9]([a-z0-9.\-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.\-]{0,61}[A-Za-z0-9])?",
        "a name such as `zone` or `example.com/zone`: letters, digits and `_.-`, at most 63 after the `/`",
    ),
]
LabelValue = Annotated[
    str,
    matching(
        r"([A-Za-z0-9]([A-Za-z0-9_.\-]{0,61}[A-Za-z0-9])?)?",
        "letters, digits and `_.-`, at most 63, the first and the last a letter or digit",
    ),
]
Fields = dict[str, JsonValue]
"""Of a Kubernetes object. The cluster itself says what is wrong with them."""
SHARED_MEMORY = "/dev/shm"


def _told_apart(hosts: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({host for host in hosts if hosts.count(host) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is named twice; give each host once, and its ranks by ranks_per_node")
    return hosts


class LocalTarget(Section):
    """Processes on this machine."""

    kind: Literal["local"]
    ranks: Positive = 1
    """Processes; on a machine with GPUs, at most one for each."""

    @property
    def num_ranks(self) -> int:
        return self.ranks


class SshTarget(Section):
    """Processes on machines that are reached by ssh, watched by a process of the machine that submits."""

    kind: Literal["ssh"]
    hosts: Annotated[tuple[Host, ...], Field(min_length=1, max_length=4096), AfterValidator(_told_apart)]
    """Names as `ssh` takes them, aliases of ~/.ssh/config too; it must get in without asking anything."""
    nodes: Positive | None = None
    """How many of the hosts work at once: the first that answer, the others stand in for lost ones; null is all."""
    ranks_per_node: Positive = 1
    """One for each GPU of a host."""
    ssh: Annotated[tuple[OneLine, ...], Field(min_length=1)] = ("ssh",)
    """The command that reaches a host, such as `[ssh, -F, my_config]`; the host and our options come after it."""
    silence_seconds: Annotated[int, Field(ge=5, le=3600)] = 60
    """A host that does not answer for this long is lost; its ranks end when they hear nothing for as long."""
    reconnect_minutes: NotNegative = 30
    """How long a job that lost a host waits for enough hosts to answer before it fails."""
    metrics_port: Port | None = None
    """Tells Prometheus, by a file in `metrics_targets`, this port of each host that the job runs on; null where the
    hosts share that folder, and the run tells it itself. The run opens it, by its own `metrics.prometheus_port` and
    `metrics.prometheus_address`."""
    metrics_targets: OneLine = "runs/prometheus"
    """Folder where Prometheus looks for runs; may start at the folder that the launcher runs in."""

    @model_validator(mode="after")
    def _enough_hosts(self) -> "SshTarget":
        if self.num_nodes > len(self.hosts):
            raise ValueError(
                f"nodes is {self.nodes}, but there are {len(self.hosts)} hosts; name more or ask for fewer"
            )
        return self

    @property
    def num_nodes(self) -> int:
        return len(self.hosts) if self.nodes is None else self.nodes

    @property
    def num_ranks(self) -> int:
        return self.num_nodes * self.ranks_per_node


class SlurmTarget(Section):
    """A batch job whose ranks are started by srun itself, one task for each rank."""

    kind: Literal["slurm"]
    nodes: Positive = 1
    ranks_per_node: Positive = 1
    """One for each GPU of a node."""
    gpus_per_node: NotNegative = 0
    """0 asks for none."""
    cpus_per_rank: Positive = 1
    memory_gibibytes: Positive | None = None
    """Memory of each node; null leaves it to the partition."""
    time_limit_minutes: Positive
    partition: SlurmValue | None = None
    account: SlurmValue | None = None
    qos: SlurmValue | None = None
    constraint: SlurmValue | None = None
    """Node features, as in `sbatch --constraint`."""
    options: tuple[SbatchOption, ...] = ()
    """Further options of sbatch, as the site asks: `--exclusive`, `--gres=gpu:h100:4`, `--reservation=NAME`. Jobs that
    prepare data have them too."""
    notice_seconds: Annotated[int, Field(ge=30, le=3600)] = 180
    """SIGUSR2 reaches every rank this long before the time limit (Slurm may be 60 s early); time to take a snapshot."""

    @property
    def num_ranks(self) -> int:
        return self.nodes * self.ranks_per_node


class Toleration(Section):
    """A taint of nodes that pods of the job may run on all the same."""

    key: LabelName
    value: LabelValue | None = None
    """Null: whatever the taint's value is."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Null: every effect."""


class Volume(Section):
    """Storage that every pod of the job sees."""

    claim: KubernetesName | None = None
    """Name of a PersistentVolumeClaim of the namespace; with several nodes, one that many may write (ReadWriteMany)."""
    source: Fields | None = None
    """In place of a claim, storage of another kind as Kubernetes describes it: `{hostPath: {path: /mnt/nvme}}`."""
    path: Annotated[str, matching(r"/[^\n\r\0:]{1,1023}", "an absolute path, without `:`")]
    """Where the pods see it."""
    read_only: bool = False

    @model_validator(mode="after")
    def _one_storage(self) -> "Volume":
        if (self.claim is None) == (self.source is None):
            raise ValueError("give either `claim` or `source`")
        return self


class KubernetesTarget(Section):
    """A JobSet, one pod for each node; its controller must be installed in the cluster. See `jobset.py`."""

    kind: Literal["kubernetes"]
    image: Annotated[
        str, matching(r"[A-Za-z0-9][A-Za-z0-9_.:/@\-]{0,511}", "a registry's path with a tag or digest, without spaces")
    ]
    """Holds Python, the installed project and its configs; the cluster's nodes pull it."""
    nodes: Positive = 1
    """Pods that work at once."""
    ranks_per_node: Positive = 1
    """Processes in each pod; one for each of its GPUs."""
    gpus_per_node: NotNegative = 0
    """Of each pod; 0 asks for none."""
    gpu_resource: LabelName = "nvidia.com/gpu"
    """What the cluster's device plugin calls a GPU."""
    devices_per_node: dict[LabelName, Positive] = Field(default_factory=dict)
    """Other devices of each pod that trains, by what their plugins call them: `rdma/hca: 8`."""
    cpus_per_rank: Positive = 1
    """Set aside for each rank; a rank may use more where they are idle."""
    memory_gibibytes: Positive | None = None
    """Of each pod, which is killed where it takes more; null leaves it to the namespace."""
    shared_memory_gibibytes: Positive = 8
    """Most that /dev/shm holds, part of the pod's memory; NCCL and data loaders need more than the usual 64 MiB."""
    namespace: KubernetesName | None = None
    """Null is the one that kubectl uses by itself."""
    context: OneLine | None = None
    """Cluster and user, as in `kubectl --context`; null is kubectl's current one."""
    queue: KubernetesName | None = None
    """Kueue's LocalQueue, which lets the job start when there is room for all of it; null starts pods one by one."""
    priority_class: KubernetesName | None = None
    service_account: KubernetesName | None = None
    node_selector: dict[LabelName, LabelValue] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = ()
    image_pull_secrets: tuple[KubernetesName, ...] = ()
    environment_secrets: tuple[KubernetesName, ...] = ()
    """Secrets whose keys become variables of every rank, such as AWS_ACCESS_KEY_ID; `environment` goes before them."""
    volumes: tuple[Volume, ...] = ()
    annotations: dict[LabelName, str] = Field(default_factory=dict)
    """Of each pod, such as the networks that it joins: `k8s.v1.cni.cncf.io/networks: roce`."""
    pod: Fields = Field(default_factory=dict)
    """Further fields of each pod's `spec`, as Kubernetes names them: `{hostNetwork: true, dnsPolicy:
    ClusterFirstWithHostNet}`."""
    container: Fields = Field(default_factory=dict)
    """Further fields of its container: `{securityContext: {capabilities: {add: [IPC_LOCK]}}}`."""
    metrics_port: Port | None = None
    """Declares this port of each pod as `metrics`, for a PodMonitor; null declares none. The run opens it, by its own
    `metrics.prometheus_port`."""
    kubectl: Annotated[tuple[OneLine, ...], Field(min_length=1)] = ("kubectl",)
    """The command that reaches the cluster, such as `[kubectl, --kubeconfig=my_config]`."""

    @model_validator(mode="after")
    def _paths_told_apart(self) -> "KubernetesTarget":
        paths = [SHARED_MEMORY, *(volume.path.rstrip("/") for volume in self.volumes)]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise ValueError(
                f"{', '.join(twice)} is the path of two volumes; each needs its own, and one is {paths[0]}"
            )
        return self

    @property
    def num_ranks(self) -> int:
        return self.nodes * self.ranks_per_node


class Cluster(Section):
    """One place to run. The file that holds it is the first argument of every launcher verb."""

    name: Name
    """Name of the jobs, and the beginning of their log files."""
    target: Annotated[LocalTarget | SshTarget | SlurmTarget | KubernetesTarget, Field(discriminator="kind")]
    working_directory: OneLine | None = None
    """Folder that holds the checkout, at the same path on every node; null is the folder that the launcher runs in,
    under Kubernetes the image's own."""
    python: OneLine = ".venv/bin/python"
    """Interpreter on the nodes; a relative path starts at the working directory."""
    logs: OneLine = "runs/logs"
    """Folder of scripts, logs and job records, on storage that every node sees; may start at the working directory.
    Under Kubernetes nothing is written there."""
    environment: dict[Variable, OneLine | int] = Field(default_factory=dict)
    """Variables of every rank. Values are taken literally: `$HOME` is not expanded."""
    setup: tuple[OneLine, ...] = ()
    """Shell lines that run on the first node before the ranks start, such as `module load cuda`; taken as they are."""
    max_restarts: NotNegative = 20
    """How often a run that was preempted with a snapshot (exit code 3) is started again."""
    grace_seconds: Positive = 120
    """How long the other ranks may go on once one has failed, or once they were asked to end."""
