"""Our JobSet under the real kubectl and a stand-in for the cluster, whose pods are real processes of this machine.

What the stand-in does not show: admission, scheduling, images, volumes, limits, the network between pods, and whether
the controllers do what their documents say. See `kubernetes_server.py`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import RequireProgram
from tests.integration.conversions import SMALL, contents, make_corpus, run
from tests.integration.kubernetes_server import KubernetesServer, kubernetes_server
from tests.integration.practice import Answer, Practice, command_line, eventually, make_practice
from tests.integration.tiny_run import logged_steps, newest_snapshot, write_tiny_run
from tests.ports import free_port

ODD_TEXTS = (
    *("1e3", "0x1f", "1_000", "12:30:45", "y", "NO", "null", "~", "", " a ", "- a", "a: b #c", "\u2028\x85", "\ta\\"),
    *("$(RANK)", "$$(RANK)", "$$", "$\u00e9", "$", "\U0001f30a", "'\"`$HOME`\"'", "{a}", "*a", "!a", "%a", "@a"),
)


class KubernetesJobs:
    """The command line of the launchers against the stand-in: 2 nodes, 1 rank on each."""

    def __init__(
        self, server: KubernetesServer, practice: Practice, *, kubectl: list[str], capture: pytest.CaptureFixture[str]
    ) -> None:
        self.server, self.practice, self._capture = server, practice, capture
        self.file = practice.folder.parent / "cluster.yaml"
        target = {"kind": "kubernetes", "image": "example/practice:1", "nodes": 2, "kubectl": kubectl}
        cluster = {
            "name": "job",
            "python": str(practice.python),
            "max_restarts": 1,
            "grace_seconds": 20,
            "target": target,
            "environment": {"MASTER_ADDR": "127.0.0.1", "LITERAL": "$(JOBSET_NAME) $HOME", "NUMBER": "1e3"},
        }
        self.file.write_text(json.dumps(cluster), encoding="utf-8")

    def run(self, verb: str, *arguments: str) -> Answer:
        return command_line(self._capture, verb, str(self.file), *arguments)

    def submit(self, *overrides: str) -> str:
        return self.submitted(*overrides, "--", *self.practice.command)

    def submitted(self, *arguments: str) -> str:
        done = self.run("submit", *arguments)
        assert done.code == 0, done.err
        return done.out.strip()

    def status(self, job: str) -> dict[str, Any]:
        done = self.run("status", job)
        assert done.code == 0, done.err
        answer: dict[str, Any] = json.loads(done.out)
        return answer

    def wait_for(self, job: str, state: str) -> dict[str, Any]:
        def is_there() -> dict[str, Any] | None:
            now = self.status(job)
            assert now["state"] in (state, "pending", "running"), f"{now}\n{self.server.everything_said()}"
            return now if now["state"] == state else None

        found: dict[str, Any] = eventually(is_there, what=f"job {job} is {state}", within_seconds=200)
        return found

    def wait_until_gone(self, job: str) -> Answer:
        eventually(lambda: self.server.run(job) is None, what=f"job {job} is gone")
        return self.run("status", job)

    def both_ranks_started(self, number: int) -> list[dict[str, Any]]:
        return [self.practice.start(rank, number=number) for rank in range(2)]

    def logs(self, *arguments: str) -> str:
        """It becomes kubectl, so it needs a process of its own."""
        command = [sys.executable, "-m", "launchers", "logs", str(self.file), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture
def jobs(
    require_program: RequireProgram,
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[KubernetesJobs]:
    kubectl = require_program("kubectl", package="kubernetes-client")
    practice, cluster = make_practice(tmp_path), tmp_path / "kubernetes"
    cluster.mkdir()
    monkeypatch.chdir(practice.checkout)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    machine = {name: os.environ[name] for name in ("PATH", "PYTHONPATH")}
    with kubernetes_server(cluster, machine=machine, image=practice.checkout) as (server, kubeconfig):
        command = [kubectl, f"--kubeconfig={kubeconfig}", f"--cache-dir={cluster / 'cache'}"]
        yield KubernetesJobs(server, practice, kubectl=command, capture=capsys)


def test_what_the_cluster_holds_is_what_render_prints(jobs: KubernetesJobs) -> None:
    """But for the namespace, which kubectl adds where none is given."""
    rendered = jobs.run("render", "target.namespace=training", "--", *jobs.practice.command).out
    assert jobs.server.posted[jobs.submit("target.namespace=training")] == yaml.safe_load(rendered)
    assert jobs.server.posted[jobs.submit()] == yaml.safe_load(rendered)


def test_each_pod_gives_its_ranks_their_places(jobs: KubernetesJobs) -> None:
    job = jobs.submit("target.ranks_per_node=1", "name=well")
    assert job.startswith("well-")
    places = [note["environment"] for note in jobs.both_ranks_started(0)]
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "JOBSET_NAME")
    assert [[place[name] for name in names] for place in places] == [
        ["0", "0", "2", "1", "127.0.0.1", "29500", job],
        ["1", "0", "2", "1", "127.0.0.1", "29500", job],
    ]
    assert [(place["LITERAL"], place["NUMBER"]) for place in places] == [("$(JOBSET_NAME) $HOME", "1e3")] * 2
    assert jobs.status(job) == {
        "job": job,
        "state": "running",
        "restarts": 0,
        "exit_code": None,
        "detail": "pods: 2 Running",
    }
    jobs.practice.order("finish")
    ended = jobs.wait_for(job, "finished")
    assert (ended["exit_code"], ended["restarts"], ended["detail"]) == (0, 0, "pods: 2 Succeeded")


def test_odd_texts_reach_the_ranks_as_they_are(jobs: KubernetesJobs) -> None:
    """Through kubectl's YAML, which is not ours: `1e3` is no number, `NO` no false, a line separator no line break."""
    environment = {f"TEXT_{number}": text for number, text in enumerate(ODD_TEXTS)}
    quoted = yaml.safe_dump(environment, default_style='"', default_flow_style=True, width=2**20)
    jobs.submit(f"environment={quoted}")
    place = jobs.practice.start(1, number=0)["environment"]
    assert {name: place[name] for name in environment} == environment


