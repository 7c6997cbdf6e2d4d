"""Starts the ranks of a job on hosts behind ssh, a connection for each, and stays with them.

Used by the script of `ssh.py`. A host that answers no more is lost: the job ends everywhere and starts again from its
snapshot, once what may still run on the lost host has given up, on the first hosts that answer then.
"""

import argparse
import re
import resource
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from launchers.job import SchedulerError
from launchers.orders import TIMES_HEARD, give, say_here
from launchers.output import sort_by_rank
from launchers.supervisor import LOST, Member, Outcome, Plan, before_member, rest, say, supervise
from launchers.targets import Targets
from trainer.errors import FAILED, PREEMPTED

ANSWER_SECONDS = 60.0
"""How long a host may take to log in, run `setup` and start Python."""
CONNECT_SECONDS = 15
AGAIN_SECONDS = 10.0
"""Between two rounds of asking hosts that did not answer."""
_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|::1")
_READY = re.compile(r"^ready ([0-9]{1,5})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a host said to being asked whether it is ready."""

    host: str
    port: int | None
    """One that was free; None where it is not ready."""
    complaint: str


@dataclass(frozen=True, slots=True)
class Hosts:
    """Where the job may run and how. `script`: what bash reads on each host, after its place in the job."""

    names: tuple[str, ...]
    nodes: int
    ranks_per_node: int
    ssh: tuple[str, ...]
    script: str
    prefix: str
    grace_seconds: float
    silence_seconds: float
    reconnect_seconds: float
    master_address: str | None
    targets: Targets | None

    def start(self, before: Outcome | None) -> list[Member]:
        """Raises SchedulerError where too few hosts answer: at once at first, later only after `reconnect_seconds`."""
        if before is not None and before.code == LOST:
            patience = self.silence_seconds + self.grace_seconds
            say(f"ranks of the lost host end by themselves; going on in {patience:g} s")
            rest(patience)
        answers = self._ready_hosts(within_seconds=0.0 if before is None else self.reconnect_seconds)
        first = answers[0]
        address = self.master_address or self._address(first.host)
        if self.nodes > 1 and _LOOPBACK.fullmatch(address):
            raise SchedulerError(
                f"{first.host} is {address}, which every other host takes for itself; set environment.MASTER_ADDR in "
                "CLUSTER to a name by which the others reach it, or name another host first"
            )
        say(f"ranks on {', '.join(answer.host for answer in answers)}, meeting at {address}:{first.port}")
        meeting = f"export MASTER_ADDR={shlex.quote(address)} MASTER_PORT={first.port}\n"
        members = [self._start(answer.host, node, meeting) for node, answer in enumerate(answers)]
        threading.Thread(target=self._speak, args=(members,), daemon=True).start()
        self._announce(answers)
        return members

    def _announce(self, answers: Sequence[Answer]) -> None:
        """A job runs without being watched, too."""
        if self.targets is not None:
            try:
                self.targets.announce([self._address(answer.host) for answer in answers])
            except OSError as error:
                say(f"Prometheus is not told of the hosts: {self.targets.path}: {error.strerror}")

    def _ready_hosts(self, *, within_seconds: float) -> list[Answer]:
        deadline = time.monotonic() + within_seconds
        while True:
            with ThreadPoolExecutor(len(self.names)) as pool:
                answers = list(pool.map(self._ask, self.names))
            ready = [answer for answer in answers if answer.port is not None]
            if len(ready) >= self.nodes:
                return ready[: self.nodes]
            complaints = "; ".join(f"{a.host}: {a.complaint}" for a in answers if a.port is None)
            found = f"{len(ready)} of {len(self.names)} hosts are ready, {self.nodes} are needed; {complaints}"
            if time.monotonic() >= deadline:
                raise SchedulerError(found)
            say(f"{found}; asking again for {deadline - time.monotonic():.0f} s")
            rest(AGAIN_SECONDS)

    def _ask(self, host: str) -> Answer:
        asked = f"export LAUNCH_NODE=--ready\n{self.script}"
        try:
            done = subprocess.run(
                self._command(host),
                input=asked.encode(),
                capture_output=True,
                timeout=ANSWER_SECONDS,
                check=False,
                preexec_fn=before_member,
            )
        except subprocess.TimeoutExpired:
            return Answer(host, None, f"no answer in {ANSWER_SECONDS:g} s")
        except OSError as error:
            return Answer(host, None, f"{self.ssh[0]}: {error.strerror}")
        found = _READY.findall(done.stdout.decode("utf-8", "replace"))
        if done.returncode == 0 and found:
            return Answer(host, int(found[-1]), "")
        said = done.stderr.decode("utf-8", "replace").strip()[-500:]
        return Answer(host, None, said or f"exit code {done.returncode}")

    def _start(self, host: str, node: int, meeting: str) -> Member:
        process = subprocess.Popen(
            self._command(host),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            preexec_fn=before_member,
        )
        orders, output, complaints = process.stdin, process.stdout, process.stderr
        assert orders is not None
        assert output is not None
        assert complaints is not None
        ranks = range(node * self.ranks_per_node, (node + 1) * self.ranks_per_node)
        readers = (
            threading.Thread(target=self._sort, args=(host, output, ranks), daemon=True),
            threading.Thread(target=self._sort, args=(host, complaints, range(0)), daemon=True),
        )
        for reader in readers:
            reader.start()
        with suppress(OSError):  # a host that is gone again ends as every lost one does
            orders.write(f"export LAUNCH_NODE=--node={node}\n{meeting}{self.script}".encode())
            orders.flush()
        return Member(f"host {host}", process, ask=partial(give, orders), readers=readers)

    def _sort(self, host: str, output: IO[bytes], ranks: range) -> None:
        sort_by_rank(output, prefix=self.prefix, ranks=ranks, other=lambda line: say(f"{host}: {line}"))

    def _speak(self, members: Sequence[Member]) -> None:
        while not all(member.has_ended for member in members):
            for member in members:
                assert member.process.stdin is not None
                say_here(member.process.stdin)
            time.sleep(self.silence_seconds / TIMES_HEARD)

    def _command(self, host: str) -> list[str]:
        """Options of the user's own command come first, and win. ssh gives a dead connection up after the silence."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": CONNECT_SECONDS,
            # ssh gives up with the interval after the last question, which must be within the silence
            "ServerAliveInterval": max(1, int(self.silence_seconds / (TIMES_HEARD + 1))),
            "ServerAliveCountMax": TIMES_HEARD,
            "ControlPath": "none",  # a connection that others share is given up by nobody
        }
        return [*self.ssh, "-T", *(f"-o{key}={value}" for key, value in options.items()), "--", host, "/bin/bash -s"]

    def _address(self, host: str) -> str:
        """The name or address that ssh connects to, for a host that is an alias of its configuration."""
        done = subprocess.run([*self.ssh, "-G", "--", host], capture_output=True, text=True, check=False)
        found = re.search(r"^hostname (\S+)$", done.stdout, re.MULTILINE)
        return host.rpartition("@")[2] if found is None else found[1]


def main(arguments: Sequence[str]) -> int:
    found = _parser().parse_args(arguments)
    _allow_many_files()
    run, targets = Path(found.prefix).name, None
    if found.metrics_port is not None:
        targets = Targets(Path(found.metrics_targets) / f"{run}.json", run, found.metrics_port)
    hosts = Hosts(
        names=tuple(found.hosts),
        nodes=found.nodes,
        ranks_per_node=found.ranks_per_node,
        ssh=tuple(shlex.split(found.ssh)),
        script=sys.stdin.read(),
        prefix=found.prefix,
        grace_seconds=found.grace_seconds,
        silence_seconds=found.silence_seconds,
        reconnect_seconds=60.0 * found.reconnect_minutes,
        master_address=found.master_address,
        targets=targets,
    )
    plan = Plan(
        Path(f"{found.prefix}.json"),
        found.max_restarts,
        # a host kills its own ranks after the grace; only then a connection that still stands is one that is dead
        found.grace_seconds + found.silence_seconds,
        restart_after=frozenset({PREEMPTED, LOST}),
    )
    try:
        return supervise(plan, hosts.start)
    except SchedulerError as error:
        say(str(error))
        return FAILED
    finally:
        if targets is not None:
            targets.withdraw()


def _allow_many_files() -> None:
    """A log for each rank and three pipes for each host are soon more than the usual 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launchers.hosts", description=__doc__)
    parser.add_argument("--nodes", type=int, required=True, help="how many hosts work at once")
    parser.add_argument("--ranks-per-node", type=int, required=True)
    parser.add_argument("--max-restarts", type=int, required=True)
    parser.add_argument("--grace-seconds", type=float, required=True)
    parser.add_argument("--silence-seconds", type=float, required=True)
    parser.add_argument("--reconnect-minutes", type=float, required=True)
    parser.add_argument("--master-address", help="where ranks meet, if not at the first host")
    parser.add_argument("--metrics-port", type=int, help="of each host, to be told to Prometheus")
    parser.add_argument("--metrics-targets", help="folder where Prometheus looks for runs")
    parser.add_argument("--prefix", required=True, help="beginning of the names of the logs and the record")
    parser.add_argument("--ssh", required=True, help="the command that reaches a host")
    parser.add_argument("hosts", nargs="+", help="after `--`; what each runs comes by standard input")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
