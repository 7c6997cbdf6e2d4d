"""Jobs over ssh as a test gives and watches them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from launchers.record import JobRecord, process_of, read_record
from tests.integration.practice import Answer, Practice, eventually
from tests.integration.ssh_hosts import SshHosts

IMPATIENT = "target.silence_seconds=10"
"""For hosts that fall silent; long enough that a busy machine is not taken for one."""


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

    @property
    def targets(self) -> list[dict[str, Any]]:
        """What Prometheus is told of the job."""
        found: list[dict[str, Any]] = json.loads((self.practice.checkout / "runs/prometheus/job-1.json").read_text())
        return found

    def log(self, ending: str = ".log") -> str:
        return (self.practice.checkout / f"runs/logs/job-1{ending}").read_text()


def server_address(note: dict[str, Any]) -> str:
    """Where the sshd is through which a rank was started."""
    return str(note["environment"]["SSH_CONNECTION"].split()[2])


def is_alive(note: dict[str, Any]) -> bool:
    process = process_of(note["pid"])
    return process is not None and process.is_alive
