"""Where the time of a run goes: seconds for each phase of the loop."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """Adds up the seconds spent in named phases. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self._seconds[phase] += self._now() - start

    def seconds(self, phase: str) -> float:
        return self._seconds[phase]

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of each phase since the clock was made."""
        return dict(self._seconds)
