"""The output of many ranks through one stream: each line marked with its rank, and put into that rank's log again.

Marked where ranks run on a machine whose output is all that comes back (`ranks.py`); sorted by `hosts.py`.
"""

import os
import re
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import IO

MOST_LINE_BYTES = 1 << 16
"""A longer line is broken."""
LAST_WORDS_SECONDS = 10.0
"""How long the output of what has ended may still be read."""
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
        """Until all that was said is copied, or processes that outlive their ranks keep streams open for too long."""
        finish_reading(self._copiers, within_seconds=within_seconds)

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


def finish_reading(readers: Sequence[threading.Thread], *, within_seconds: float) -> None:
    """Waits for all of them together."""
    deadline = time.monotonic() + within_seconds
    for reader in readers:
        reader.join(max(0.0, deadline - time.monotonic()))


def sort_by_rank(stream: IO[bytes], *, prefix: str, ranks: range, other: Callable[[str], None]) -> None:
    """Appends the lines of `ranks` to their logs until the stream ends; every other line goes to `other`.

    Where a log cannot be written, its lines are lost, and `other` is told once: ranks must not wait for a disk.
    """
    with ExitStack() as stack:
        logs = {rank: _Log(f"{prefix}.rank-{rank}.log", stack, complain=other) for rank in ranks}
        while line := stream.readline(2 * MOST_LINE_BYTES):
            mark = _MARK.match(line)
            if mark is not None and int(mark[1]) in logs:
                logs[int(mark[1])].append(line[mark.end() :])
            else:
                other(line.decode("utf-8", "replace").rstrip())


class _Log:
    """Opened with the first line, and tried again with every other."""

    def __init__(self, path: str, stack: ExitStack, *, complain: Callable[[str], None]) -> None:
        self._path, self._stack, self._complain = path, stack, complain
        self._descriptor: int | None = None
        self._has_failed = False
        self.append(b"")

    def append(self, text: bytes) -> None:
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
                self._stack.callback(os.close, self._descriptor)
            while text:
                text = text[os.write(self._descriptor, text) :]
        except OSError as error:
            if not self._has_failed:
                self._complain(f"{self._path}: {error.strerror}; lines of this rank are lost until it can be written")
            self._has_failed = True


def lines_of_rank(stream: IO[bytes], rank: int) -> Iterator[bytes]:
    """The lines that are marked as this rank's, without the mark, until the stream ends."""
    mark = _mark(rank)
    while line := stream.readline(2 * MOST_LINE_BYTES):
        if line.startswith(mark):
            yield line.removeprefix(mark)


def _mark(rank: int) -> bytes:
    return b"[rank %d] " % rank
