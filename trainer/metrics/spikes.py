"""Tells people when the loss jumps: a sink of its own, because it remembers what was usual."""

import statistics
from collections import deque
from typing import TextIO

from trainer.interfaces import Report

MEMORY, FEWEST = 20, 5
"""Reports that say what is usual, and how many it takes to know."""
FACTOR = 3.0
"""A loss above this many times the median is a spike: divergence begins so, and noise stays below."""


class SpikeSink:
    """One line for each report whose loss is far above those before it."""

    def __init__(self, name: str, *, stream: TextIO) -> None:
        self._name, self._stream = name, stream
        self._losses: deque[float] = deque(maxlen=MEMORY)
        self._last_step = 0

    def publish(self, report: Report) -> None:
        if "loss" not in report.scalars:
            return
        loss, usual = report.scalars["loss"], statistics.median(self._losses) if self._losses else 0.0
        if len(self._losses) >= FEWEST and loss > FACTOR * usual:
            first = self._last_step + 1
            self._stream.write(
                f"[{self._name}] loss spike: {loss:.4g} in steps {first} to {report.step}, "
                f"{loss / usual:.1f} times the median {usual:.4g} of the {len(self._losses)} reports before\n"
            )
            self._stream.flush()
        self._losses.append(loss)
        self._last_step = report.step

    def close(self) -> None:
        self._stream.flush()
