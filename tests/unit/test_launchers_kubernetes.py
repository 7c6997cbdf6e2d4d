"""The JobSet that `render` prints: complete, literal, and free of surprises."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from launchers.__main__ import main
from tests.integration.kubernetes_pods import expand
from tests.unit.kubernetes_manifests import KUBERNETES, MANIFESTS, cluster, container, job, manifest, pod, render
from trainer.errors import RefusedError

CLUSTER_FILE = "configs/clusters/kubernetes.yaml"
argument = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20),
    st.text("$(){}AB'\"\\\n\té", max_size=12),
)


def script(jobset: dict[str, Any]) -> str:
    """As bash reads it, once Kubernetes has looked for its variables."""
    return expand(container(jobset)["command"][2], {"A": "spoiled", "JOBSET_NAME": "spoiled"})


def test_a_job_is_what_the_cluster_says() -> None:
    rendered = MANIFESTS["everything"]
    assert rendered["metadata"] == {
        "generateName": "job-",
        "namespace": "training",
        "labels": {"kueue.x-k8s.io/queue-name": "research"},
    }
    assert rendered["spec"]["suspend"] is True
    assert {name: job(rendered)["spec"][name] for name in ("parallelism", "completions", "backoffLimit")} == {
        "parallelism": 2,
        "completions": 2,
        "backoffLimit": 0,
    }
    assert pod(rendered) | {"containers": [], "volumes": []} == {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 150,
        "priorityClassName": "low",
        "serviceAccountName": "trainer",
        "nodeSelector": {"example.com/zone": "a"},
        "tolerations": [
            {"key": "gpu", "operator": "Exists"},
            {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
        ],
        "imagePullSecrets": [{"name": "registry"}],
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "containers": [],
        "volumes": [],
    }


def test_a_container_has_what_the_cluster_says() -> None:
    rendered = MANIFESTS["everything"]
    assert container(rendered)["resources"] == {
        "requests": {"cpu": "32", "memory": "64Gi"},
        "limits": {"memory": "64Gi", "example.com/gpu": "4", "rdma/hca": "8"},
    }
    assert container(rendered)["securityContext"] == {"capabilities": {"add": ["IPC_LOCK"]}}
    assert container(rendered)["imagePullPolicy"] == "Always"
    assert job(rendered)["spec"]["template"]["metadata"]["annotations"] == {
        "k8s.v1.cni.cncf.io/networks": "roce",
        "wellspring/ranks-per-node": "4",
    }
    assert container(rendered)["ports"] == [{"name": "metrics", "containerPort": 9400}]
    assert container(rendered)["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert container(rendered)["volumeMounts"] == [
        {"name": "shared-memory", "mountPath": "/dev/shm"},
        {"name": "volume-0", "mountPath": "/scratch"},
        {"name": "volume-1", "mountPath": "/corpora", "readOnly": True},
        {"name": "volume-2", "mountPath": "/cache"},
    ]
    assert pod(rendered)["volumes"] == [
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
        {"name": "volume-0", "persistentVolumeClaim": {"claimName": "scratch"}},
        {"name": "volume-1", "persistentVolumeClaim": {"claimName": "corpora"}},
        {"name": "volume-2", "hostPath": {"path": "/mnt/nvme", "type": "Directory"}},
    ]


def test_the_pod_monitor_that_the_page_shows_finds_the_pods(repository: Path) -> None:
    page = (repository / "launchers/README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    monitor, rendered = yaml.safe_load(block)["spec"], MANIFESTS["everything"]
    labels = job(rendered)["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["podMetricsEndpoints"][0]["port"] == container(rendered)["ports"][0]["name"]


def test_what_the_cluster_leaves_out_is_not_asked_for() -> None:
    text = render(cluster(), "train", "c")
    left_out = ("namespace", "suspend", "limits", "memory:", "gpu", "tolerations", "ports", "envFrom", "Secrets")
    assert [name for name in left_out if name in text] == []


def test_a_preemption_restarts_all_and_any_other_failure_none() -> None:
    policy = MANIFESTS["plain"]["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 20
    assert [(rule["action"], rule.get("onJobFailureReasons")) for rule in policy["rules"]] == [
        ("RestartJobSet", ["PodFailurePolicy"]),
        ("FailJobSet", None),
    ]
    assert job(MANIFESTS["plain"])["spec"]["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [3]}},
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]


def test_the_script_enters_its_folder_and_is_set_up_before_the_ranks_start() -> None:
    rendered = manifest(working_directory="/check out", setup=["module load cuda", "x=$(date) y=$$"])
    lines = script(rendered).splitlines()
    assert lines[:4] == ["set -u", "cd -- '/check out' || exit 1", "module load cuda", "x=$(date) y=$$"]
    assert lines[4].startswith("exec .venv/bin/python -m launchers.ranks ")
    assert lines[-1] == "  .venv/bin/python -m trainer train c.yaml"


def test_the_script_can_be_read_in_the_manifest() -> None:
    assert "            - |\n                      set -u\n" in render(cluster(), "train", "c.yaml")


def test_ranks_meet_at_the_first_pod_unless_they_are_told_otherwise() -> None:
    def environment(**changes: Any) -> dict[str, Any]:
        return {entry["name"]: entry.get("value") for entry in container(manifest(**changes))["env"]}

    assert environment()["MASTER_ADDR"] == "$(JOBSET_NAME)-node-0-0.$(JOBSET_NAME)"
    assert environment(environment={"MASTER_ADDR": "10.0.0.1"})["MASTER_ADDR"] == "10.0.0.1"


def test_data_is_prepared_by_a_pod_for_each_part_without_gpus() -> None:
    rendered = MANIFESTS["preparation"]
    assert '--workers 32 --part "$JOB_COMPLETION_INDEX/2"' in script(rendered)
    assert "--ranks=1 " in script(rendered)
    assert container(rendered)["resources"]["limits"] == {"memory": "64Gi"}
    assert job(rendered)["spec"]["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [143]}},
    ]
    assert rendered["spec"]["failurePolicy"] == {
        "maxRestarts": 0,
        "rules": [{"name": "failed", "action": "FailJobSet"}],
    }


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for Python: prints its arguments, each ended by NUL."""
    program = tmp_path_factory.mktemp("echo") / "it's python"
    program.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    program.chmod(0o755)
    return program


