"""`python -m launchers`: what it takes, prints and refuses."""

from pathlib import Path

import pytest

from launchers.__main__ import main
from launchers.job import SchedulerError
from launchers.slurm import parse_job

CLUSTERS = ("configs/clusters/local.yaml", "configs/clusters/slurm.yaml", "configs/clusters/ssh.yaml")
TRAINING = ("--", "train", "configs/tokeniser/tiny.yaml", "data.batch_size=16", "engine.micro_batch_size=2")
"""Of 1, 2, 4 or 8 ranks."""
CONVERT = ("--", "data_prep", "convert", "corpus", "shards", "--format", "zarr")
JOB = (
    "JobId=7 JobName=job UserId=a(1) JobState={state} Reason=None Dependency=(null) Requeue=1 Restarts=2 "
    "ExitCode={code} NodeList=n[1-2] Command=/x JobState=FAKE Comment=Restarts=9\n"
)


@pytest.fixture(autouse=True)
def _in_the_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_committed_cluster_renders(cluster: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", cluster, *TRAINING]) == 0
    assert capsys.readouterr().out.startswith("#!/bin/bash\n")


def test_rendering_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for cluster in CLUSTERS:
        training = ["--", "train", str(repository / TRAINING[2]), *TRAINING[3:]]
        assert main(["render", str(repository / cluster), *training]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_logs_that_have_no_place_are_refused(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    logs = f"{tmp_path}/sbatch/logs"
    assert main(["submit", cluster, f"logs={logs}", *TRAINING]) == 2
    assert capsys.readouterr().err == f"launchers: logs: {logs}: Not a directory; name a folder to write to\n"


def test_an_argument_that_no_script_can_hold_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", CLUSTERS[0], "--", "data_prep", "convert", "\udce9", "dest", "--format", "zarr"]) == 2
    assert "after `--`: '\\udce9' is no UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["status", "cancel"])
def test_a_job_that_is_asked_for_at_a_file_is_refused(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, CLUSTERS[0], "1", "logs=README.md"]) == 2
    assert "Not a directory; set `logs` to the folder" in capsys.readouterr().err


def test_an_override_changes_the_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", CLUSTERS[1], "target.nodes=1", *TRAINING]) == 0
    assert "#SBATCH --nodes=1\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["render", "no/such.yaml", *TRAINING], "no/such.yaml"),
        (["render", CLUSTERS[0], "target.rank=4", *TRAINING], "did you mean `ranks`"),
        (["render", CLUSTERS[0], "target.ranks=four", *TRAINING], "target.ranks"),
        (["render", CLUSTERS[0], "target.kind=mesos", *TRAINING], "mesos"),
        (["render", CLUSTERS[0]], "after `--`"),
        (["render", CLUSTERS[0], "--", "check", TRAINING[2]], "found 'check', expected `train CONFIG.yaml`"),
        (["submit", CLUSTERS[0], "--", "--help"], "found '--help', expected `train CONFIG.yaml`"),
        (["render", CLUSTERS[1], "target.nodes=9999999", *TRAINING], "expected less than or equal to 1000000"),
        (["render", CLUSTERS[0], "name=a/b", *TRAINING], 'name is "a/b"; expected letters, digits, `_`, `.` and `-`'),
        (["render", CLUSTERS[1], "target.qos=a b", *TRAINING], 'target.qos is "a b"; expected 1 to 256 letters,'),
        (["render", CLUSTERS[0], "environment.1X=2", *TRAINING], "expected a name of letters, digits and `_`"),
        (["render", CLUSTERS[0], "--", "train"], "needs a config"),
        (["submit", CLUSTERS[0], "target.ranks=3", *TRAINING], "is 16, which 3 ranks cannot share"),
        (["render", CLUSTERS[1], *TRAINING, "data.batch_size=8"], "is 8, which 8 ranks cannot share"),
        (["render", CLUSTERS[0], "--", "train", "no/such.yaml"], "no/such.yaml"),
        (["submit", CLUSTERS[0], "--", "train", CLUSTERS[0]], "target"),
        (["render", CLUSTERS[1], "--", "data_prep", "verify", "a"], "found 'verify', expected `convert`"),
        (["render", CLUSTERS[1], "--", "data_prep"], "found nothing, expected `convert`"),
        (["render", CLUSTERS[1], "--", "data_prep", "convert", "--format", "zarr"], "a source and a destination first"),
        (["submit", CLUSTERS[1], *CONVERT, "--part", "0/2"], "--part is not for jobs"),
        (["submit", CLUSTERS[0], *CONVERT, "--overwrite"], "--overwrite is not for jobs"),
        (["render", CLUSTERS[2], "target.hosts=[a, b, a]", *TRAINING], "a is named twice"),
        (["render", CLUSTERS[2], "target.hosts=[--help]", *TRAINING], "expected a name or address, or user@name"),
        (["render", CLUSTERS[2], "target.nodes=9", *TRAINING], "nodes is 9, but there are 2 hosts"),
        (["render", CLUSTERS[2], "target.ranks_per_node=3", *TRAINING], "which 6 ranks cannot share"),
        (["status", CLUSTERS[0], "../1"], "expected digits"),
        (["status", CLUSTERS[0], "1", "--", "train"], "nothing after"),
    ],
)
def test_a_mistake_is_refused_in_one_message(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert said.out == ""


def test_a_machine_without_slurm_is_told_where_to_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["submit", CLUSTERS[1], *TRAINING]) == 2
    assert "login node" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        ("PENDING", "0:0", ("pending", None)),
        ("RUNNING", "0:0", ("running", None)),
        ("COMPLETED", "0:0", ("finished", 0)),
        ("FAILED", "3:0", ("preempted", 3)),
        ("FAILED", "1:0", ("failed", 1)),
        ("FAILED", "0:9", ("failed", 137)),
        ("NODE_FAIL", "1:0", ("failed", 1)),
        ("CANCELLED", "0:15", ("cancelled", None)),
    ],
)
def test_slurms_words_become_ours(state: str, code: str, expected: tuple[str, int | None]) -> None:
    status = parse_job(JOB.format(state=state, code=code), job="7")
    assert (status.state, status.exit_code) == expected
    assert status.restarts == 2


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["COMPLETED", "RUNNING", "PENDING"], ("running", None)),
        (["COMPLETED", "PENDING"], ("pending", None)),
        (["COMPLETED", "FAILED"], ("failed", 1)),
        (["COMPLETED", "COMPLETED"], ("finished", 0)),
        (["CANCELLED", "COMPLETED"], ("cancelled", 0)),
    ],
)
def test_an_array_is_in_the_weightiest_state_of_its_tasks(states: list[str], expected: tuple[str, int | None]) -> None:
    codes = {"FAILED": "1:0"}
    lines = [JOB.format(state=state, code=codes.get(state, "0:0")) for state in states]
    status = parse_job("".join(lines), job="7")
    assert (status.state, status.exit_code) == expected
    assert status.detail.startswith(f"{len(states)} tasks: 1 " if len(set(states)) > 1 else f"{len(states)} tasks: ")


def test_an_answer_that_is_no_job_is_an_error() -> None:
    with pytest.raises(SchedulerError, match="no JobState"):
        parse_job("slurm_load_jobs error\n", job="7")


def test_usage_does_not_ask_for_what_may_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["status"])
    assert capsys.readouterr().err.endswith("the following arguments are required: CLUSTER, JOB\n")
