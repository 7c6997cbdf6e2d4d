"""Starts the ranks of one machine, hands signals on to them, and starts them again when they were preempted.

torchrun cannot stand here: it ends with 1 when its workers end with 3, does not pass SIGUSR2 on, and kills after 30
seconds a rank that is still writing its snapshot. Used by the scripts of the local launcher; imports no torch.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launchers.record import JobRecord, Process, process_of, write_record
from launchers.script import PREEMPTED

END, NOTICE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP), signal.SIGUSR2
HANDLED = frozenset({*END, NOTICE, signal.SIGCHLD})
LONGEST_WAIT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `prefix` begins the names of the log files and of the record."""

    command: tuple[str, ...]
    ranks: int
    max_restarts: int
    grace_seconds: float
    prefix: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one start of all ranks ended."""

    code: int
    cancelled: bool


def supervise(plan: Plan) -> int:
    """Runs the ranks until they finish, fail, are cancelled, or were preempted once too often; gives the exit code.

    Signals are blocked and taken one by one, so that none is lost between two starts.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        restarts = 0
        while True:
            outcome = _attempt(plan, restarts)
            if outcome.code != PREEMPTED or outcome.cancelled or restarts == plan.max_restarts:
                return _finish(plan, restarts, outcome)
            restarts += 1
            _say(f"preempted with a snapshot; restart {restarts} of at most {plan.max_restarts}")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _attempt(plan: Plan, restarts: int) -> Outcome:
    port = _free_port()
    ranks = [_start(plan, rank, port=port) for rank in range(plan.ranks)]
    _record(plan, restarts, ranks=ranks)
    try:
        return Attempt(ranks, grace_seconds=plan.grace_seconds).watch()
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
                rank.wait()


class Attempt:
    """The ranks of one start, until the last has ended."""

    def __init__(self, ranks: Sequence[subprocess.Popen[bytes]], *, grace_seconds: float) -> None:
        self._ranks, self._grace_seconds = ranks, grace_seconds
        self._cancelled = False
        self._deadline: float | None = None
        self._failure: int | None = None

    def watch(self) -> Outcome:
        while any(rank.poll() is None for rank in self._ranks):
            received = signal.sigtimedwait(HANDLED, self._remaining())
            self._obey(received.si_signo if received else None)
            self._notice_failure()
            if self._remaining() == 0:
                self._send(signal.SIGKILL)
        self._notice_failure()
        codes = [_shell_code(rank.wait()) for rank in self._ranks]
        return Outcome(max(codes) if self._failure is None else self._failure, cancelled=self._cancelled)

    def _notice_failure(self) -> None:
        """The first failure is the job's; those that follow are its consequences."""
        failures = [(number, rank.returncode) for number, rank in enumerate(self._ranks) if _failed(rank)]
        if failures and self._failure is None:
            number, code = failures[0]
            self._failure = _shell_code(code)
            _say(
                f"rank {number} failed with exit code {self._failure}; the others have {self._grace_seconds:g} s to end"
            )
            self._ask_to_end()

    def _obey(self, number: int | None) -> None:
        if number == NOTICE:
            _say("notice of preemption: handed on to the ranks")
            self._send(NOTICE)
        elif number in END:
            _say(f"asked to end: the ranks have {self._grace_seconds:g} s to take a snapshot")
            self._cancelled = True
            self._ask_to_end()

    def _ask_to_end(self) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + self._grace_seconds
        self._send(signal.SIGTERM)

    def _remaining(self) -> float:
        return LONGEST_WAIT_SECONDS if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _send(self, number: signal.Signals) -> None:
        for rank in self._ranks:
            if rank.poll() is None:
                rank.send_signal(number)


def _start(plan: Plan, rank: int, *, port: int) -> subprocess.Popen[bytes]:
    """One rank in its own process group, so that Ctrl-C at a terminal reaches it once, through us."""
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(plan.ranks),
        "LOCAL_WORLD_SIZE": str(plan.ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with Path(f"{plan.prefix}.rank-{rank}.log").open("ab") as log:
        return subprocess.Popen(
            plan.command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_before_rank,
        )


def _before_rank() -> None:
    """A notice that comes before the trainer listens is ignored instead of deadly; other signals act again."""
    signal.signal(NOTICE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def _failed(rank: subprocess.Popen[bytes]) -> bool:
    return rank.poll() not in (None, 0, PREEMPTED)


def _shell_code(code: int) -> int:
    """Deaths by signal as a shell counts them."""
    return 128 - code if code < 0 else code


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _record(
    plan: Plan, restarts: int, *, ranks: Sequence[subprocess.Popen[bytes]] = (), outcome: Outcome | None = None
) -> None:
    record = JobRecord(
        supervisor=_process(os.getpid()),
        ranks=tuple(_process(rank.pid) for rank in ranks),
        restarts=restarts,
        exit_code=None if outcome is None else outcome.code,
        cancelled=outcome is not None and outcome.cancelled,
    )
    write_record(Path(f"{plan.prefix}.json"), record)


def _process(pid: int) -> Process:
    """Our own processes stay in /proc until we have waited for them."""
    process = process_of(pid)
    assert process is not None
    return process


def _finish(plan: Plan, restarts: int, outcome: Outcome) -> int:
    _record(plan, restarts, outcome=outcome)
    if outcome.code == PREEMPTED:
        reason = "cancelled" if outcome.cancelled else f"preempted {restarts + 1} times, the limit of max_restarts"
        _say(f"{reason}; there is a snapshot, submit the same command again to go on")
    else:
        _say(f"ended with exit code {outcome.code}")
    return outcome.code


def _say(message: str) -> None:
    print(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] launchers: {message}", file=sys.stderr, flush=True)


def _plan(arguments: Sequence[str]) -> Plan:
    parser = argparse.ArgumentParser(prog="python -m launchers.ranks", description=__doc__)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--max-restarts", type=int, required=True)
    parser.add_argument("--grace-seconds", type=float, required=True)
    parser.add_argument("--prefix", required=True, help="beginning of the log files' names")
    parser.add_argument("command", nargs="+", help="what each rank runs, after `--`")
    found = parser.parse_args(arguments)
    return Plan(
        command=tuple(found.command),
        ranks=found.ranks,
        max_restarts=found.max_restarts,
        grace_seconds=found.grace_seconds,
        prefix=found.prefix,
    )


if __name__ == "__main__":
    sys.exit(supervise(_plan(sys.argv[1:])))
