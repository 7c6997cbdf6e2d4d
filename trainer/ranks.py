"""The ranks of one run on this machine, started and waited for by `study`: one message when one fails, and Ctrl-C
leaves them the time to write their snapshot. torchrun ends with 1 whatever its workers say, under a page of its own.
"""

import ctypes
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from trainer.world import environment_of_rank

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl.h."""
POLL_SECONDS = 0.1
GRACE_SECONDS = 60.0
"""How long a rank may take to write a snapshot once it was asked to end."""


def run_ranks(arguments: Sequence[str], *, ranks: int) -> int:
    """`python ARGUMENTS` once for each rank. Gives 0, or the exit code of the first rank that failed.

    Raises KeyboardInterrupt once all have ended, if it came meanwhile.
    """
    port = _free_port()
    started = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=environment_of_rank(rank, size=ranks, port=port),
            preexec_fn=_end_with_parent,
        )
        for rank in range(ranks)
    ]
    try:
        code = _watch(started)
    finally:
        _end(started)
    return code


def _end_with_parent() -> None:
    """In the child: a notice to end comes when the study is killed, so that no rank is left behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _watch(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """Until all have ended well, or one has not."""
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = [code for code in codes if code]
        if failed or None not in codes:
            return failed[0] if failed else 0
        time.sleep(POLL_SECONDS)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks those that still run to end, and waits."""
    deadline = time.monotonic() + GRACE_SECONDS
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(signal.SIGTERM)
    for rank in ranks:
        try:
            rank.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
