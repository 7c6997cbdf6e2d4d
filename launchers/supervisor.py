"""Watches the members of a job, hands signals on to them, and starts them again when they were preempted.

A member is a rank of this machine (`ranks.py`), or all ranks of a host behind ssh (`hosts.py`): both end with an exit
code of the trainer's and can be asked to end. Imports no torch.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from launchers.job import SchedulerError
from launchers.output import LAST_WORDS_SECONDS, finish_reading
from launchers.record import JobRecord, process_of, this_machine, write_record
from trainer.errors import FAILED, PREEMPTED

LOST = 255
"""What ssh itself ends with when a host cannot be reached any more. A job that ends so has FAILED."""
END, NOTICE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP), signal.SIGUSR2
HANDLED = frozenset({*END, NOTICE, signal.SIGCHLD})
LONGEST_WAIT_SECONDS = 3600.0


class CancelledError(Exception):
    """The job was asked to end while none of its members ran."""


@dataclass(frozen=True, slots=True)
class Member:
    """A process that the job waits for. `ask` hands a signal on to what it stands for."""

    name: str
    process: subprocess.Popen[bytes]
    ask: Callable[[signal.Signals], None]
    """SIGTERM is the order to end, SIGINT the order not to wait for a snapshot."""
    readers: Sequence[threading.Thread] = ()
    """Put what it says where it belongs, until it has ended."""

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def code(self) -> int | None:
        """Of the process, deaths by signal as a shell counts them; None while it runs."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    @property
    def has_failed(self) -> bool:
        return self.code not in (None, 0, PREEMPTED)


@dataclass(frozen=True, slots=True)
class Plan:
    """`restart_after`: exit codes with which a job is started again, at most `max_restarts` times."""

    record: Path
    max_restarts: int
    grace_seconds: float
    restart_after: frozenset[int] = frozenset({PREEMPTED})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one start of all members ended."""

    code: int
    cancelled: bool


Start = Callable[[Outcome | None], Sequence[Member]]
"""Starts all members, knowing how they ended before; raises SchedulerError where they can't be, or CancelledError."""


def supervise(plan: Plan, start: Start) -> int:
    """Runs the members until they finish, fail, are cancelled, or were preempted once too often; gives the exit code.

    Raises SchedulerError where the first start fails; then there is no record.
    """
    with signals_taken():
        restarts, outcome = 0, _run(plan, start, before=None, restarts=0)
        while outcome.code in plan.restart_after and not outcome.cancelled and restarts < plan.max_restarts:
            restarts += 1
            reason = "preempted with a snapshot" if outcome.code == PREEMPTED else "a host was lost"
            say(f"{reason}; restart {restarts} of at most {plan.max_restarts}")
            try:
                outcome = _run(plan, start, before=outcome, restarts=restarts)
            except SchedulerError as error:
                say(str(error))
                outcome = Outcome(FAILED, cancelled=False)
            except CancelledError:
                outcome = Outcome(PREEMPTED, cancelled=True)
        return _finish(plan, restarts, outcome)


