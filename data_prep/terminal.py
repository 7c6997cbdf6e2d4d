"""How the verbs speak: warnings and progress on stderr, exit codes."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from data_prep.contract.errors import RefusedError
from data_prep.prepared import open_source
from data_prep.source import Source

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


def say(message: str) -> None:
    """One message for people."""
    print(message, file=sys.stderr)


def warn(warnings: Sequence[str]) -> None:
    """What did not stop the work."""
    for warning in warnings:
        say(f"warning: {warning}")


@contextmanager
def progress(title: str, *, num_bytes: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar with MB/s and remaining time; gives the function that moves it on by some bytes."""
    with tqdm(total=num_bytes, desc=title, unit="B", unit_scale=True, delay=0.2) as bar:

        def advance(more_bytes: int) -> None:
            bar.update(more_bytes)

        yield advance


def open_for_training(url: str) -> Source:
    """A source with a train split, its warnings printed. Raises RefusedError."""
    source = open_source(url)
    warn(source.warnings)
    if not any(trajectory.split == "train" for trajectory in source.trajectories):
        raise RefusedError(f"{url}: has no files in data/train; the statistics of a dataset come from there")
    return source
