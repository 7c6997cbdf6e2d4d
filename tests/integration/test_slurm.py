"""Our Slurm script on a real Slurm: what is submitted, how ranks start, what a notice and a cancel do."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RequireProgram
from tests.integration.practice import Practice, eventually, make_practice
from tests.integration.slurm_cluster import PROGRAMS, SlurmCluster, slurm_cluster


@pytest.fixture(scope="module")
def slurm(require_program: RequireProgram) -> Iterator[SlurmCluster]:
    for program in PROGRAMS:
        require_program(program, package="slurm-wlm")
    with slurm_cluster(2) as cluster:
        yield cluster


class SlurmJobs:
    """The command line of the launchers against the test's Slurm: 2 nodes, 1 rank on each."""

    def __init__(self, slurm: SlurmCluster, practice: Practice, *, repository: Path) -> None:
        self.slurm, self.practice = slurm, practice
        self.logs = practice.folder.parent / "logs"
        self._environment = dict(slurm.environment) | {"PYTHONPATH": str(repository)}
        self.file = practice.folder.parent / "cluster.yaml"
        self.file.write_text(
            f"name: job\npython: {practice.python}\nmax_restarts: 1\ngrace_seconds: 2\nlogs: {self.logs}\n"
            "target: {kind: slurm, nodes: 2, ranks_per_node: 1, time_limit_minutes: 5}\n"
            "environment: {MASTER_ADDR: 127.0.0.1}\n"
        )

    def run(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "launchers", arguments[0], str(self.file), *arguments[1:]]
        done = subprocess.run(
            command,
            cwd=self.practice.checkout,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, *overrides: str) -> str:
        return self.run("submit", *overrides, "--", *self.practice.command).strip()

    def status(self, job: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.run("status", job))
        return answer

    def wait_for(self, job: str, state: str) -> dict[str, Any]:
        eventually(lambda: self.status(job)["state"] == state, what=f"job {job} is {state}")
        return self.status(job)

    def notify(self, job: str) -> None:
        """What Slurm does before a time limit and before a preemption."""
        self.slurm.ask("scancel", "--signal=USR2", job)

    def both_ranks_started(self, number: int) -> list[dict[str, Any]]:
        return [self.practice.start(rank, number=number) for rank in range(2)]


@pytest.fixture
def jobs(slurm: SlurmCluster, tmp_path: Path, repository: Path) -> Iterator[SlurmJobs]:
    jobs = SlurmJobs(slurm, make_practice(tmp_path), repository=repository)
    yield jobs
    jobs.practice.order("finish")


def test_what_slurm_holds_is_what_render_prints(jobs: SlurmJobs) -> None:
    rendered = jobs.run("render", "--", *jobs.practice.command)
    job = jobs.submit()
    assert jobs.slurm.ask("scontrol", "write", "batch_script", job, "-") == rendered


def test_srun_gives_each_rank_its_place(jobs: SlurmJobs) -> None:
    job = jobs.submit()
    places = [note["environment"] for note in jobs.both_ranks_started(0)]
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURMD_NODENAME", "MASTER_ADDR")
    assert [[place[name] for name in names] for place in places] == [
        ["0", "0", "2", "1", "n1", "127.0.0.1"],
        ["1", "0", "2", "1", "n2", "127.0.0.1"],
    ]
    assert {place["MASTER_PORT"] for place in places} == {str(15000 + int(job) % 16000)}
    jobs.practice.order("finish")
    ended = jobs.wait_for(job, "finished")
    assert (ended["exit_code"], ended["restarts"]) == (0, 0)


def test_a_notice_ends_in_a_requeue_and_the_run_goes_on_from_its_snapshot(jobs: SlurmJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    jobs.notify(job)
    eventually(lambda: jobs.slurm.hurry(job), what="the requeued job starts")
    assert [note["step"] for note in jobs.both_ranks_started(1)] == [1, 1]
    jobs.practice.order("finish")
    assert jobs.wait_for(job, "finished")["restarts"] == 1
    log = (jobs.logs / f"job-{job}.rank-1.log").read_text()
    assert log.splitlines() == [
        "rank 1 starts at step 0",
        "rank 1 received SIGUSR2",
        "rank 1 starts at step 1",
        "rank 1 finished at step 1",
    ]


def test_a_preempted_job_makes_room_and_comes_back(jobs: SlurmJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    urgent = ["sbatch", "--wait", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true"]
    jobs.slurm.ask(*urgent)  # returns when the urgent job has run
    assert "rank 1 received SIGUSR2" in jobs.run("logs", job, "--rank", "1")
    eventually(lambda: jobs.slurm.hurry(job), what="the preempted job starts again")
    assert [note["step"] for note in jobs.both_ranks_started(1)] == [1, 1]


def test_requeues_end_at_the_cap(jobs: SlurmJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    jobs.notify(job)
    eventually(lambda: jobs.slurm.hurry(job), what="the requeued job starts")
    jobs.both_ranks_started(1)
    jobs.notify(job)
    ended = jobs.wait_for(job, "preempted")
    assert (ended["exit_code"], ended["restarts"]) == (3, 1)
    assert "not requeued" in jobs.run("logs", job)


def test_a_cancelled_job_takes_a_snapshot_and_is_not_requeued(jobs: SlurmJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    jobs.run("cancel", job)
    eventually(lambda: not jobs.slurm.ask("squeue", "--noheader", f"--jobs={job}"), what="the job leaves the queue")
    assert [jobs.status(job)[name] for name in ("state", "restarts")] == ["cancelled", 0]
    assert (jobs.practice.folder / "snapshot").read_text() == "1"
    assert "rank 1 received SIGTERM" in jobs.run("logs", job, "--rank", "1")


def test_a_failed_rank_ends_the_others_and_the_job(jobs: SlurmJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    jobs.practice.order("crash-1")
    ended = jobs.wait_for(job, "failed")
    assert ended["exit_code"] not in (0, 3)


def test_an_unknown_job_is_reported_with_slurms_words(jobs: SlurmJobs) -> None:
    command = [sys.executable, "-m", "launchers", "status", str(jobs.file), "999999"]
    environment = dict(jobs.slurm.environment) | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Invalid job id" in done.stderr