@contextmanager
def signals_taken() -> Iterator[None]:
    """HANDLED are blocked and taken one by one, so that none is lost between two starts."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def rest(seconds: float) -> None:
    """Waits while no member runs, signals taken. Raises CancelledError when asked to end."""
    deadline = time.monotonic() + seconds
    while (remaining := deadline - time.monotonic()) > 0:
        received = signal.sigtimedwait(HANDLED, remaining)
        if received is not None and received.si_signo in END:
            raise CancelledError


def watch(members: Sequence[Member], *, grace_seconds: float) -> Outcome:
    """Until the last member has ended, signals taken; whatever happens, none is left behind."""
    try:
        return Attempt(members, grace_seconds=grace_seconds).watch()
    finally:
        for member in members:
            if not member.has_ended:
                member.process.kill()
                member.process.wait()
        finish_reading([one for member in members for one in member.readers], within_seconds=LAST_WORDS_SECONDS)


class Attempt:
    """The members of one start, until the last has ended."""

    def __init__(self, members: Sequence[Member], *, grace_seconds: float) -> None:
        self._members, self._grace_seconds = members, grace_seconds
        self._cancelled = False
        self._deadline: float | None = None
        self._failure: int | None = None

    def watch(self) -> Outcome:
        while not all(member.has_ended for member in self._members):
            received = signal.sigtimedwait(HANDLED, self._remaining())
            self._obey(received.si_signo if received else None)
            self._notice_failure()
            if self._remaining() == 0:
                self._kill()
        self._notice_failure()
        codes = [member.code or 0 for member in self._members]
        return Outcome(max(codes) if self._failure is None else self._failure, cancelled=self._cancelled)

    def _notice_failure(self) -> None:
        """The first failure is the job's, those that follow are its consequences; but for a host that was lost."""
        failed = [member for member in self._members if member.has_failed]
        if failed and self._failure is None:
            self._failure = failed[0].code
            say(
                f"{failed[0].name} failed with exit code {self._failure}; "
                f"the others have {self._grace_seconds:g} s to end"
            )
            self._ask_to_end()
        if any(member.code == LOST for member in failed):
            self._failure = LOST

    def _obey(self, number: int | None) -> None:
        if number == NOTICE:
            say("notice of preemption: handed on to the ranks")
            self._send(NOTICE)
        elif number in END:
            again, self._cancelled = self._cancelled, True
            if not again:
                say(f"asked to end: the ranks have {self._grace_seconds:g} s to take a snapshot")
                self._ask_to_end()
            elif number == signal.SIGINT:  # whoever presses Ctrl-C twice does not want to wait for a snapshot
                self._send(signal.SIGINT)

    def _ask_to_end(self) -> None:
        """Once: a trainer takes a second signal for an order to drop the snapshot that it is taking."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._grace_seconds
            self._send(signal.SIGTERM)

    def _remaining(self) -> float:
        return LONGEST_WAIT_SECONDS if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _send(self, number: signal.Signals) -> None:
        for member in self._members:
            if not member.has_ended:
                member.ask(number)

    def _kill(self) -> None:
        for member in self._members:
            if not member.has_ended:
                member.process.kill()


def before_member() -> None:
    """In a member, before it begins: a notice is ignored, not deadly, until it listens; other signals act again."""
    signal.signal(NOTICE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def say(message: str) -> None:
    """On the terminal or in the log; where nobody listens any more, to nobody."""
    with suppress(OSError):
        sys.stderr.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] launchers: {message}\n")  # whole, from any thread


def _run(plan: Plan, start: Start, *, before: Outcome | None, restarts: int) -> Outcome:
    members = start(before)
    _record(plan, restarts, members=members)
    return watch(members, grace_seconds=plan.grace_seconds)


def _record(plan: Plan, restarts: int, *, members: Sequence[Member] = (), outcome: Outcome | None = None) -> None:
    supervisor = process_of(os.getpid())
    assert supervisor is not None
    record = JobRecord(
        machine=this_machine(),
        supervisor=supervisor,
        members=tuple(found for found in (process_of(member.process.pid) for member in members) if found is not None),
        restarts=restarts,
        exit_code=None if outcome is None else outcome.code,
        cancelled=outcome is not None and outcome.cancelled,
    )
    write_record(plan.record, record)


def _finish(plan: Plan, restarts: int, outcome: Outcome) -> int:
    ended = Outcome(FAILED if outcome.code == LOST else outcome.code, cancelled=outcome.cancelled)
    if ended.code == PREEMPTED:
        reason = "cancelled" if ended.cancelled else f"preempted {restarts + 1} times, the limit of max_restarts"
        say(f"{reason}; there is a snapshot, submit the same command again to go on")
    else:
        say(f"ended with exit code {ended.code}")
    _record(plan, restarts, outcome=ended)  # last: who reads that the job has ended finds all that was said
    return ended.code
