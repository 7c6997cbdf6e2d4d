"""How the verbs speak: warnings and progress on stderr, exit codes."""

import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tqdm import tqdm

from data_prep.contract.errors import RefusedError
from data_prep.sources.prepared import open_source
from data_prep.sources.protocol import Source

LOG_EVERY_SECONDS = 30.0
DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


def say(message: str) -> None:
    """One message for people."""
    print(visible(message), file=sys.stderr)


def visible(text: str) -> str:
    """With what would steer a terminal written out, for names of files and fields come from elsewhere."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text)


def warn(warnings: Sequence[str]) -> None:
    """What did not stop the work."""
    for warning in warnings:
        say(f"warning: {warning}")


class Bar:
    """A bar with MB/s and remaining time, in bytes. Whoever moves it on hears of a Ctrl-C, however it was lost."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        self._bar = bar
        self._is_interrupted = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGINT. Python drops what is raised in callbacks of weak references; h5py has many."""
        self._is_interrupted = True
        signal.default_int_handler(number, frame)

    def skip(self, num_bytes: int) -> None:
        """Done already: it counts as progress, not as speed."""
        self._bar.initial += num_bytes
        self._bar.n += num_bytes

    def advance(self, num_bytes: int) -> None:
        """Done just now. Raises KeyboardInterrupt when one was lost."""
        self._bar.update(num_bytes)
        if self._is_interrupted:
            raise KeyboardInterrupt


@contextmanager
def progress(title: str, *, num_bytes: int | None = None) -> Iterator[Bar]:
    """A bar on the terminal; in a log file a line now and then."""
    every_seconds = 0.1 if sys.stderr.isatty() else LOG_EVERY_SECONDS
    with tqdm(
        total=num_bytes,
        desc=title,
        unit="B",
        unit_scale=True,
        delay=0.2,
        mininterval=every_seconds,
        maxinterval=every_seconds,
    ) as bar:
        counted = Bar(bar)
        with _handling_interrupts(counted):
            yield counted


@contextmanager
def _handling_interrupts(bar: Bar) -> Iterator[None]:
    """Only where Ctrl-C would do what it does by default: a shell has its background jobs ignore it."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, bar.interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def open_for_training(url: str) -> Source:
    """A source with a train split, its warnings printed. Raises RefusedError."""
    source = open_source(url)
    warn(source.warnings)
    if not any(trajectory.split == "train" for trajectory in source.trajectories):
        raise RefusedError(f"{url}: has no files in data/train; the statistics of a dataset come from there")
    return source
