"""Our Slurm script on a real Slurm: what is submitted, how ranks start, what a notice and a cancel do."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RequireProgram
from tests.integration.conversions import SMALL, contents, make_corpus, run
from tests.integration.practice import Practice, command_line, eventually, make_practice
from tests.integration.slurm_cluster import PROGRAMS, SlurmCluster, slurm_cluster
from tests.integration.tiny_run import logged_steps, newest_snapshot, write_tiny_run


@pytest.fixture(scope="module")
def slurm(require_program: RequireProgram) -> Iterator[SlurmCluster]:
    for program in PROGRAMS:
        require_program(program, package="slurm-wlm")
    with slurm_cluster(2) as cluster:
        yield cluster


class SlurmJobs:
    """The command line of the launchers against the test's Slurm: 2 nodes, 1 rank on each."""

    def __init__(self, slurm: SlurmCluster, practice: Practice, *, capture: pytest.CaptureFixture[str]) -> None:
        self.slurm, self.practice, self._capture = slurm, practice, capture
        self.logs = practice.folder.parent / "logs"
        self.file = practice.folder.parent / "cluster.yaml"
        self.file.write_text(
            f"name: job\npython: {practice.python}\nmax_restarts: 1\ngrace_seconds: 2\nlogs: {self.logs}\n"
            "target: {kind: slurm, nodes: 2, ranks_per_node: 1, time_limit_minutes: 5}\n"
            "environment: {MASTER_ADDR: 127.0.0.1, OMP_NUM_THREADS: 1}\n"
        )

    def run(self, verb: str, *arguments: str) -> str:
        done = command_line(self._capture, verb, str(self.file), *arguments)
        assert done.code == 0, done.err
        return done.out

    def log(self, job: str, ending: str = ".log") -> str:
        return (self.logs / f"job-{job}{ending}").read_text()

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
def jobs(
    slurm: SlurmCluster,
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[SlurmJobs]:
    jobs = SlurmJobs(slurm, make_practice(tmp_path), capture=capsys)
    monkeypatch.chdir(jobs.practice.checkout)
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH"))]:
        monkeypatch.delenv(name)
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    yield jobs
    jobs.practice.order("finish")


def test_what_slurm_holds_is_what_render_prints(jobs: SlurmJobs) -> None:
    rendered = jobs.run("render", "--", *jobs.practice.command)
    job = jobs.submit()
    assert jobs.slurm.ask("scontrol", "write", "batch_script", job, "-") == rendered


def test_slurm_takes_the_further_options_of_a_site(jobs: SlurmJobs) -> None:
    job = jobs.submit("target.options=[--comment=paid-by:b12, --nice=10]")
    shown = jobs.slurm.ask("scontrol", "show", "job", "--oneliner", job)
    assert "Comment=paid-by:b12" in shown
    assert "Nice=10" in shown


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
    jobs.slurm.wait_for_restart(job)
    assert [note["step"] for note in jobs.both_ranks_started(1)] == [1, 1]
    jobs.practice.order("finish")
    assert jobs.wait_for(job, "finished")["restarts"] == 1
    assert jobs.log(job, ".rank-1.log").splitlines() == [
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
    assert "rank 1 received SIGUSR2" in jobs.log(job, ".rank-1.log")
    jobs.slurm.wait_for_restart(job)
    assert [note["step"] for note in jobs.both_ranks_started(1)] == [1, 1]


def test_a_notice_that_comes_before_the_ranks_listen_kills_nobody(jobs: SlurmJobs) -> None:
    jobs.practice.order("late")
    job = jobs.submit()
    jobs.practice.both_are_born()
    jobs.notify(job)
    eventually(lambda: jobs.slurm.has_signalled(job, signal.SIGUSR2), what="every node delivers the notice")
    jobs.practice.order("listen")
    jobs.practice.order("finish")
    assert jobs.wait_for(job, "finished")["restarts"] == 0


def test_requeues_end_at_the_cap(jobs: SlurmJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    jobs.notify(job)
    jobs.slurm.wait_for_restart(job)
    jobs.both_ranks_started(1)
    jobs.notify(job)
    ended = jobs.wait_for(job, "preempted")
    assert (ended["exit_code"], ended["restarts"]) == (3, 1)
    assert "not requeued" in jobs.log(job)


def test_a_cancelled_job_takes_a_snapshot_and_is_not_requeued(jobs: SlurmJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    jobs.run("cancel", job)
    eventually(lambda: not jobs.slurm.ask("squeue", "--noheader", f"--jobs={job}"), what="the job leaves the queue")
    assert [jobs.status(job)[name] for name in ("state", "restarts")] == ["cancelled", 0]
    assert (jobs.practice.folder / "snapshot").read_text() == "1"
    assert "rank 1 received SIGTERM" in jobs.log(job, ".rank-1.log")


def test_a_failed_rank_ends_the_others_and_the_job(jobs: SlurmJobs) -> None:
    job = jobs.submit()
    jobs.both_ranks_started(0)
    jobs.practice.order("crash-1")
    ended = jobs.wait_for(job, "failed")
    assert ended["exit_code"] not in (0, 3)


def test_an_unknown_job_is_reported_with_slurms_words(jobs: SlurmJobs, capsys: pytest.CaptureFixture[str]) -> None:
    answer = command_line(capsys, "status", str(jobs.file), "999999")
    assert answer.code == 1
    assert "Invalid job id" in answer.err


def test_real_training_goes_on_after_a_requeue(jobs: SlurmJobs, repository: Path, tmp_path: Path) -> None:
    config = write_tiny_run(tmp_path, name="tiny", targets=tmp_path / "targets")
    place = [f"working_directory={repository}", f"python={sys.executable}"]
    job = jobs.run("submit", *place, "--", "train", str(config)).strip()
    eventually(lambda: len(logged_steps(tmp_path)) > 2, what="training runs", within_seconds=200)
    jobs.notify(job)
    jobs.slurm.wait_for_restart(job)
    before = newest_snapshot(tmp_path)

    def goes_on() -> bool:
        assert jobs.status(job)["state"] == "running", jobs.log(job, ".rank-0.log")[-2000:]
        return logged_steps(tmp_path)[-1] > before

    eventually(goes_on, what="training goes on", within_seconds=200)
    steps = logged_steps(tmp_path)  # read once: it grows
    assert steps == list(range(1, steps[-1] + 1))
    jobs.run("cancel", job)
    jobs.wait_for(job, "cancelled")


def test_an_array_of_parts_prepares_what_one_process_would(jobs: SlurmJobs, repository: Path, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "tiny")
    run(corpus, tmp_path / "whole")
    place = [f"working_directory={repository}", f"python={sys.executable}", "target.nodes=3"]
    convert = ["--", "data_prep", "convert", str(corpus), str(tmp_path / "out"), "--format", "zarr", *SMALL]
    rendered = jobs.run("render", *place, *convert)
    job = jobs.run("submit", *place, *convert).strip()
    ended = jobs.wait_for(job, "finished")
    assert jobs.slurm.ask("scontrol", "write", "batch_script", f"{job}_1", "-") == rendered
    assert ended["detail"] == "3 tasks: 3 finished"
    assert '"finished": true' in "".join(jobs.log(job, f".rank-{number}.log") for number in range(3))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_part_that_is_given_notice_is_requeued_and_goes_on(jobs: SlurmJobs, repository: Path, tmp_path: Path) -> None:
    """The interpreter waits at a door, so that the notice comes before there is anything to do."""
    corpus, door, born = make_corpus(tmp_path / "tiny"), tmp_path / "door", tmp_path / "born"
    run(corpus, tmp_path / "whole")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ntouch {born}\nwhile [ ! -e {door} ]; do sleep 0.1; done\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    place = [f"working_directory={repository}", f"python={python}", "target.nodes=1"]
    convert = ["--", "data_prep", "convert", str(corpus), str(tmp_path / "out"), "--format", "zarr", *SMALL]
    job = jobs.run("submit", *place, *convert).strip()
    eventually(born.exists, what="the interpreter starts")
    jobs.slurm.ask("scancel", "--batch", "--signal=USR2", f"{job}_0")
    jobs.slurm.wait_for_restart(f"{job}_0")
    door.touch()
    assert jobs.wait_for(job, "finished")["restarts"] == 1
    assert "requeue after restart 0" in jobs.log(job, ".rank-0.log")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
