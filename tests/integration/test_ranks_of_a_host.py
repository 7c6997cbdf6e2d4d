"""`launchers.ranks` as a host behind ssh runs it: orders that come late, and ranks whose supervisor there is killed."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launchers.orders import give
from launchers.record import process_of
from launchers.supervisor import END, Member, signals_taken, watch
from tests.integration.practice import eventually

STUBBORN = (
    "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); "
)

TWICE = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("ready", flush=True)
signal.sigwait({signal.SIGTERM})
print("once", flush=True)
signal.sigwait({signal.SIGTERM})
sys.exit(9)
"""


@contextmanager
def ranks(*command: str, repository: Path) -> Iterator["subprocess.Popen[bytes]"]:
    options = ("--ranks=1", "--nodes=2", "--grace-seconds=60", "--silence-seconds=300", "--")
    process = subprocess.Popen(
        [sys.executable, "-m", "launchers.ranks", *options, *command],
        cwd=repository,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_an_order_that_comes_after_the_end_does_not_change_how_it_ends(repository: Path) -> None:
    """A helper keeps the output open, so that its end is waited for."""
    with ranks("sh", "-c", "sleep 60 & echo $!; exit 7", repository=repository) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        helper = int(process.stdout.readline().split()[-1])
        eventually(lambda: _children(process.pid) == [], what="the rank is gone")
        for number in END[:2]:
            give(process.stdin, number)
        assert process.wait(timeout=60) == 7
        subprocess.run(["kill", str(helper)], check=True)


def test_a_rank_that_hears_no_signal_dies_with_what_stands_over_it(repository: Path) -> None:
    with ranks(sys.executable, "-c", STUBBORN + "time.sleep(600)", repository=repository) as process:
        assert process.stdout is not None
        rank = process_of(int(process.stdout.readline().split()[-1]))
        assert rank is not None
        assert rank.is_alive
        process.kill()
        eventually(lambda: not rank.is_alive, what="the rank ends")


def test_a_second_order_to_end_reaches_the_rank(repository: Path) -> None:
    with ranks(sys.executable, "-c", TWICE, repository=repository) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number, said in ((signal.SIGTERM, b"ready"), (signal.SIGINT, b"once")):
            assert process.stdout.readline().split()[-1] == said
            give(process.stdin, number)
        assert process.wait(timeout=60) == 9


def test_what_was_said_last_is_read_before_a_job_goes_on() -> None:
    said: list[bytes] = []
    command = ["sh", "-c", "(sleep 1; echo late) & exit 0"]
    with signals_taken(), subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=said.extend, args=(process.stdout,))
        reader.start()
        watch([Member("it", process, ask=process.send_signal, readers=[reader])], grace_seconds=60)
        assert said == [b"late\n"]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
