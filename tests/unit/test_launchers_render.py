"""What `render` prints: complete, quoted, and free of surprises."""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from launchers.__main__ import launcher_for
from launchers.cluster import Cluster
from trainer.errors import RefusedError

LOCAL = {"kind": "local", "ranks": 2}
SSH = {"kind": "ssh", "hosts": ["red", "me@blue"], "ranks_per_node": 4}
SLURM = {"kind": "slurm", "nodes": 2, "ranks_per_node": 4, "time_limit_minutes": 60}
argument = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)


def cluster(**changes: Any) -> Cluster:
    return Cluster.model_validate_json(json.dumps({"name": "job", "target": SLURM} | changes))


def render(described: Cluster, *arguments: str, folder: Path = Path("/checkout")) -> str:
    return launcher_for(described, current=folder).render(arguments)


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


@pytest.mark.parametrize("target", [LOCAL, SSH, SLURM], ids=["local", "ssh", "slurm"])
@given(arguments=st.lists(argument, max_size=4))
def test_every_argument_reaches_the_trainer_unchanged(target: dict[str, Any], arguments: list[str]) -> None:
    script = render(cluster(target=target), "show", *arguments)
    assert script.replace("\\\n", " ").count(shlex.join([".venv/bin/python", "-m", "trainer", "show", *arguments])) == 1


@pytest.mark.parametrize("target", [LOCAL, SSH, SLURM], ids=["local", "ssh", "slurm"])
def test_bash_accepts_the_script(target: dict[str, Any]) -> None:
    script = render(cluster(target=target, setup=["module load cuda"]), "train", "it's; $(odd).yaml")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_an_environment_value_is_literal() -> None:
    script = render(cluster(environment={"A": "$HOME `date` 'x'"}, target=LOCAL), "train", "c")
    export = next(line for line in script.splitlines() if line.startswith("export A="))
    done = subprocess.run(["bash", "-c", f'{export}\nprintf %s "$A"'], capture_output=True, text=True, check=True)
    assert done.stdout == "$HOME `date` 'x'"


def test_slurm_is_asked_for_what_the_cluster_says() -> None:
    target = SLURM | {
        "gpus_per_node": 4,
        "cpus_per_rank": 8,
        "memory_gibibytes": 64,
        "partition": "a100",
        "qos": "high",
    }
    assert directives(render(cluster(target=target, logs="/logs"), "train", "c")) == [
        "--job-name=job",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--cpus-per-task=8",
        "--time=60",
        "--mem=64G",
        "--gpus-per-node=4",
        "--partition=a100",
        "--qos=high",
        "--output=/logs/%x-%j.log",
        "--open-mode=append",
        "--requeue",
        "--signal=USR2@180",
    ]


def test_what_a_site_asks_for_further_is_handed_on_for_training_and_preparation() -> None:
    options = ["--exclusive", "--gres=gpu:h100:4", "--mail-user=a@b.org"]
    described = cluster(target=SLURM | {"options": options}, logs="/logs")
    for arguments in (("train", "c"), ("data_prep", "convert", "a", "b", "--format", "zarr")):
        assert [line for line in directives(render(described, *arguments)) if line in options] == options


@pytest.mark.parametrize("option", ["--nodes=3", "--no-requeue", "--out=/x", "--qos=low", "--array=0-3", "--mem=5G"])
def test_an_option_that_the_script_depends_on_is_refused(option: str) -> None:
    with pytest.raises(RefusedError, match=rf"target\.options: {option}: the launcher sets this itself"):
        render(cluster(target=SLURM | {"options": [option]}, logs="/logs"), "train", "c")


def test_slurm_is_not_asked_for_what_the_cluster_leaves_out() -> None:
    text = render(cluster(logs="/logs"), "train", "c")
    assert not any(name in text for name in ("--mem", "--gpus-per-node", "--partition", "--account", "--constraint"))


def test_a_given_master_address_is_kept() -> None:
    text = render(cluster(environment={"MASTER_ADDR": "127.0.0.1"}, logs="/logs"), "train", "c")
    assert "scontrol show hostnames" not in text
    assert "export MASTER_ADDR=127.0.0.1" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a b"},
        {"name": "../up"},
        {"name": ""},
        {"environment": {"A B": "1"}},
        {"environment": {"A": "line\nbreak"}},
        {"setup": ["one\ntwo"]},
        {"logs": "line\nbreak"},
        {"target": SLURM | {"partition": "a\n#SBATCH --uid=0"}},
        {"target": SLURM | {"account": "a b"}},
        {"target": SLURM | {"notice_seconds": 5}},
        {"target": SLURM | {"options": ["-n3"]}},
        {"target": SLURM | {"options": ["--a=b c"]}},
        {"target": SLURM | {"options": ["--a=b\n#SBATCH --uid=0"]}},
        {"target": {"kind": "local", "ranks": 0}},
        {"target": SSH | {"hosts": []}},
        {"target": SSH | {"hosts": ["-oProxyCommand=date"]}},
        {"target": SSH | {"hosts": ["a b"]}},
        {"target": SSH | {"hosts": ["red", "red"]}},
        {"target": SSH | {"nodes": 3}},
        {"target": SSH | {"ssh": []}},
        {"target": SSH | {"silence_seconds": 1}},
    ],
)
def test_a_value_that_would_break_the_script_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        cluster(**changes)


