"""Batches in order, made ahead by threads in a ring of reused buffers.

Threads, not processes: fetching, checking, decoding and scaling all let go of the interpreter lock. The threads only
read; what is read next, and into which buffer, the caller's own thread decides inside `take`, since only there do
buffers come free. So there is nothing to lock, and which thread makes which window changes nothing in a batch.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Self

from data_prep.contract.faults import KINDS
from trainer.batch import Batch
from trainer.data.cache import COUNTED, Cache
from trainer.data.order import MicroBatch
from trainer.data.reader import WindowReader
from trainer.data.requests import Cost
from trainer.data.ring import Buffer, Ring, Scratch
from trainer.data.troubles import SKIPPABLE, Ranks, Skipped, Skips, agree, read_spare, say_skipped, together
from trainer.preemption import ctrl_c_held

Schedule = Callable[[int], MicroBatch | None]
"""Micro-batch 0, 1, 2, … of a rank; None beyond the last."""


ITEM_BYTES = 4
"""Of a value in a buffer."""
MOST_AHEAD = 16
"""Micro-batches that wait ready or are in the making, however small they are."""

TOTALS = (
    *("fetched_bytes", "requests", "skipped_windows"),
    *(f"cache_{what}" for what in COUNTED),
    *(f"faults/{kind}" for kind in KINDS),
)
"""Names of what a loader counts beside its batches."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What bounds a loader's memory and threads."""

    micro_batch_sizes: Sequence[int]
    """Windows of a micro-batch of each reader's, at most."""
    largest_take: int = 1
    """Micro-batches that one `take` may ask for."""
    read_ahead_bytes: int = 2**27
    """Of micro-batches that wait ready or are in the making; at least one is."""
    threads: int = 2
    """0 reads in the caller's own thread."""
    pin: bool = False
    """Page-lock the buffers, so that copies to a GPU run beside its work."""


@dataclass(frozen=True, slots=True)
class _Making:
    """A micro-batch whose rows threads are reading, or have read."""

    micro_batch: MicroBatch
    buffer: Buffer
    batch: Batch
    rows: tuple[Future[tuple[Cost, Skipped | None]], ...]


