"""The output of many ranks through one stream: each line marked with its rank, and put into that rank's log again.

Marked where ranks run on a machine whose output is all that comes back (`ranks.py`); sorted by `hosts.py`.
"""

import os
import re
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO

MOST_LINE_BYTES = 1 << 16
"""A longer line is broken."""
_PIECE_BYTES = 4096
"""What a pipe or socket that says it is ready takes without making us wait (pipe(7), PIPE_BUF)."""
_LOOK_EVERY_SECONDS = 0.5
_MARK = re.compile(rb"\[rank ([0-9]{1,7})\] ")


class MarkedOutput:
    """Copies the lines of ranks to a descriptor, a thread for each. After `abandon` they speak to nobody."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._lock = descriptor, threading.Lock()
        self._nobody_reads = threading.Event()
        self._copiers: list[threading.Thread] = []

    def follow(self, rank: int, stream: IO[bytes]) -> None:
        copier = threading.Thread(target=self._copy, args=(rank, stream), daemon=True)
        self._copiers.append(copier)
        copier.start()

    def abandon(self) -> None:
        """Ranks that still save would wait for a reader for ever, or die of what they print."""
        self._nobody_reads.set()

    def finish(self, *, within_seconds: float) -> None:
        """Until all that was said is copied, or a process that outlives its rank keeps a stream open for too long."""
        for copier in self._copiers:
            copier.join(within_seconds)

    def _copy(self, rank: int, stream: IO[bytes]) -> None:
        while line := stream.readline(MOST_LINE_BYTES):
            with self._lock:
                self._write(_mark(rank) + line.removesuffix(b"\n") + b"\n")

    def _write(self, text: bytes) -> None:
        while text and not self._nobody_reads.is_set():
            try:
                if select.select([], [self._descriptor], [], _LOOK_EVERY_SECONDS)[1]:
                    text = text[os.write(self._descriptor, text[:_PIECE_BYTES]) :]
            except OSError:
                self.abandon()


def sort_by_rank(stream: IO[bytes], *, prefix: str, ranks: range, other: Callable[[str], None]) -> None:
    """Appends the lines of `ranks` to their logs until the stream ends; every other line goes to `other`."""
    with ExitStack() as stack:
        logs = {rank: stack.enter_context(open(f"{prefix}.rank-{rank}.log", "ab", buffering=0)) for rank in ranks}
        while line := stream.readline(2 * MOST_LINE_BYTES):
            mark = _MARK.match(line)
            if mark is not None and int(mark[1]) in logs:
                logs[int(mark[1])].write(line[mark.end() :])
            else:
                other(line.decode("utf-8", "replace").rstrip())


def lines_of_rank(stream: IO[bytes], rank: int) -> Iterator[bytes]:
    """The lines that are marked as this rank's, without the mark, until the stream ends."""
    mark = _mark(rank)
    while line := stream.readline(2 * MOST_LINE_BYTES):
        if line.startswith(mark):
            yield line.removeprefix(mark)


def _mark(rank: int) -> bytes:
    return b"[rank %d] " % rank
