"""The ssh launcher on real hosts, each an sshd in a network of its own: what runs where, signals, refusals."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conversions import SMALL, contents, make_corpus, run
from tests.integration.practice import eventually
from tests.integration.ssh_jobs import SshJobs, server_address


def test_ranks_run_on_the_first_hosts_and_meet_at_the_first(ssh_jobs: SshJobs) -> None:
    ssh_jobs.submit()
    notes = ssh_jobs.both_ranks_started(0)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    red, blue = ssh_jobs.hosts.address("red"), ssh_jobs.hosts.address("blue")
    assert [[note["environment"][name] for name in names] for note in notes] == [
        ["0", "0", "2", "1", red],
        ["1", "0", "2", "1", red],
    ]
    assert [server_address(note) for note in notes] == [red, blue]
    assert notes[0]["environment"]["MASTER_PORT"] == notes[1]["environment"]["MASTER_PORT"]
    assert ssh_jobs.status()["state"] == "running"
    ssh_jobs.practice.order("finish")
    assert ssh_jobs.ended() == ["finished", 0, 0]


def test_several_ranks_of_a_host_are_numbered_through_and_logged_apart(ssh_jobs: SshJobs) -> None:
    ssh_jobs.practice.order("finish")
    ssh_jobs.submit("target.ranks_per_node=2", "target.nodes=1")
    ssh_jobs.ended()
    places = [ssh_jobs.practice.start(rank, number=0)["environment"]["LOCAL_RANK"] for rank in range(2)]
    assert places == ["0", "1"]
    for rank in range(2):
        said = f"rank {rank} starts at step 0\nrank {rank} finished at step 0\n"
        assert ssh_jobs.log(f".rank-{rank}.log") == said
        assert ssh_jobs.run("logs", "1", "--rank", str(rank)).out == said


def test_what_was_submitted_is_what_render_prints(ssh_jobs: SshJobs) -> None:
    ssh_jobs.practice.order("finish")
    rendered = ssh_jobs.run("render", "--", *ssh_jobs.practice.command).out
    ssh_jobs.submit()
    ssh_jobs.ended()
    assert ssh_jobs.log(".sh") == rendered


def test_the_script_runs_by_hand_as_job_0(ssh_jobs: SshJobs) -> None:
    ssh_jobs.practice.order("finish")
    script = ssh_jobs.run("render", "--", *ssh_jobs.practice.command).out
    done = subprocess.run(
        ssh_jobs.hosts.command("bash", "-c", script), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (ssh_jobs.practice.checkout / "runs/logs/job-0.rank-1.log").read_text().endswith("finished at step 0\n")


def test_prometheus_is_told_of_the_hosts_until_the_job_ends(ssh_jobs: SshJobs) -> None:
    ssh_jobs.submit("target.metrics_port=9400")
    assert ssh_jobs.targets == [
        {"targets": [f"{ssh_jobs.hosts.address(name)}:9400"], "labels": {"run": "job-1", "node": str(node)}}
        for node, name in enumerate(("red", "blue"))
    ]
    ssh_jobs.practice.order("finish")
    assert ssh_jobs.ended() == ["finished", 0, 0]
    folder = ssh_jobs.practice.checkout / "runs/prometheus"
    eventually(lambda: list(folder.iterdir()) == [], what="the job is withdrawn")


def test_a_job_runs_though_prometheus_cannot_be_told(ssh_jobs: SshJobs) -> None:
    ssh_jobs.practice.order("finish")
    ssh_jobs.submit("target.metrics_port=9400", f"target.metrics_targets={ssh_jobs.file}/below")
    assert ssh_jobs.ended() == ["finished", 0, 0]
    assert "Prometheus is not told of the hosts: " in ssh_jobs.log()


def test_setup_that_reads_its_input_takes_neither_script_nor_orders(ssh_jobs: SshJobs) -> None:
    ssh_jobs.submit("setup=[cat, 'read -r nothing', 'export SAID=it']")
    assert [note["environment"]["SAID"] for note in ssh_jobs.both_ranks_started(0)] == ["it", "it"]
    assert ssh_jobs.run("cancel", "1").code == 0
    assert ssh_jobs.ended()[0] == "cancelled"


def test_a_notice_ends_in_a_restart_from_the_snapshot(ssh_jobs: SshJobs) -> None:
    ssh_jobs.submit()
    ssh_jobs.both_ranks_started(0)
    ssh_jobs.record.supervisor.send(signal.SIGUSR2)
    assert [note["step"] for note in ssh_jobs.both_ranks_started(1)] == [1, 1]
    assert "rank 1 received SIGUSR2" in ssh_jobs.log(".rank-1.log"), ssh_jobs.log()
    ssh_jobs.practice.order("finish")
    assert ssh_jobs.ended() == ["finished", 0, 1]


def test_a_notice_that_comes_before_the_ranks_listen_kills_nobody(ssh_jobs: SshJobs) -> None:
    ssh_jobs.practice.order("late")
    ssh_jobs.submit()
    ssh_jobs.practice.both_are_born()
    ssh_jobs.record.supervisor.send(signal.SIGUSR2)
    said = [f"{name}: [" for name in ("red", "blue")]
    eventually(lambda: all(_said_notice(ssh_jobs.log(), name) for name in said), what="the notice is handed on")
    ssh_jobs.practice.order("listen")
    ssh_jobs.practice.order("finish")
    assert ssh_jobs.ended() == ["finished", 0, 0]


def _said_notice(log: str, speaker: str) -> bool:
    return any(speaker in line and "notice of preemption" in line for line in log.splitlines())


def test_a_cancelled_job_takes_a_snapshot_and_stays_away(ssh_jobs: SshJobs) -> None:
    ssh_jobs.submit()
    ssh_jobs.both_ranks_started(0)
    assert ssh_jobs.run("cancel", "1").code == 0
    assert ssh_jobs.ended() == ["cancelled", 3, 0]
    assert (ssh_jobs.practice.folder / "snapshot").read_text() == "1"


def test_a_failed_rank_ends_the_others_and_the_job(ssh_jobs: SshJobs) -> None:
    ssh_jobs.submit()
    ssh_jobs.both_ranks_started(0)
    ssh_jobs.practice.order("crash-1")
    assert ssh_jobs.ended() == ["failed", 1, 0]
    assert "rank 0 received SIGTERM" in ssh_jobs.log(".rank-0.log")
    assert "host blue failed with exit code 1" in ssh_jobs.log()


def test_a_host_that_does_not_answer_is_named_at_submit_and_nothing_is_left(ssh_jobs: SshJobs) -> None:
    before = sorted(ssh_jobs.practice.checkout.rglob("*"))
    answer = ssh_jobs.run(
        "submit", "target.hosts=[red, 10.77.0.99]", "target.nodes=2", "--", *ssh_jobs.practice.command
    )
    assert (answer.code, answer.out) == (1, "")
    assert "1 of 2 hosts are ready, 2 are needed; 10.77.0.99: ssh: connect to host 10.77.0.99" in answer.err
    assert sorted(ssh_jobs.practice.checkout.rglob("*")) == before


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("python=nowhere/python", "nowhere/python: No such file or directory"),
        ("working_directory=/nowhere", "/nowhere: No such file or directory"),
        ("target.ssh=[no-such-ssh]", "red: no-such-ssh: No such file or directory"),
        ("setup=['echo no module cuda >&2; exit 1']", "blue: no module cuda"),
    ],
)
def test_hosts_that_cannot_run_the_job_say_why_at_submit(ssh_jobs: SshJobs, override: str, expected: str) -> None:
    answer = ssh_jobs.run("submit", override, "--", *ssh_jobs.practice.command)
    assert (answer.code, answer.out) == (1, "")
    assert expected in answer.err


def test_parts_prepare_what_one_process_would(ssh_jobs: SshJobs, repository: Path, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "tiny")
    run(corpus, tmp_path / "whole")
    place = [f"working_directory={repository}", f"python={sys.executable}", "target.nodes=3"]
    convert = ["--", "data_prep", "convert", str(corpus), str(tmp_path / "out"), "--format", "zarr", *SMALL]
    done = ssh_jobs.run("submit", *place, *convert)
    assert done.code == 0, done.err
    assert ssh_jobs.ended() == ["finished", 0, 0]
    assert '"finished": true' in "".join(ssh_jobs.log(f".rank-{number}.log") for number in range(3))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_meeting_point_that_the_others_take_for_themselves_is_refused_at_submit(ssh_jobs: SshJobs) -> None:
    answer = ssh_jobs.run("submit", "environment.MASTER_ADDR=127.0.0.1", "--", *ssh_jobs.practice.command)
    assert (answer.code, answer.out) == (1, "")
    assert "red is 127.0.0.1, which every other host takes for itself; set environment.MASTER_ADDR" in answer.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_submit_that_is_interrupted_starts_nothing(ssh_jobs: SshJobs, number: signal.Signals) -> None:
    """Where a host is slow to say that it is ready."""
    before = sorted(ssh_jobs.practice.checkout.rglob("*"))
    asked = ssh_jobs.practice.folder / "asked"
    override = f"setup=['touch {asked}', 'sleep 30']"
    process = ssh_jobs.begin("submit", override, "--", *ssh_jobs.practice.command)
    eventually(asked.exists, what="the hosts are asked")
    process.send_signal(number)
    said = process.communicate(timeout=60)
    assert (process.returncode, said[0]) == (130, "")
    assert said[1].startswith("launchers: interrupted; nothing was started")
    assert sorted(ssh_jobs.practice.checkout.rglob("*")) == before
