"""The ssh launcher on real hosts, each an sshd in a network of its own: ranks that outlive nobody, hosts that die."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launchers.record import JobRecord, process_of, read_record
from tests.conftest import RequireProgram
from tests.integration.conversions import SMALL, contents, make_corpus, run
from tests.integration.practice import Answer, Practice, eventually, make_practice
from tests.integration.ssh_hosts import PROGRAMS, SshHosts, ssh_hosts
from tests.integration.tiny_run import logged_steps, newest_snapshot, write_tiny_run

IMPATIENT = "target.silence_seconds=10"
"""For hosts that fall silent; long enough that a busy machine is not taken for one."""


@pytest.fixture(scope="module")
def hosts(require_program: RequireProgram, require_root: None) -> Iterator[SshHosts]:
    for program, package in PROGRAMS.items():
        require_program(program, package=package)
    with ssh_hosts("desk", "red", "blue", "green") as hosts:
        yield hosts


class SshJobs:
    """The command line of the launchers, given at the desk: two of three hosts work, 1 rank on each."""

    def __init__(self, hosts: SshHosts, practice: Practice, *, repository: Path) -> None:
        self.hosts, self.practice, self._repository = hosts, practice, repository
        self.file = practice.checkout / "cluster.yaml"
        self.file.write_text(
            f"name: job\npython: {practice.python}\nmax_restarts: 1\ngrace_seconds: 2\n"
            "target: {kind: ssh, hosts: [red, blue, green], nodes: 2, "
            f"ssh: [ssh, -F, {hosts.config}, -oConnectTimeout=2]}}\n"
            f"environment: {{PYTHONPATH: {repository}, GLOO_SOCKET_IFNAME: eth0, OMP_NUM_THREADS: 1}}\n"
        )

    def begin(self, verb: str, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.hosts.command(sys.executable, "-m", "launchers", verb, str(self.file), *arguments),
            cwd=self.practice.checkout,
            env=os.environ | {"PYTHONPATH": str(self._repository)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, verb: str, *arguments: str) -> Answer:
        process = self.begin(verb, *arguments)
        out, err = process.communicate(timeout=300)
        return Answer(process.returncode, out, err)

    def submit(self, *overrides: str) -> None:
        done = self.run("submit", *overrides, "--", *self.practice.command)
        assert (done.code, done.out) == (0, "1\n"), done.err

    def status(self) -> dict[str, Any]:
        done = self.run("status", "1")
        assert done.code == 0, done.err
        answer: dict[str, Any] = json.loads(done.out)
        return answer

    def ended(self) -> list[Any]:
        """State, exit code and restarts, once the record holds an exit code."""
        eventually(lambda: self.record.exit_code is not None, what="the job ends", within_seconds=120)
        answer = self.status()
        return [answer[name] for name in ("state", "exit_code", "restarts")]

    def both_ranks_started(self, number: int) -> list[dict[str, Any]]:
        return [self.practice.start(rank, number=number) for rank in range(2)]

    @property
    def record_path(self) -> Path:
        return self.practice.checkout / "runs/logs/job-1.json"

    @property
    def record(self) -> JobRecord:
        return read_record(self.record_path)

    def log(self, ending: str = ".log") -> str:
        return (self.practice.checkout / f"runs/logs/job-1{ending}").read_text()


def server_address(note: dict[str, Any]) -> str:
    """Where the sshd is through which a rank was started."""
    return str(note["environment"]["SSH_CONNECTION"].split()[2])


def is_alive(note: dict[str, Any]) -> bool:
    process = process_of(note["pid"])
    return process is not None and process.is_alive


@pytest.fixture
def jobs(hosts: SshHosts, tmp_path: Path, repository: Path) -> Iterator[SshJobs]:
    jobs = SshJobs(hosts, make_practice(tmp_path), repository=repository)
    yield jobs
    jobs.practice.order("finish")
    if jobs.record_path.exists():
        record = jobs.record
        everyone = (record.supervisor, *record.members)
        eventually(lambda: not any(process.is_alive for process in everyone), what="the job leaves nothing behind")
    notes = [json.loads(path.read_text()) for path in jobs.practice.folder.glob("start-*.json")]
    eventually(lambda: not any(is_alive(note) for note in notes), what="no rank is left behind")


def test_ranks_run_on_the_first_hosts_and_meet_at_the_first(jobs: SshJobs) -> None:
    jobs.submit()
    notes = jobs.both_ranks_started(0)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    red, blue = jobs.hosts.address("red"), jobs.hosts.address("blue")
    assert [[note["environment"][name] for name in names] for note in notes] == [
        ["0", "0", "2", "1", red],
        ["1", "0", "2", "1", red],
    ]
    assert [server_address(note) for note in notes] == [red, blue]
    assert notes[0]["environment"]["MASTER_PORT"] == notes[1]["environment"]["MASTER_PORT"]
    assert jobs.status()["state"] == "running"
    jobs.practice.order("finish")
    assert jobs.ended() == ["finished", 0, 0]


def test_several_ranks_of_a_host_are_numbered_through_and_logged_apart(jobs: SshJobs) -> None:
    jobs.practice.order("finish")
    jobs.submit("target.ranks_per_node=2", "target.nodes=1")
    jobs.ended()
    places = [jobs.practice.start(rank, number=0)["environment"]["LOCAL_RANK"] for rank in range(2)]
    assert places == ["0", "1"]
    for rank in range(2):
        said = f"rank {rank} starts at step 0\nrank {rank} finished at step 0\n"
        assert jobs.log(f".rank-{rank}.log") == said
        assert jobs.run("logs", "1", "--rank", str(rank)).out == said


def test_what_was_submitted_is_what_render_prints(jobs: SshJobs) -> None:
    jobs.practice.order("finish")
    rendered = jobs.run("render", "--", *jobs.practice.command).out
    jobs.submit()
    jobs.ended()
    assert jobs.log(".sh") == rendered


def test_the_script_runs_by_hand_as_job_0(jobs: SshJobs) -> None:
    jobs.practice.order("finish")
    script = jobs.run("render", "--", *jobs.practice.command).out
    done = subprocess.run(
        jobs.hosts.command("bash", "-c", script), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (jobs.practice.checkout / "runs/logs/job-0.rank-1.log").read_text().endswith("finished at step 0\n")


def test_setup_that_reads_its_input_takes_neither_script_nor_orders(jobs: SshJobs) -> None:
    jobs.submit("setup=[cat, 'read -r nothing', 'export SAID=it']")
    assert [note["environment"]["SAID"] for note in jobs.both_ranks_started(0)] == ["it", "it"]
    assert jobs.run("cancel", "1").code == 0
    assert jobs.ended()[0] == "cancelled"


def test_a_notice_ends_in_a_restart_from_the_snapshot(jobs: SshJobs) -> None:
    jobs.submit()
    jobs.both_ranks_started(0)
    jobs.record.supervisor.send(signal.SIGUSR2)
    assert [note["step"] for note in jobs.both_ranks_started(1)] == [1, 1]
    assert "rank 1 received SIGUSR2" in jobs.log(".rank-1.log"), jobs.log()
    jobs.practice.order("finish")
    assert jobs.ended() == ["finished", 0, 1]


def test_a_notice_that_comes_before_the_ranks_listen_kills_nobody(jobs: SshJobs) -> None:
    jobs.practice.order("late")
    jobs.submit()
    jobs.practice.both_are_born()
    jobs.record.supervisor.send(signal.SIGUSR2)
    said = [f"{name}: [" for name in ("red", "blue")]
    eventually(lambda: all(_said_notice(jobs.log(), name) for name in said), what="the notice is handed on")
    jobs.practice.order("listen")
    jobs.practice.order("finish")
    assert jobs.ended() == ["finished", 0, 0]


def _said_notice(log: str, speaker: str) -> bool:
    return any(speaker in line and "notice of preemption" in line for line in log.splitlines())


def test_a_cancelled_job_takes_a_snapshot_and_stays_away(jobs: SshJobs) -> None:
    jobs.submit()
    jobs.both_ranks_started(0)
    assert jobs.run("cancel", "1").code == 0
    assert jobs.ended() == ["cancelled", 3, 0]
    assert (jobs.practice.folder / "snapshot").read_text() == "1"


def test_a_failed_rank_ends_the_others_and_the_job(jobs: SshJobs) -> None:
    jobs.submit()
    jobs.both_ranks_started(0)
    jobs.practice.order("crash-1")
    assert jobs.ended() == ["failed", 1, 0]
    assert "rank 0 received SIGTERM" in jobs.log(".rank-0.log")
    assert "host blue failed with exit code 1" in jobs.log()


def test_ranks_of_a_killed_supervisor_take_a_snapshot_and_end(jobs: SshJobs) -> None:
    jobs.submit()
    notes = jobs.both_ranks_started(0)
    jobs.record.supervisor.send(signal.SIGKILL)
    eventually(lambda: not any(is_alive(note) for note in notes), what="the ranks end")
    assert (jobs.practice.folder / "snapshot").read_text() == "1"
    eventually(lambda: jobs.status()["state"] == "lost", what="the job is lost")


def test_a_host_that_crashes_is_replaced_by_one_that_answers(jobs: SshJobs) -> None:
    jobs.submit(IMPATIENT)
    jobs.both_ranks_started(0)
    jobs.hosts.crash("red")
    try:
        notes = jobs.both_ranks_started(1)
        assert [server_address(note) for note in notes] == [jobs.hosts.address(name) for name in ("blue", "green")]
        assert notes[0]["environment"]["MASTER_ADDR"] == jobs.hosts.address("blue")
    finally:
        jobs.hosts.serve("red")
    jobs.practice.order("finish")
    assert jobs.ended() == ["finished", 0, 1]


def test_a_host_whose_cable_is_pulled_gives_up_before_the_job_goes_on(jobs: SshJobs) -> None:
    """What would be lost is the run itself, if two of it wrote into one folder."""
    jobs.submit(IMPATIENT)
    cut = jobs.both_ranks_started(0)[1]
    jobs.hosts.cut("blue")
    try:
        notes = jobs.both_ranks_started(1)
        assert not is_alive(cut)
        assert [server_address(note) for note in notes] == [jobs.hosts.address(name) for name in ("red", "green")]
    finally:
        jobs.hosts.heal("blue")
    jobs.practice.order("finish")
    assert jobs.ended() == ["finished", 0, 1]


def test_a_job_that_finds_too_few_hosts_again_fails_and_says_which(jobs: SshJobs) -> None:
    jobs.submit(IMPATIENT, "target.hosts=[red, blue]", "target.reconnect_minutes=0")
    jobs.both_ranks_started(0)
    jobs.hosts.cut("blue")
    try:
        assert jobs.ended() == ["failed", 1, 1]
    finally:
        jobs.hosts.heal("blue")
    assert "1 of 2 hosts are ready, 2 are needed; blue: ssh: connect to host" in jobs.log()


def test_a_host_that_does_not_answer_is_named_at_submit_and_nothing_is_left(jobs: SshJobs) -> None:
    before = sorted(jobs.practice.checkout.rglob("*"))
    answer = jobs.run("submit", "target.hosts=[red, 10.77.0.99]", "target.nodes=2", "--", *jobs.practice.command)
    assert (answer.code, answer.out) == (1, "")
    assert "1 of 2 hosts are ready, 2 are needed; 10.77.0.99: ssh: connect to host 10.77.0.99" in answer.err
    assert sorted(jobs.practice.checkout.rglob("*")) == before


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("python=nowhere/python", "nowhere/python: No such file or directory"),
        ("working_directory=/nowhere", "/nowhere: No such file or directory"),
        ("target.ssh=[no-such-ssh]", "red: no-such-ssh: No such file or directory"),
        ("setup=['echo no module cuda >&2; exit 1']", "blue: no module cuda"),
    ],
)
def test_hosts_that_cannot_run_the_job_say_why_at_submit(jobs: SshJobs, override: str, expected: str) -> None:
    answer = jobs.run("submit", override, "--", *jobs.practice.command)
    assert (answer.code, answer.out) == (1, "")
    assert expected in answer.err


def test_parts_prepare_what_one_process_would(jobs: SshJobs, repository: Path, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "tiny")
    run(corpus, tmp_path / "whole")
    place = [f"working_directory={repository}", f"python={sys.executable}", "target.nodes=3"]
    convert = ["--", "data_prep", "convert", str(corpus), str(tmp_path / "out"), "--format", "zarr", *SMALL]
    done = jobs.run("submit", *place, *convert)
    assert done.code == 0, done.err
    assert jobs.ended() == ["finished", 0, 0]
    assert '"finished": true' in "".join(jobs.log(f".rank-{number}.log") for number in range(3))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_real_training_goes_on_elsewhere_when_a_host_crashes(jobs: SshJobs, repository: Path, tmp_path: Path) -> None:
    config = write_tiny_run(tmp_path, name="tiny", targets=tmp_path / "targets")
    place = [f"working_directory={repository}", f"python={sys.executable}", "grace_seconds=5", IMPATIENT]
    done = jobs.run("submit", *place, "--", "train", str(config), "snapshots.every_steps=5")
    assert done.code == 0, done.err
    eventually(lambda: list(tmp_path.glob("run/snapshots/step-*/manifest.json")), what="it saves", within_seconds=200)
    jobs.hosts.crash("blue")
    try:
        eventually(lambda: jobs.record.restarts == 1, what="the job restarts", within_seconds=200)
        before = newest_snapshot(tmp_path)
        eventually(lambda: logged_steps(tmp_path)[-1] > before, what="training goes on", within_seconds=200)
    finally:
        jobs.hosts.serve("blue")
    assert "ranks on red, green" in jobs.log()
    steps = logged_steps(tmp_path)  # read once: it grows
    assert steps == list(range(1, steps[-1] + 1))
    assert jobs.run("cancel", "1").code == 0
    assert jobs.ended()[0] == "cancelled"


def test_a_meeting_point_that_the_others_take_for_themselves_is_refused_at_submit(jobs: SshJobs) -> None:
    answer = jobs.run("submit", "environment.MASTER_ADDR=127.0.0.1", "--", *jobs.practice.command)
    assert (answer.code, answer.out) == (1, "")
    assert "red is 127.0.0.1, which every other host takes for itself; set environment.MASTER_ADDR" in answer.err


def test_a_submit_that_is_interrupted_starts_nothing(jobs: SshJobs) -> None:
    """Where a host is slow to say that it is ready."""
    before = sorted(jobs.practice.checkout.rglob("*"))
    asked = jobs.practice.folder / "asked"
    override = f"setup=['touch {asked}', 'sleep 30']"
    process = jobs.begin("submit", override, "--", *jobs.practice.command)
    eventually(asked.exists, what="the hosts are asked")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)
    assert (process.returncode, said[0]) == (130, "")
    assert said[1].startswith("launchers: interrupted; nothing was started")
    assert sorted(jobs.practice.checkout.rglob("*")) == before