def test_ranks_meet_at_the_first_pod(jobs: KubernetesJobs) -> None:
    """Where nothing else is said. The stand-in has no names of pods, so nobody meets here."""
    cluster = json.loads(jobs.file.read_text())
    del cluster["environment"]["MASTER_ADDR"]
    jobs.file.write_text(json.dumps(cluster))
    job = jobs.submit()
    assert {note["environment"]["MASTER_ADDR"] for note in jobs.both_ranks_started(0)} == {f"{job}-node-0-0.{job}"}


def test_one_pod_holds_several_ranks(jobs: KubernetesJobs) -> None:
    job = jobs.submit("target.nodes=1", "target.ranks_per_node=2")
    assert [note["environment"]["LOCAL_RANK"] for note in jobs.both_ranks_started(0)] == ["0", "1"]
    jobs.practice.order("finish")
    jobs.wait_for(job, "finished")
    assert jobs.logs(job, "--rank", "1") == "rank 1 starts at step 0\nrank 1 finished at step 0\n"


def test_the_keys_of_a_secret_are_variables_of_every_rank(jobs: KubernetesJobs) -> None:
    jobs.server.secrets["store"] = {"AWS_ACCESS_KEY_ID": "a key", "NUMBER": "of the secret"}
    jobs.submit("target.environment_secrets=[store]")
    place = jobs.practice.start(1, number=0)["environment"]
    assert (place["AWS_ACCESS_KEY_ID"], place["NUMBER"]) == ("a key", "1e3")


def test_a_queued_job_waits_until_it_is_admitted(jobs: KubernetesJobs) -> None:
    job = jobs.submit("target.queue=research")
    waiting = jobs.wait_for(job, "pending")
    assert waiting["detail"] == "pods: none; suspended: waits for its queue"
    jobs.server.admit(job)
    jobs.both_ranks_started(0)
    jobs.wait_for(job, "running")