@given(arguments=st.lists(argument, max_size=4))
def test_every_argument_reaches_the_trainer_unchanged(echo: Path, arguments: list[str]) -> None:
    command = ["bash", "-c", script(manifest("show", *arguments, python=str(echo)))]
    done = subprocess.run(command, env={"JOB_COMPLETION_INDEX": "1"}, capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == [
        *("-m", "launchers.ranks", "--node=1", "--nodes=2", "--ranks=4", "--grace-seconds=120", "--"),
        *(str(echo), "-m", "trainer", "show", *arguments),
    ]


@given(value=argument.filter(lambda text: not re.search("[\n\r]", text)))
def test_an_environment_value_is_literal(value: str) -> None:
    found = {entry["name"]: entry.get("value") for entry in container(manifest(environment={"B": value}))["env"]}
    assert expand(found["B"], {"A": "spoiled"}) == value


@pytest.mark.parametrize(
    "target",
    [
        {"image": "a b"},
        {"image": ""},
        {"image": "-x"},
        {"namespace": "Training"},
        {"queue": "a/b"},
        {"gpu_resource": "nvidia.com/"},
        {"node_selector": {"a b": "c"}},
        {"node_selector": {"zone": "-"}},
        {"tolerations": [{"key": ""}]},
        {"tolerations": [{"key": "gpu", "effect": "Never"}]},
        {"environment_secrets": ["A"]},
        {"volumes": [{"claim": "c", "path": "relative"}]},
        {"volumes": [{"claim": "c", "path": "/dev/shm"}]},
        {"volumes": [{"path": "/a"}]},
        {"volumes": [{"claim": "c", "source": {"emptyDir": {}}, "path": "/a"}]},
        {"devices_per_node": {"rdma/hca": 0}},
        {"volumes": [{"claim": "c", "path": "/a"}, {"claim": "d", "path": "/a/"}]},
        {"shared_memory_gibibytes": 0},
        {"metrics_port": 0},
        {"kubectl": []},
    ],
    ids=str,
)
def test_a_value_that_kubernetes_would_refuse_is_refused_here(target: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        cluster(target=KUBERNETES | target)


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("pod", "containers"),
        ("pod", "nodeSelector"),
        ("pod", "subdomain"),
        ("container", "args"),
        ("container", "ports"),
    ],
)
def test_a_field_that_the_launcher_sets_itself_is_refused(key: str, field: str) -> None:
    with pytest.raises(RefusedError, match=rf"target\.{key}\.{field}: the launcher sets this field itself"):
        manifest(target=KUBERNETES | {key: {field: []}})