class Loader:
    """One rank's batches from micro-batch `first` on. Used as a context, which starts and ends its threads.

    The batches of a `take` are valid until the next one: then their buffers are filled anew, after such copies to a
    GPU as were begun by then have ended. An error waits for its turn: the batches before it are delivered first.
    """

    def __init__(
        self,
        readers: Sequence[WindowReader],
        schedule: Schedule,
        *,
        capacity: Capacity,
        first: int = 0,
        skips: Skips | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """With `ranks`, which all take batches alike, none goes on when one cannot. Without `skips` none is skipped."""
        self._readers, self._schedule, self._capacity = tuple(readers), schedule, capacity
        self._skips, self._ranks = skips, ranks
        self._next_number = first
        self._making: deque[_Making] = deque()
        self._taken: list[_Making] = []
        self._cost, self._num_skipped = Cost(), 0
        self._ring: Ring | None = None
        self._threads: Executor | None = None
        self._scratch: SimpleQueue[Scratch] = SimpleQueue()

    def __enter__(self) -> Self:
        assert self._threads is None, "a loader is entered once"
        together(self._open_caches, ranks=self._ranks)
        sizes = self._capacity.micro_batch_sizes
        shapes = [(size, *reader.shape) for size, reader in zip(sizes, self._readers, strict=True)]
        ahead = self._capacity.read_ahead_bytes // (ITEM_BYTES * max(map(math.prod, shapes)))
        num_buffers = min(max(1, ahead), MOST_AHEAD) + self._capacity.largest_take
        ring = self._ring = Ring(num_buffers, shapes=shapes, pin=self._capacity.pin)
        threads = self._threads = _executor(self._capacity.threads)
        for _ in range(max(1, self._capacity.threads)):
            self._scratch.put(Scratch())
        self._read_ahead(ring, threads)
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; windows that are being read are read to their end. Again is fine."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)

    @property
    def cost(self) -> Cost:
        """What reading the batches taken so far has cost."""
        return self._cost

    @property
    def totals(self) -> dict[str, float]:
        """What this rank's batches so far have taken, and what went wrong on the way, by the names of `TOTALS`."""
        faults = {id(reader.faults): reader.faults.counts for reader in self._readers}.values()
        counted = (self._cost.bytes_read, self._cost.requests, self._num_skipped)
        by_kind = [sum(counts[kind] for counts in faults) for kind in KINDS]
        kept = [sum(cache.counts[what] for cache in self._caches) for what in COUNTED]
        return dict(zip(TOTALS, map(float, (*counted, *kept, *by_kind)), strict=True))

    @property
    def _caches(self) -> set[Cache]:
        return {reader.cache for reader in self._readers if reader.cache is not None}

    def _open_caches(self) -> None:
        for cache in self._caches:
            cache.open()

    def take(self, count: int) -> list[Batch]:
        """The next `count` micro-batches, fewer only where an evaluation ends; valid until the next call.

        Raises what reading raised on this rank, RefusedError, IntegrityError or DataError; and DataError on every
        other rank, and on all where more was skipped than may be.
        """
        return [making.batch for making in self._take(count)]

    def scored(self) -> Iterator[tuple[Batch, int]]:
        """Every batch that is left, and how many of its leading windows count; each is valid until the next."""
        while taken := self._take(1):
            yield taken[0].batch, taken[0].micro_batch.num_scored

    def _take(self, count: int) -> list[_Making]:
        assert self._ring is not None, "a loader is used inside its `with` block"
        assert self._threads is not None
        assert count <= self._capacity.largest_take, f"the ring has room for {self._capacity.largest_take} at once"
        self._ring.release([making.buffer for making in self._taken])
        self._taken = []
        self._read_ahead(self._ring, self._threads)
        error = None
        try:
            while len(self._taken) < count and self._making:
                self._finish(self._making[0])
                self._taken.append(self._making.popleft())
        except Exception as raised:
            error = raised
        limit = self._skips.limit if self._skips else 0
        agree(error, num_skipped=self._num_skipped, limit=limit, ranks=self._ranks)
        return self._taken

    def _finish(self, making: _Making) -> None:
        """Wait for all rows of a batch. Raises the error of the first that failed."""
        making.rows[-1].exception()  # waits for it first: to wake for each row would disturb the threads
        rows = [row.result() for row in making.rows]
        skipped = [one for _, one in rows if one is not None]
        say_skipped(skipped)
        self._num_skipped += len(skipped)
        self._cost = sum((cost for cost, _ in rows), start=self._cost)

    def _read_ahead(self, ring: Ring, threads: Executor) -> None:
        """Set the threads to fill every free buffer, in order, as far as the schedule goes."""
        while ring.has_free and (micro_batch := self._schedule(self._next_number)) is not None:
            reader, buffer = self._readers[micro_batch.dataset], ring.acquire()
            batch = reader.empty_batch(micro_batch, buffer.view((len(micro_batch.windows), *reader.shape)))
            rows = tuple(
                threads.submit(self._read, micro_batch, row=row, buffer=buffer, batch=batch)
                for row in range(batch.num_windows)
            )
            self._making.append(_Making(micro_batch, buffer, batch, rows))
            self._next_number += 1

    def _read(self, micro_batch: MicroBatch, *, row: int, buffer: Buffer, batch: Batch) -> tuple[Cost, Skipped | None]:
        """What a thread does."""
        buffer.wait_until_free()
        scratch = self._scratch.get()
        read = partial(self._readers[micro_batch.dataset].read, batch, row, scratch=scratch)
        try:
            return read(window=micro_batch.windows[row]), None
        except SKIPPABLE as error:
            if self._skips is None:
                raise
            return read_spare(read, error, dataset=micro_batch.dataset, position=batch.windows[row], skips=self._skips)
        finally:
            self._scratch.put(scratch)


class _Inline(Executor):
    """Does at once what it is given; an error waits in the future, as it does with threads."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **more))
        except Exception as error:
            future.set_exception(error)
        return future


class _Threads(ThreadPoolExecutor):
    @ctrl_c_held()
    def submit(self, function: Callable[..., Any], /, *arguments: Any, **more: Any) -> Future[Any]:
        return super().submit(function, *arguments, **more)


def _executor(threads: int) -> Executor:
    return _Threads(threads, thread_name_prefix="loader") if threads else _Inline()