def test_an_evicted_pod_ends_in_a_restart_of_all_from_the_snapshot(jobs: KubernetesJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    jobs.server.evict(job, 1)
    assert [note["step"] for note in jobs.both_ranks_started(1)] == [1, 1]
    jobs.practice.order("finish")
    ended = jobs.wait_for(job, "finished")
    assert (ended["exit_code"], ended["restarts"]) == (0, 1)


def test_restarts_end_at_the_cap(jobs: KubernetesJobs) -> None:
    job = jobs.submit()
    for start in range(2):
        jobs.both_ranks_started(start)
        jobs.server.evict(job, 0)
    ended = jobs.wait_for(job, "preempted")
    assert (ended["exit_code"], ended["restarts"]) == (3, 1)
    assert "reaching max number of restarts" in ended["detail"]


def test_a_crash_ends_the_job_with_its_code(jobs: KubernetesJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    jobs.practice.order("crash-1")
    ended = jobs.wait_for(job, "failed")
    assert (ended["exit_code"], ended["restarts"]) == (1, 0)
    assert "BackoffLimitExceeded" in ended["detail"]


def test_a_cancelled_job_takes_a_snapshot_and_goes(jobs: KubernetesJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    assert jobs.run("cancel", job).code == 0
    after = jobs.wait_until_gone(job)
    assert (after.code, after.out) == (1, "")
    assert f'"{job}" not found' in after.err
    assert (jobs.practice.folder / "snapshot").read_text() == "1"
    assert not list(jobs.practice.folder.glob("start-*-1.json"))


def test_a_pod_that_does_not_end_is_killed_after_its_grace(jobs: KubernetesJobs) -> None:
    """It hangs in its `setup`, where bash as the first process of a container hears no SIGTERM."""
    hang = ["trap '' TERM", "touch hangs-$JOB_COMPLETION_INDEX", "while true; do sleep 0.05; done"]
    job = jobs.submit(f"setup={json.dumps(hang)}")
    hanging = [jobs.practice.checkout / f"hangs-{index}" for index in range(2)]
    eventually(lambda: all(path.exists() for path in hanging), what="both pods hang")
    for pod in jobs.server.pods({}):
        assert pod.manifest["spec"]["terminationGracePeriodSeconds"] == 50
        pod.manifest["spec"]["terminationGracePeriodSeconds"] = 0  # nobody waits for that
    jobs.run("cancel", job)
    jobs.wait_until_gone(job)


def test_logs_are_those_of_all_pods_or_of_one_rank(jobs: KubernetesJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    jobs.practice.order("finish")
    jobs.wait_for(job, "finished")
    lines = jobs.logs(job).splitlines()
    assert sorted(line.partition("] ")[2] for line in lines) == [
        "[rank 0] rank 0 finished at step 0",
        "[rank 0] rank 0 starts at step 0",
        "[rank 1] rank 1 finished at step 0",
        "[rank 1] rank 1 starts at step 0",
    ]
    assert all(line.startswith(f"[pod/{job}-node-0-") for line in lines)
    assert jobs.logs(job, "--rank", "1") == "rank 1 starts at step 0\nrank 1 finished at step 0\n"
    assert jobs.logs(job, "--rank", "1", "--lines", "1") == "rank 1 finished at step 0\n"


def test_a_followed_rank_is_shown_until_it_ends(jobs: KubernetesJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    command = [sys.executable, "-m", "launchers", "logs", str(jobs.file), job, "--rank", "0", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "rank 0 starts at step 0\n"
        jobs.practice.order("finish")
        assert reader.stdout.read() == "rank 0 finished at step 0\n"
    assert reader.returncode == 0


def test_logs_of_a_rank_that_is_not_there_are_refused(jobs: KubernetesJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    answer = jobs.run("logs", job, "--rank", "7")
    assert (answer.code, answer.out) == (2, "")
    assert "none of its 2 pods holds rank 7" in answer.err


@pytest.mark.parametrize("verb", ["status", "cancel"])
def test_an_unknown_job_is_reported_with_kubernetes_words(jobs: KubernetesJobs, verb: str) -> None:
    answer = jobs.run(verb, "job-aaaaa")
    assert answer.code == 1
    assert 'jobsets.jobset.x-k8s.io "job-aaaaa" not found' in answer.err


def test_real_training_goes_on_after_an_eviction(jobs: KubernetesJobs, repository: Path, tmp_path: Path) -> None:
    """Of two ranks, each in a pod of its own: the evicted one tells the other, both save, and both come back."""
    config = write_tiny_run(tmp_path, name="tiny", targets=tmp_path / "targets")
    place = [f"working_directory={repository}", f"python={sys.executable}", "grace_seconds=120"]
    place += [f"environment.MASTER_PORT={free_port()}", "environment.OMP_NUM_THREADS=1"]
    job = jobs.submitted(*place, "--", "train", str(config))
    eventually(lambda: len(logged_steps(tmp_path)) > 2, what="training runs", within_seconds=200)
    jobs.server.evict(job, 1)
    eventually(lambda: jobs.status(job)["restarts"] == 1, what="the job starts again", within_seconds=200)
    before = newest_snapshot(tmp_path)

    def goes_on() -> bool:
        assert jobs.status(job)["state"] in ("pending", "running"), jobs.server.everything_said()
        return logged_steps(tmp_path)[-1] > before

    eventually(goes_on, what="training goes on", within_seconds=200)
    steps = logged_steps(tmp_path)  # read once: it grows
    assert steps == list(range(1, steps[-1] + 1))
    jobs.run("cancel", job)
    jobs.wait_until_gone(job)


def test_pods_prepare_what_one_process_would(jobs: KubernetesJobs, tmp_path: Path) -> None:
    """One of them is evicted before it begins, and made again; the other goes on meanwhile."""
    corpus, door = make_corpus(tmp_path / "tiny"), tmp_path / "door"
    run(corpus, tmp_path / "whole")
    wait = [f"touch {tmp_path}/born-$JOB_COMPLETION_INDEX", f"until [ -e {door} ]; do sleep 0.05; done"]
    convert = ["data_prep", "convert", str(corpus), str(tmp_path / "out"), "--format", "zarr", *SMALL]
    job = jobs.submitted(f"setup={json.dumps(wait)}", "target.cpus_per_rank=2", "--", *convert)
    eventually(lambda: all((tmp_path / f"born-{index}").exists() for index in range(2)), what="both pods run")
    (tmp_path / "born-1").unlink()
    jobs.server.evict(job, 1)
    eventually((tmp_path / "born-1").exists, what="the evicted part is made again")
    door.touch()
    ended = jobs.wait_for(job, "finished")
    assert (ended["exit_code"], ended["restarts"]) == (0, 0)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert '"finished": true' in jobs.logs(job)
    assert jobs.logs(job, "--rank", "1")
