"""The JobSet of a job, as a Kubernetes cluster is asked for it: one pod for each node, as an Indexed Job. Pure text.

JobSet, rather than a Job alone, because it starts all pods again together, and gives them names in the network.
"""

import re
import shlex
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launchers.cluster import SHARED_MEMORY, Cluster, KubernetesTarget, Toleration
from launchers.manifest import as_yaml
from launchers.script import HEADER, is_preparation, preparation_command, training_command
from trainer.errors import PREEMPTED, RefusedError

CONTAINER = "trainer"
JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
INDEX = "JOB_COMPLETION_INDEX"
"""Kubernetes sets this variable in each pod to the node's number."""
RANKS_ANNOTATION = "wellspring/ranks-per-node"
MASTER_PORT = 29500
"""Each pod has an address of its own, so that any port is free."""
LAST_SECONDS = 30
"""How long a pod outlives its ranks' time to end, before it is killed: to say its last words."""
_OWN_VARIABLES = ("JOBSET_NAME", INDEX)
_NAME = re.compile(r"[a-z]([a-z0-9\-]*[a-z0-9])?")
_LONGEST_HOST_NAME = 63
_EXPANDED = re.compile(r"\$(?=[$(]|[^\x00-\x7f])")
_DISRUPTED = {"type": "DisruptionTarget", "status": "True"}
"""A pod that was evicted, preempted, or whose node goes: for reasons that are not its own."""
_FAIL = {"name": "failed", "action": "FailJobSet"}


@dataclass(frozen=True, slots=True)
class _Work:
    """What each pod runs, and what its end means."""

    command: str
    ranks: int
    devices: Mapping[str, int]
    pod_rules: tuple[Mapping[str, Any], ...]
    job_rules: tuple[Mapping[str, Any], ...]
    max_restarts: int


def render_jobset(cluster: Cluster, target: KubernetesTarget, arguments: Sequence[str]) -> str:
    """Raises RefusedError for what would break the names of pods or the variables that they start by."""
    _check_names(cluster, num_nodes=target.nodes)
    describe = _preparation if is_preparation(arguments) else _training
    work = describe(cluster, target, arguments)
    metadata: dict[str, Any] = {"generateName": f"{cluster.name}-"}
    if target.namespace is not None:
        metadata["namespace"] = target.namespace
    if target.queue is not None:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": target.queue}
    spec: dict[str, Any] = {} if target.queue is None else {"suspend": True}  # until Kueue has room
    spec |= {
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "failurePolicy": {"maxRestarts": work.max_restarts, "rules": list(work.job_rules)},
        "replicatedJobs": [{"name": "node", "replicas": 1, "template": {"spec": _job(cluster, target, work)}}],
    }
    jobset = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata, "spec": spec}
    return f"{HEADER}\n{as_yaml(jobset)}"


def _training(cluster: Cluster, target: KubernetesTarget, arguments: Sequence[str]) -> _Work:
    """One pod that ends with a snapshot, or is disrupted, ends them all, and the JobSet starts all again."""
    preempted = {"containerName": CONTAINER, "operator": "In", "values": [PREEMPTED]}
    return _Work(
        command=training_command(cluster, arguments),
        ranks=target.ranks_per_node,
        devices={target.gpu_resource: target.gpus_per_node} | target.devices_per_node,
        pod_rules=(
            {"action": "FailJob", "onExitCodes": preempted},
            {"action": "FailJob", "onPodConditions": [_DISRUPTED]},
        ),
        job_rules=(
            {"name": "preempted", "action": "RestartJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
            _FAIL,
        ),
        max_restarts=cluster.max_restarts,
    )


def _preparation(cluster: Cluster, target: KubernetesTarget, arguments: Sequence[str]) -> _Work:
    """A part for each pod. No pod waits for another, so one that is disrupted is made again alone.

    Kueue, which suspends a job to give its place to another, sends SIGTERM but does not mark the pods as disrupted.
    """
    stopped = {"containerName": CONTAINER, "operator": "In", "values": [128 + signal.SIGTERM]}
    command = preparation_command(cluster, arguments, workers=str(_cpus(target)))
    return _Work(
        command=f'{command} --part "${INDEX}/{target.nodes}"',
        ranks=1,
        devices={},
        pod_rules=(
            {"action": "Ignore", "onPodConditions": [_DISRUPTED]},
            {"action": "Ignore", "onExitCodes": stopped},
        ),
        job_rules=(_FAIL,),
        max_restarts=0,
    )


def _job(cluster: Cluster, target: KubernetesTarget, work: _Work) -> dict[str, Any]:
    return {
        "completionMode": "Indexed",
        "parallelism": target.nodes,
        "completions": target.nodes,
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": list(work.pod_rules)},
        "template": {
            "metadata": {
                "labels": {"app.kubernetes.io/name": "wellspring"},
                "annotations": target.annotations | {RANKS_ANNOTATION: str(work.ranks)},
            },
            "spec": _pod(cluster, target, work),
        },
    }


def _pod(cluster: Cluster, target: KubernetesTarget, work: _Work) -> dict[str, Any]:
    shared_memory = {"medium": "Memory", "sizeLimit": f"{target.shared_memory_gibibytes}Gi"}
    storage = [
        {"name": f"volume-{number}", **(volume.source or {"persistentVolumeClaim": {"claimName": volume.claim}})}
        for number, volume in enumerate(target.volumes)
    ]
    optional = {
        "priorityClassName": target.priority_class,
        "serviceAccountName": target.service_account,
        "nodeSelector": target.node_selector,
        "tolerations": [_toleration(toleration) for toleration in target.tolerations],
        "imagePullSecrets": [{"name": name} for name in target.image_pull_secrets],
    }
    own: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": cluster.grace_seconds + LAST_SECONDS,
        **{name: value for name, value in optional.items() if value},
        "containers": [_container(cluster, target, work)],
        "volumes": [{"name": "shared-memory", "emptyDir": shared_memory}, *storage],
    }
    return own | _further(target.pod, key="pod", taken={*own, *optional, "hostname", "subdomain"})


