"""Jobs over ssh whose hosts, connections or supervisors die: nobody is left behind, and the run goes on elsewhere."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.integration.practice import eventually
from tests.integration.ssh_jobs import IMPATIENT, SshJobs, is_alive, server_address
from tests.integration.tiny_run import logged_steps, write_tiny_run

ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())"


def test_ranks_of_a_killed_supervisor_take_a_snapshot_and_end(ssh_jobs: SshJobs) -> None:
    ssh_jobs.submit()
    notes = ssh_jobs.both_ranks_started(0)
    ssh_jobs.record.supervisor.send(signal.SIGKILL)
    eventually(lambda: not any(is_alive(note) for note in notes), what="the ranks end")
    assert (ssh_jobs.practice.folder / "snapshot").read_text() == "1"
    eventually(lambda: ssh_jobs.status()["state"] == "lost", what="the job is lost")


def test_ranks_whose_own_supervisor_is_killed_end_and_are_started_again(ssh_jobs: SshJobs) -> None:
    """That of their host, as by a lack of memory. ssh says of it what it says of a host that is gone."""
    ssh_jobs.submit(IMPATIENT)
    notes = ssh_jobs.both_ranks_started(0)
    parent = Path(f"/proc/{notes[1]['pid']}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(parent), signal.SIGKILL)
    ssh_jobs.both_ranks_started(1)
    assert not any(is_alive(note) for note in notes)
    ssh_jobs.practice.order("finish")
    assert ssh_jobs.ended() == ["finished", 0, 1]


def test_a_job_is_cancelled_while_it_waits_for_a_host(ssh_jobs: SshJobs) -> None:
    ssh_jobs.submit(IMPATIENT, "target.hosts=[red, blue]")
    ssh_jobs.both_ranks_started(0)
    ssh_jobs.hosts.cut("blue")
    try:
        eventually(lambda: "asking again" in ssh_jobs.log(), what="the job waits", within_seconds=120)
        assert ssh_jobs.run("cancel", "1").code == 0
        assert ssh_jobs.ended() == ["cancelled", 3, 1]
    finally:
        ssh_jobs.hosts.heal("blue")


def test_a_host_that_crashes_is_replaced_by_one_that_answers(ssh_jobs: SshJobs) -> None:
    ssh_jobs.submit(IMPATIENT)
    ssh_jobs.both_ranks_started(0)
    ssh_jobs.hosts.crash("red")
    try:
        notes = ssh_jobs.both_ranks_started(1)
        assert [server_address(note) for note in notes] == [ssh_jobs.hosts.address(name) for name in ("blue", "green")]
        assert notes[0]["environment"]["MASTER_ADDR"] == ssh_jobs.hosts.address("blue")
    finally:
        ssh_jobs.hosts.serve("red")
    ssh_jobs.practice.order("finish")
    assert ssh_jobs.ended() == ["finished", 0, 1]


def test_a_host_whose_cable_is_pulled_gives_up_before_the_job_goes_on(ssh_jobs: SshJobs) -> None:
    """What would be lost is the run itself, if two of it wrote into one folder."""
    ssh_jobs.submit(IMPATIENT)
    cut = ssh_jobs.both_ranks_started(0)[1]
    ssh_jobs.hosts.cut("blue")
    try:
        notes = ssh_jobs.both_ranks_started(1)
        assert not is_alive(cut)
        assert [server_address(note) for note in notes] == [ssh_jobs.hosts.address(name) for name in ("red", "green")]
    finally:
        ssh_jobs.hosts.heal("blue")
    ssh_jobs.practice.order("finish")
    assert ssh_jobs.ended() == ["finished", 0, 1]


def test_a_lost_host_is_noticed_where_others_share_a_connection_to_it(ssh_jobs: SshJobs) -> None:
    """As ControlMaster of many people's configuration does: the shared one asks nobody whether he is still there."""
    config = ssh_jobs.practice.folder / "shared"
    shared = f"  ControlMaster auto\n  ControlPath {config.parent}/%n.socket\n  ControlPersist 600\n"
    config.write_text(ssh_jobs.hosts.config.read_text().replace("Host *\n", f"Host *\n{shared}"))
    ssh = ssh_jobs.hosts.command("ssh", "-F", str(config), "blue")
    subprocess.run([*ssh, "true"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert (config.parent / "blue.socket").exists()
    ssh_jobs.submit(IMPATIENT, f"target.ssh=[ssh, -F, {config}, -oConnectTimeout=2]")
    ssh_jobs.both_ranks_started(0)
    ssh_jobs.hosts.cut("blue")
    try:
        ssh_jobs.both_ranks_started(1)
    finally:
        ssh_jobs.hosts.heal("blue")
    subprocess.run([*ssh, "-O", "exit"], check=False, capture_output=True)
    ssh_jobs.practice.order("finish")
    assert ssh_jobs.ended() == ["finished", 0, 1]


def test_a_job_that_finds_too_few_hosts_again_fails_and_says_which(ssh_jobs: SshJobs) -> None:
    ssh_jobs.submit(IMPATIENT, "target.hosts=[red, blue]", "target.reconnect_minutes=0")
    ssh_jobs.both_ranks_started(0)
    ssh_jobs.hosts.cut("blue")
    try:
        assert ssh_jobs.ended() == ["failed", 1, 1]
    finally:
        ssh_jobs.hosts.heal("blue")
    assert "1 of 2 hosts are ready, 2 are needed; blue: ssh: connect to host" in ssh_jobs.log()


def test_real_training_goes_on_elsewhere_when_a_host_crashes(
    ssh_jobs: SshJobs, repository: Path, tmp_path: Path
) -> None:
    config = write_tiny_run(tmp_path, name="tiny", targets=tmp_path / "targets")
    place = [f"working_directory={repository}", f"python={sys.executable}", "grace_seconds=5", IMPATIENT]
    metrics = ["metrics.prometheus_port=9400", "metrics.prometheus_address=0.0.0.0"]
    training = ["--", "train", str(config), "snapshots.every_steps=5", *metrics]
    done = ssh_jobs.run("submit", *place, "target.metrics_port=9400", *training)
    assert done.code == 0, done.err
    eventually(lambda: list(tmp_path.glob("run/snapshots/step-*/manifest.json")), what="it saves", within_seconds=200)
    ssh_jobs.hosts.crash("blue")
    try:
        eventually(lambda: ssh_jobs.record.restarts == 1, what="the job restarts", within_seconds=200)
        before = logged_steps(tmp_path)[-1]  # of ranks that have ended
        eventually(lambda: logged_steps(tmp_path)[-1] > before, what="training goes on", within_seconds=200)
    finally:
        ssh_jobs.hosts.serve("blue")
    assert "ranks on red, green" in ssh_jobs.log()
    for entry in ssh_jobs.targets:
        url = f"http://{entry['targets'][0]}/metrics"
        asked = ssh_jobs.hosts.command(sys.executable, "-c", ASK, url)
        answer = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert "trainer_steps_total" in answer.stdout, answer.stderr + ssh_jobs.log(".rank-0.log")
    steps = logged_steps(tmp_path)  # read once: it grows
    assert steps == list(range(1, steps[-1] + 1))
    assert ssh_jobs.run("cancel", "1").code == 0
    assert ssh_jobs.ended()[0] == "cancelled"