def test_prometheus_is_told_of_hosts_that_train_alone() -> None:
    described = cluster(target=SSH | {"metrics_port": 9400})
    assert " --metrics-port=9400 --metrics-targets=/checkout/runs/prometheus " in render(described, "train", "c")
    assert "metrics" not in render(described, "data_prep", "convert", "a", "b", "--format", "zarr")


@pytest.mark.parametrize("folder", ["/a b", "/100%", "/it's", "/back\\slash", "/a#b"])
def test_a_log_folder_that_slurm_would_misread_is_refused(folder: str) -> None:
    with pytest.raises(RefusedError, match="set `logs`"):
        render(cluster(), "train", "c", folder=Path(folder))


def test_a_log_folder_below_a_path_with_blanks_serves_local_jobs() -> None:
    assert "'/a b/runs/logs/job'" in render(cluster(target=LOCAL), "train", "c", folder=Path("/a b"))


@pytest.mark.parametrize("arguments", [(), ("--help",), ("Train",), ("a/b",)])
def test_a_command_without_a_verb_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(RefusedError, match="verb"):
        render(cluster(logs="/logs"), *arguments)


CONVERT = ("data_prep", "convert", "/corpora/it's", "s3://bucket/shards", "--format", "zarr")


def test_data_is_prepared_by_an_array_of_parts_without_gpus() -> None:
    target = SLURM | {"nodes": 3, "cpus_per_rank": 8, "gpus_per_node": 4, "memory_gibibytes": 64}
    script = render(cluster(target=target, logs="/logs"), *CONVERT)
    assert directives(script) == [
        "--job-name=job",
        "--array=0-2",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=32",
        "--time=60",
        "--mem=64G",
        "--output=/logs/%x-%A.rank-%a.log",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR2@180",
    ]
    command = shlex.join([".venv/bin/python", "-m", *CONVERT])
    assert f'{command} --workers "$SLURM_CPUS_PER_TASK" --part "$SLURM_ARRAY_TASK_ID/3" &' in script.splitlines()
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_data_is_prepared_here_by_as_many_workers_as_ranks_would_train() -> None:
    script = render(cluster(target=LOCAL), *CONVERT)
    assert f"{shlex.join(['.venv/bin/python', '-m', *CONVERT])} --workers 2" in script
    assert "--ranks=1 " in script


@pytest.mark.parametrize("target", [LOCAL, SSH, SLURM], ids=["local", "ssh", "slurm"])
@pytest.mark.parametrize("workers", [("--workers", "5"), ("--workers=5",)])
def test_a_number_of_workers_that_is_given_stands(target: dict[str, Any], workers: tuple[str, ...]) -> None:
    script = render(cluster(target=target, logs="/logs"), *CONVERT, *workers)
    assert script.count("--workers") == 1


def on_each_host(script: str) -> str:
    """What a script for ssh hands to its hosts."""
    [opening] = [line for line in script.splitlines() if "<<'" in line]
    end = opening.rpartition("<<'")[2].removesuffix("'")
    return script.partition(f"{opening}\n")[2].partition(f"\n{end}\n")[0]


def test_a_line_that_ends_the_hosts_script_is_kept_whole() -> None:
    script = render(cluster(target=SSH, setup=["ON_EACH_HOST", "ON_EACH_HOST_", "true"]), "train", "c")
    assert on_each_host(script).splitlines()[3:6] == ["ON_EACH_HOST", "ON_EACH_HOST_", "true"]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_hosts_enter_their_checkout_and_the_script_its_own(tmp_path: Path) -> None:
    script = render(cluster(target=SSH, working_directory="/on/hosts"), "train", "c", folder=tmp_path)
    assert f"cd -- {tmp_path} || exit 1" in script.partition("<<'")[0].splitlines()
    assert "cd -- /on/hosts || exit 1" in on_each_host(script).splitlines()
    assert f"--prefix={tmp_path}/runs/logs/job-" in script


def test_hosts_prepare_a_part_each_with_as_many_workers_as_ranks_would_train() -> None:
    script = render(cluster(target=SSH), *CONVERT)
    command = f'{shlex.join([".venv/bin/python", "-m", *CONVERT])} --workers 4 --part "${{LAUNCH_NODE#--node=}}/2"'
    assert on_each_host(script).endswith(command)
    assert "--ranks-per-node=1 " in script