def _container(cluster: Cluster, target: KubernetesTarget, work: _Work) -> dict[str, Any]:
    """Memory and GPUs are limits; CPUs are none: a process is not paused while those beside it idle."""
    memory = {} if target.memory_gibibytes is None else {"memory": f"{target.memory_gibibytes}Gi"}
    limits = memory | {name: str(count) for name, count in work.devices.items() if count}
    mounts = [
        {"name": f"volume-{number}", "mountPath": volume.path} | ({"readOnly": True} if volume.read_only else {})
        for number, volume in enumerate(target.volumes)
    ]
    optional = {
        "ports": [] if target.metrics_port is None else [{"name": "metrics", "containerPort": target.metrics_port}],
        "envFrom": [{"secretRef": {"name": name}} for name in target.environment_secrets],
    }
    own: dict[str, Any] = {
        "name": CONTAINER,
        "image": target.image,
        **{name: value for name, value in optional.items() if value},
        "env": _environment(cluster),
        "resources": {"requests": {"cpu": str(_cpus(target))} | memory} | ({"limits": limits} if limits else {}),
        "volumeMounts": [{"name": "shared-memory", "mountPath": SHARED_MEMORY}, *mounts],
        "command": ["/bin/bash", "-c", literal(_script(cluster, target, work))],
    }
    return own | _further(target.container, key="container", taken={*own, *optional, "args"})


def _further(fields: dict[str, Any], *, key: str, taken: Collection[str]) -> dict[str, Any]:
    """Raises RefusedError for a field that says what the launcher itself says."""
    wrong = [name for name in fields if name in taken]
    if wrong:
        raise RefusedError(f"target.{key}.{wrong[0]}: the launcher sets this field itself, by the other keys of target")
    return fields


def _environment(cluster: Cluster) -> list[dict[str, Any]]:
    """The name of the JobSet is known once it is made; it begins the name of the pod where all ranks meet."""
    name = {"fieldRef": {"fieldPath": f"metadata.labels['{JOBSET_LABEL}']"}}
    values = {
        "MASTER_ADDR": "$(JOBSET_NAME)-node-0-0.$(JOBSET_NAME)",
        "MASTER_PORT": str(MASTER_PORT),
        "PYTHONUNBUFFERED": "1",  # logs show each line when it is written
        **{variable: literal(str(value)) for variable, value in cluster.environment.items()},
    }
    named = [{"name": variable, "value": value} for variable, value in values.items()]
    return [{"name": "JOBSET_NAME", "valueFrom": name}, *named]


def _script(cluster: Cluster, target: KubernetesTarget, work: _Work) -> str:
    folder = cluster.working_directory
    lines = [
        "set -u",
        *([] if folder is None else [f"cd -- {shlex.quote(folder)} || exit 1"]),
        *cluster.setup,
        f'exec {shlex.quote(cluster.python)} -m launchers.ranks --node="${INDEX}" --nodes={target.nodes} \\',
        f"  --ranks={work.ranks} --grace-seconds={cluster.grace_seconds} -- \\",
        f"  {work.command}",
    ]
    return "\n".join(lines) + "\n"


def literal(text: str) -> str:
    r"""Text that Kubernetes hands on as `text`: it reads `$(NAME)` as a variable and `$$` as `$`.

    Its expansion also spoils a character beyond ASCII that follows a `$`, which it copies by its first byte alone.
    """
    return _EXPANDED.sub("$$", text)


def _cpus(target: KubernetesTarget) -> int:
    return target.ranks_per_node * target.cpus_per_rank


def _toleration(toleration: Toleration) -> dict[str, str]:
    how = {"operator": "Exists"} if toleration.value is None else {"operator": "Equal", "value": toleration.value}
    return {"key": toleration.key, **how} | ({} if toleration.effect is None else {"effect": toleration.effect})


def _check_names(cluster: Cluster, *, num_nodes: int) -> None:
    around = f"-xxxxx-node-0-{num_nodes - 1}-xxxxx"
    longest = _LONGEST_HOST_NAME - len(around)
    if _NAME.fullmatch(cluster.name) is None or len(cluster.name) > longest:
        raise RefusedError(
            f'name is "{cluster.name}"; under Kubernetes it begins the names of pods: expected letters a-z, digits and '
            f"`-`, at most {longest} for {num_nodes} nodes, the first a letter, the last a letter or digit"
        )
    taken = [variable for variable in _OWN_VARIABLES if variable in cluster.environment]
    if taken:
        raise RefusedError(f"environment.{taken[0]}: pods are told their place by this variable; name yours otherwise")
