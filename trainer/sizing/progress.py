"""How far the verb is, for people."""

import sys
from typing import Any

from tqdm import tqdm

LOG_EVERY_SECONDS = 30.0
"""Between two lines where stderr is no terminal."""


def progress(title: str, *, batches: int, is_shown: bool = True) -> "tqdm[Any]":
    """A bar on a terminal; in a log file a line now and then."""
    every_seconds = 0.1 if sys.stderr.isatty() else LOG_EVERY_SECONDS
    return tqdm(
        total=batches,
        desc=title,
        unit="batch",
        delay=0.2,
        mininterval=every_seconds,
        maxinterval=every_seconds,
        disable=not is_shown,
    )
