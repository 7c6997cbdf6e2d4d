"""Ends a rank that makes no progress, or that waits for one that was lost: with its stack, its step and its windows.

Collectives end after their time-out too, but say neither which rank is missing nor where the others stood. Ranks tell
each other through the store at which they met. Two threads: one beats there, and may hang with it; one watches the
clock, and hangs with nothing. Should something hold the interpreter lock, the C library's alarm of `faulthandler` goes
off in their place.
"""

import faulthandler
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Event, Thread
from typing import IO, Protocol, Self

from trainer.errors import FAILED, LostRankError
from trainer.world import World

LONGEST_INTERVAL_SECONDS = 5.0
INTERVALS = 8
"""Beats within the limit. Half of them are kept for the news to travel."""
BEATS_OF_SILENCE = 3
"""By which a rank whose connection broke is known to be lost."""
WATCHED = ("data", "step")
"""Phases of a step, which must end within the limit. Evaluations and snapshots may take as long as they take: what
they wait for has time-outs of its own."""
LOST = "lost"


class Store(Protocol):
    """The store at which the ranks met, as far as it is used here."""

    def set(self, key: str, value: str) -> None: ...
    def check(self, keys: list[str]) -> bool: ...
    def multi_get(self, keys: list[str]) -> Sequence[bytes]: ...


@dataclass(frozen=True, slots=True)
class _Place:
    """What the rank does, since when."""

    phase: str
    step: int
    since: float


class Watch:
    """Used as a context, while no other thread waits for the store."""

    def __init__(
        self,
        *,
        world: World,
        store: Store,
        limit_seconds: float,
        name_windows: Callable[[int], str],
        stream: IO[str],
    ) -> None:
        """`limit_seconds`: within which a rank that hangs or is lost is reported. `stream`: a file, for people."""
        self._world, self._store, self._name_windows, self._stream = world, store, name_windows, stream
        self._limit = limit_seconds
        self._interval = min(LONGEST_INTERVAL_SECONDS, limit_seconds / INTERVALS)
        self._patience = limit_seconds - INTERVALS // 2 * self._interval
        self._place = _Place("start", 0, time.monotonic())
        self._heard = {rank: (b"", time.monotonic()) for rank in self._others()}
        self._store_answered = time.monotonic()
        self._verdict: str | None = None
        self._is_over = Event()
        self._threads = [Thread(target=run, daemon=True) for run in (self._beat, self._watch)]

    def __enter__(self) -> Self:
        self._arm()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, LostRankError):
            self._name_whom(error)
        self._is_over.set()
        self._threads[-1].join()
        faulthandler.cancel_dump_traceback_later()

    def _name_whom(self, error: LostRankError) -> None:
        """A connection broke: whoever is silent for a few beats is lost, and the watch ends this rank with its name."""
        self._stream.write(f"trainer [rank {self._world.rank}]: {error}\n")
        self._stream.flush()
        self._patience = min(self._patience, BEATS_OF_SILENCE * self._interval)
        self._threads[-1].join(2 * BEATS_OF_SILENCE * self._interval)

    def begins(self, phase: str, step: int) -> None:
        """Progress: what this rank does from now on, after `step` steps."""
        self._place = _Place(phase, step, time.monotonic())

    def _others(self) -> range:
        """Whom this rank listens to: rank 0 to all, so that the store answers each rank once; the others to rank 0."""
        return range(1, self._world.size) if self._world.is_main else range(min(self._world.size - 1, 1))

    def _beat(self) -> None:
        number = 0
        while self._world.size > 1 and not self._is_over.wait(self._interval):
            number += 1
            self._store.set(str(self._world.rank), str(number))
            if self._verdict is not None and self._world.is_main:
                self._store.set(LOST, self._verdict)
            self._listen()
            self._store_answered = time.monotonic()

    def _listen(self) -> None:
        for rank, (before, _) in self._heard.items():
            if self._store.check([str(rank)]):
                [said] = self._store.multi_get([str(rank)])
                if said != before:
                    self._heard[rank] = (said, time.monotonic())
        if not self._world.is_main and self._store.check([LOST]):
            self._verdict = self._store.multi_get([LOST])[0].decode()

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._is_over.wait(self._interval):
            before, slept = time.monotonic(), time.monotonic() - before
            if slept > 2 * self._interval:
                self._forgive()
            self._arm()
            self._verdict = self._verdict or self._find_lost()
            if self._verdict is not None:
                self._is_over.wait(2 * self._interval if self._world.is_main else 0)  # until the others have read it
                if not self._is_over.is_set():
                    self._end(self._verdict)

    def _arm(self) -> None:
        """From now on the C library's alarm goes off unless this is called again within the limit."""
        faulthandler.dump_traceback_later(self._limit, exit=True, file=self._stream)

    def _forgive(self) -> None:
        """This process itself was stopped, or had no turn for long: what it heard last is of no sense."""
        now = time.monotonic()
        self._place = replace(self._place, since=now)
        self._heard = {rank: (said, now) for rank, (said, _) in self._heard.items()}
        self._store_answered = now

    def _find_lost(self) -> str | None:
        now = time.monotonic()
        if self._place.phase in WATCHED and now - self._place.since > self._limit - self._interval:
            return f"rank {self._world.rank} has been in one phase for {now - self._place.since:.1f} s"
        if self._world.size > 1 and now - self._store_answered > self._patience:
            return f"the store at which the ranks met, rank 0's, is silent for {now - self._store_answered:.1f} s"
        for rank, (_, when) in self._heard.items():
            if now - when > self._patience:
                return f"rank {rank} has not been heard of for {now - when:.1f} s"
        return None

    def _end(self, why: str) -> None:
        place = self._place
        windows = self._name_windows(place.step) if place.phase in WATCHED else "none"
        self._stream.write(
            f"trainer [rank {self._world.rank}]: {why}; this rank stood in phase `{place.phase}` of step "
            f"{place.step + 1} for {time.monotonic() - place.since:.1f} s, windows: {windows}. It ends; start the same "
            "command again to go on from the last snapshot. Its stacks:\n"
        )
        self._stream.flush()
        faulthandler.dump_traceback(file=self._stream, all_threads=True)
        os._exit(FAILED)
