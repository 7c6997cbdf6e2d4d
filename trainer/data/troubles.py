"""What becomes of a window that stays unreadable, and how ranks end together when one of them cannot go on.

A skipped window is replaced by another one, drawn by its place in the order: whichever rank meets it, in whatever
world, takes the same. So no rank needs to be told, and all have equal work. What ranks must agree on, that one of them
has failed or that too much was skipped, they do in every `take`, which all of them call alike.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from data_prep.contract.errors import NotFoundError
from trainer.data.requests import Cost
from trainer.data.windows import Window
from trainer.errors import DataError, IntegrityError

Result = TypeVar("Result")

SPARE_ATTEMPTS = 8
"""Windows that are tried in place of one that cannot be read."""

SKIPPABLE = (DataError, IntegrityError, NotFoundError)
"""What may be wrong with one window and not with another."""

Spare = Callable[[int, int, int], Window]
"""(dataset, position, attempt) -> the window that is tried instead."""


class Ranks(Protocol):
    """What ranks tell each other, by all alike."""

    def sums(self, values: Sequence[float]) -> list[float]: ...
    def texts(self, text: str) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Skips:
    """How much may be skipped."""

    limit: int
    """Windows, of all ranks since the process began."""
    spare: Spare


@dataclass(frozen=True, slots=True)
class Skipped:
    """One window that was replaced."""

    reason: str
    """Names dataset, shard and window."""
    instead: Window


def read_spare(
    read: Callable[..., Cost], error: Exception, *, dataset: int, position: int, skips: Skips
) -> tuple[Cost, Skipped]:
    """Read the first spare window that can be read, by `read(window=…)`. Raises `error` where there is none."""
    for attempt in range(SPARE_ATTEMPTS):
        window = skips.spare(dataset, position, attempt)
        try:
            return read(window=window), Skipped(str(error), window)
        except SKIPPABLE:
            continue
    raise error


def say_skipped(skipped: Sequence[Skipped]) -> None:
    """Names each on the log."""
    for one in skipped:
        spare = f"trajectory {one.instead.trajectory}, frame {one.instead.start}"
        print(f"trainer: skipped a window, for which {spare} stands in: {one.reason}", file=sys.stderr)


def together(action: Callable[[], Result], *, ranks: Ranks | None) -> Result:
    """What `action` gives on this rank. All ranks alike: where it fails on one, all end."""
    error = None
    try:
        result = action()
    except Exception as raised:
        error = raised
    agree(error, num_skipped=0, limit=0, ranks=ranks)
    return result


def agree(error: Exception | None, *, num_skipped: int, limit: int, ranks: Ranks | None) -> None:
    """Raises where this rank has an `error`, where another has one, or where all have skipped more than `limit`."""
    failed, skipped = float(error is not None), float(num_skipped)
    if ranks is not None:
        failed, skipped = ranks.sums([failed, skipped])
        if failed:
            texts = ranks.texts("" if error is None else str(error))
            rank = next(number for number, text in enumerate(texts) if text)
            raise error or DataError(f"rank {rank} cannot go on, so this rank ends too: {texts[rank]}")
    if error is not None:
        raise error
    if limit and skipped > limit:
        raise DataError(
            f"{round(skipped)} windows could not be read and were skipped (all are named above, each by its rank), but "
            f"data.max_skipped_windows is {limit}; check the storage with `python -m data_prep verify`, or allow more"
        )
