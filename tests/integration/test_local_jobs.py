"""The local launcher with real processes: ranks, signals, restarts, records and logs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launchers.job import JobFiles
from launchers.record import JobRecord, Process, process_of, read_record, write_record
from tests.integration.practice import Answer, Practice, command_line, eventually, make_practice


class Jobs:
    """The command line of the launchers, with a cluster file of its own."""

    def __init__(self, practice: Practice, capture: pytest.CaptureFixture[str]) -> None:
        self.practice, self.file, self._capture = practice, practice.checkout / "cluster.yaml", capture
        self.file.write_text(
            f"name: job\npython: {practice.python}\nmax_restarts: 1\ngrace_seconds: 20\n"
            "target: {kind: local, ranks: 2}\n"
        )

    def run(self, verb: str, *arguments: str) -> Answer:
        return command_line(self._capture, verb, str(self.file), *arguments)

    def submit(self, *overrides: str) -> str:
        done = self.run("submit", *overrides, "--", *self.practice.command)
        assert done.code == 0, done.err
        return done.out.strip()

    def status(self, job: str = "1") -> dict[str, Any]:
        done = self.run("status", job)
        assert done.code == 0, done.err
        answer: dict[str, Any] = json.loads(done.out)
        return answer

    def ended(self) -> dict[str, Any]:
        """The status, once the record holds an exit code."""
        eventually(lambda: self.record.exit_code is not None, what="the job ends")
        return self.status()

    @property
    def record_path(self) -> Path:
        return self.practice.checkout / "runs/logs/job-1.json"

    @property
    def record(self) -> JobRecord:
        return read_record(self.record_path)

    def log(self, name: str) -> str:
        return (self.practice.checkout / "runs/logs" / name).read_text()


@pytest.fixture
def jobs(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Jobs]:
    jobs = Jobs(make_practice(tmp_path), capsys)
    monkeypatch.chdir(jobs.practice.checkout)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    yield jobs
    jobs.practice.order("finish")
    if jobs.record_path.exists():
        record = jobs.record
        everyone = (record.supervisor, *record.members)
        eventually(lambda: not any(process.is_alive for process in everyone), what="the job leaves nothing behind")


@pytest.mark.parametrize("python", ["nowhere/python", "/bin/true"])
def test_a_job_that_cannot_start_names_its_python_and_leaves_nothing(jobs: Jobs, python: str) -> None:
    before = sorted(jobs.practice.checkout.rglob("*"))
    answer = jobs.run("submit", f"python={python}", "--", *jobs.practice.command)
    assert (answer.code, answer.out) == (1, "")
    assert f"the job did not start by `python: {python}`" in answer.err
    assert "set `python` in CLUSTER to an interpreter that has this project installed" in answer.err
    assert sorted(jobs.practice.checkout.rglob("*")) == before


def test_a_job_runs_its_ranks_and_finishes(jobs: Jobs) -> None:
    assert jobs.submit() == "1"
    places = [jobs.practice.start(rank, number=0)["environment"] for rank in range(2)]
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    assert [[place[name] for name in names] for place in places] == [
        ["0", "0", "2", "2", "127.0.0.1"],
        ["1", "1", "2", "2", "127.0.0.1"],
    ]
    assert places[0]["MASTER_PORT"] == places[1]["MASTER_PORT"]
    assert jobs.status()["state"] == "running"
    jobs.practice.order("finish")
    assert (jobs.ended()["state"], jobs.ended()["exit_code"]) == ("finished", 0)


def test_what_was_submitted_is_what_render_prints(jobs: Jobs) -> None:
    rendered = jobs.run("render", "--", *jobs.practice.command).out
    jobs.practice.order("finish")
    jobs.submit()
    jobs.ended()
    assert jobs.log("job-1.sh") == rendered


def test_the_script_runs_by_hand_as_job_0(jobs: Jobs) -> None:
    script = jobs.run("render", "--", *jobs.practice.command).out
    jobs.practice.order("finish")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (jobs.status("0")["state"], jobs.log("job-0.rank-0.log").splitlines()[-1]) == (
        "finished",
        "rank 0 finished at step 0",
    )


def test_each_rank_has_its_log(jobs: Jobs) -> None:
    jobs.practice.order("finish")
    jobs.submit()
    jobs.ended()
    assert jobs.log("job-1.rank-1.log") == "rank 1 starts at step 0\nrank 1 finished at step 0\n"
    command = [sys.executable, "-m", "launchers", "logs", str(jobs.file), "1", "--rank", "0"]  # it becomes `tail`
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert shown == "rank 0 starts at step 0\nrank 0 finished at step 0\n"


def test_a_notice_ends_in_a_restart_from_the_snapshot(jobs: Jobs) -> None:
    jobs.submit()
    for rank in range(2):
        jobs.practice.start(rank, number=0)
    jobs.record.supervisor.send(signal.SIGUSR2)
    assert [jobs.practice.start(rank, number=1)["step"] for rank in range(2)] == [1, 1]
    jobs.practice.order("finish")
    assert (jobs.ended()["state"], jobs.ended()["restarts"]) == ("finished", 1)


def test_a_notice_that_comes_before_the_ranks_listen_kills_nobody(jobs: Jobs) -> None:
    jobs.practice.order("late")
    jobs.submit()
    jobs.practice.both_are_born()
    jobs.record.supervisor.send(signal.SIGUSR2)
    eventually(lambda: "handed on" in jobs.log("job-1.log"), what="the notice is handed on")
    jobs.practice.order("listen")
    jobs.practice.order("finish")
    assert (jobs.ended()["state"], jobs.ended()["restarts"]) == ("finished", 0)


def test_restarts_end_at_the_cap(jobs: Jobs) -> None:
    jobs.submit()
    for number in range(2):
        for rank in range(2):
            jobs.practice.start(rank, number=number)
        jobs.record.supervisor.send(signal.SIGUSR2)
    ended = jobs.ended()
    assert (ended["state"], ended["restarts"], ended["exit_code"]) == ("preempted", 1, 3)
    assert "the limit of max_restarts" in jobs.log("job-1.log")


def test_a_cancelled_job_takes_a_snapshot_and_stays_away(jobs: Jobs) -> None:
    jobs.submit()
    for rank in range(2):
        jobs.practice.start(rank, number=0)
    assert jobs.run("cancel", "1").code == 0
    assert (jobs.ended()["state"], jobs.ended()["restarts"]) == ("cancelled", 0)
    assert (jobs.practice.folder / "snapshot").read_text() == "1"


def test_a_failed_rank_ends_the_others_and_the_job(jobs: Jobs) -> None:
    jobs.submit()
    jobs.practice.start(0, number=0)
    jobs.practice.start(1, number=0)
    jobs.practice.order("crash-1")
    assert (jobs.ended()["state"], jobs.ended()["exit_code"]) == ("failed", 1)
    assert "rank 0 received SIGTERM" in jobs.log("job-1.rank-0.log")


def test_ranks_of_a_killed_supervisor_are_found_and_cancelled(jobs: Jobs) -> None:
    jobs.submit()
    for rank in range(2):
        jobs.practice.start(rank, number=0)
    jobs.record.supervisor.send(signal.SIGKILL)
    eventually(lambda: not jobs.record.supervisor.is_alive, what="the supervisor dies")
    assert jobs.status()["state"] == "running"
    assert jobs.run("cancel", "1").code == 0
    eventually(lambda: not any(rank.is_alive for rank in jobs.record.members), what="the ranks end")
    assert jobs.status()["state"] == "lost"


def test_a_process_with_a_used_id_is_not_the_recorded_one(tmp_path: Path) -> None:
    own = process_of(os.getpid())
    assert own is not None
    assert own.is_alive
    assert not Process(pid=own.pid, start_ticks=own.start_ticks + 1).is_alive


def test_a_record_reads_back_as_written(tmp_path: Path) -> None:
    record = JobRecord(
        machine="somewhere",
        supervisor=Process(pid=7, start_ticks=8),
        members=(Process(pid=9, start_ticks=1),),
        restarts=2,
        exit_code=0,
    )
    write_record(tmp_path / "record.json", record)
    assert read_record(tmp_path / "record.json") == record


def test_jobs_are_numbered_in_turn(jobs: Jobs) -> None:
    jobs.practice.order("finish")
    assert [jobs.submit(), jobs.submit()] == ["1", "2"]


def test_a_record_without_a_script_keeps_its_number(jobs: Jobs) -> None:
    jobs.practice.order("finish")
    jobs.submit()
    jobs.ended()
    (jobs.practice.checkout / "runs/logs/job-1.sh").unlink()
    assert jobs.submit() == "2"


def test_other_files_beside_the_logs_are_left_alone(jobs: Jobs) -> None:
    jobs.practice.order("finish")
    jobs.submit()
    jobs.ended()
    (jobs.practice.checkout / "runs/logs/job-1.rank-0.old.log").write_text("mine")
    assert len(JobFiles(jobs.record_path.parent, "job", "1").logs(None)) == 3


def test_an_interpreter_that_is_missing_is_reported_at_submit(jobs: Jobs) -> None:
    done = jobs.run("submit", "python=/no/such/python", "--", *jobs.practice.command)
    assert done.code == 1
    assert "/no/such/python" in done.err


@pytest.mark.parametrize("verb", ["status", "cancel", "logs"])
def test_an_unknown_job_is_refused(jobs: Jobs, verb: str) -> None:
    done = jobs.run(verb, "77")
    assert done.code == 2
    assert "job-77" in done.err
    assert "Traceback" not in done.err