@pytest.mark.parametrize("name", ["Job", "a_b", "a.b", "1a", "a-", "a" * 43])
def test_a_name_that_pods_cannot_bear_is_refused(name: str) -> None:
    with pytest.raises(RefusedError, match="expected letters a-z, digits and `-`, at most 42 for 2 nodes"):
        manifest(name=name)


def test_the_longest_name_fits_into_that_of_a_pod() -> None:
    name = manifest(name="a" * 40, target=KUBERNETES | {"nodes": 500})["metadata"]["generateName"]
    assert len(f"{name}xxxxx-node-0-499-xxxxx") == 63


@pytest.mark.parametrize("variable", ["JOBSET_NAME", "JOB_COMPLETION_INDEX"])
def test_a_variable_by_which_pods_know_their_place_is_refused(variable: str) -> None:
    with pytest.raises(RefusedError, match=rf"environment\.{variable}"):
        manifest(environment={variable: "1"})


@pytest.fixture
def _in_the_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


@pytest.mark.usefixtures("_in_the_repository")
def test_the_committed_cluster_renders(capsys: pytest.CaptureFixture[str]) -> None:
    training = ["train", "configs/tokeniser/tiny.yaml", "data.batch_size=16", "engine.micro_batch_size=2"]
    assert main(["render", CLUSTER_FILE, "--", *training]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# Rendered by `python -m launchers render`; `submit` submits exactly this text.\n")
    assert " ".join(training) in script(yaml.safe_load(printed))


@pytest.mark.usefixtures("_in_the_repository")
def test_a_batch_that_the_ranks_of_all_pods_cannot_share_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    training = ["train", "configs/tokeniser/tiny.yaml", "data.batch_size=12", "engine.micro_batch_size=2"]
    assert main(["submit", CLUSTER_FILE, "--", *training]) == 2
    assert "is 12, which 8 ranks cannot share" in capsys.readouterr().err


@pytest.mark.usefixtures("_in_the_repository")
@pytest.mark.parametrize("verb", ["status", "cancel", "logs"])
@pytest.mark.parametrize("name", ["17", "a/b", "a" * 64, "A", "a,b"])
def test_an_id_that_no_cluster_gives_is_refused(verb: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, CLUSTER_FILE, name]) == 2
    assert f"job {name!r} is not an id that `submit` prints" in capsys.readouterr().err


@pytest.mark.usefixtures("_in_the_repository")
def test_a_machine_without_kubectl_is_told_where_to_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["status", CLUSTER_FILE, "job-abcde"]) == 2
    assert (
        "kubectl is not on PATH; run this on a machine where `kubectl get jobsets` answers" in capsys.readouterr().err
    )
