"""JobSets of one small cluster and of one that sets every key, and the parts of such."""

import json
from pathlib import Path
from typing import Any

import yaml

from launchers.__main__ import launcher_for
from launchers.cluster import Cluster

KUBERNETES = {"kind": "kubernetes", "image": "registry.example.com/trainer:1", "nodes": 2, "ranks_per_node": 4}
EVERYTHING = {
    **KUBERNETES,
    "gpus_per_node": 4,
    "gpu_resource": "example.com/gpu",
    "cpus_per_rank": 8,
    "memory_gibibytes": 64,
    "shared_memory_gibibytes": 16,
    "namespace": "training",
    "queue": "research",
    "priority_class": "low",
    "service_account": "trainer",
    "node_selector": {"example.com/zone": "a"},
    "tolerations": [{"key": "gpu"}, {"key": "spot", "value": "yes", "effect": "NoSchedule"}],
    "image_pull_secrets": ["registry"],
    "environment_secrets": ["store"],
    "volumes": [
        {"claim": "scratch", "path": "/scratch"},
        {"claim": "corpora", "path": "/corpora", "read_only": True},
        {"source": {"hostPath": {"path": "/mnt/nvme", "type": "Directory"}}, "path": "/cache"},
    ],
    "devices_per_node": {"rdma/hca": 8},
    "annotations": {"k8s.v1.cni.cncf.io/networks": "roce"},
    "pod": {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"},
    "container": {"securityContext": {"capabilities": {"add": ["IPC_LOCK"]}}, "imagePullPolicy": "Always"},
    "metrics_port": 9400,
}
CONVERT = ("data_prep", "convert", "/corpora/it's", "s3://bucket/shards", "--format", "zarr")


def cluster(**changes: Any) -> Cluster:
    return Cluster.model_validate_json(json.dumps({"name": "job", "target": KUBERNETES} | changes))


def render(described: Cluster, *arguments: str) -> str:
    return launcher_for(described, current=Path("/checkout")).render(arguments)


def manifest(*arguments: str, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(render(cluster(**changes), *(arguments or ("train", "c.yaml"))))
    return found


def job(jobset: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = jobset["spec"]["replicatedJobs"][0]["template"]
    return found


def pod(jobset: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job(jobset)["spec"]["template"]["spec"]
    return found


def container(jobset: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pod(jobset)["containers"][0]
    return found


MANIFESTS = {
    "plain": manifest(),
    "everything": manifest(target=EVERYTHING, environment={"A": "$(A)", "MASTER_PORT": 1}, setup=["x=$(date)"]),
    "preparation": manifest(*CONVERT, target=EVERYTHING),
}
