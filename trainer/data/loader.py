"""Batches in order, made ahead by threads in a ring of reused buffers.

Threads, not processes: fetching, checking, decoding and scaling all let go of the interpreter lock. The threads only
read; what is read next, and into which buffer, the caller's own thread decides inside `take`, since only there do
buffers come free. So there is nothing to lock, and which thread makes which window changes nothing in a batch.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Self

from trainer.batch import Batch
from trainer.data.order import MicroBatch
from trainer.data.reader import WindowReader
from trainer.data.ring import Buffer, Ring, Scratch
from trainer.data.source import Cost

Schedule = Callable[[int], MicroBatch | None]
"""Micro-batch 0, 1, 2, … of a rank; None beyond the last."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What bounds a loader's memory and threads."""

    micro_batch_sizes: Sequence[int]
    """Windows of a micro-batch of each reader's, at most."""
    largest_take: int = 1
    """Micro-batches that one `take` may ask for."""
    prefetch: int = 4
    """Micro-batches that wait ready or are in the making."""
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
    rows: tuple[Future[Cost], ...]


class Loader:
    """One rank's batches from micro-batch `first` on. Used as a context, which starts and ends its threads.

    The batches of a `take` are valid until the next one: then their buffers are filled anew, after such copies to a
    GPU as were begun by then have ended. An error waits for its turn: the batches before it are delivered first.
    """

    def __init__(
        self, readers: Sequence[WindowReader], schedule: Schedule, *, capacity: Capacity, first: int = 0
    ) -> None:
        self._readers, self._schedule, self._capacity = tuple(readers), schedule, capacity
        self._next_number = first
        self._making: deque[_Making] = deque()
        self._taken: list[_Making] = []
        self._cost = Cost()
        self._ring: Ring | None = None
        self._threads: Executor | None = None
        self._scratch: SimpleQueue[Scratch] = SimpleQueue()

    def __enter__(self) -> Self:
        assert self._threads is None, "a loader is entered once"
        sizes = self._capacity.micro_batch_sizes
        shapes = [(size, *reader.shape) for size, reader in zip(sizes, self._readers, strict=True)]
        num_buffers = self._capacity.prefetch + self._capacity.largest_take
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

    def take(self, count: int) -> list[Batch]:
        """The next `count` micro-batches, fewer only where an evaluation ends; valid until the next call.

        Raises what reading raised: RefusedError, IntegrityError or DataError.
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
        while len(self._taken) < count and self._making:
            self._cost = sum((row.result() for row in self._making[0].rows), start=self._cost)
            self._taken.append(self._making.popleft())
        return self._taken

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

    def _read(self, micro_batch: MicroBatch, *, row: int, buffer: Buffer, batch: Batch) -> Cost:
        """What a thread does."""
        buffer.wait_until_free()
        scratch = self._scratch.get()
        try:
            return self._readers[micro_batch.dataset].read(batch, row, micro_batch=micro_batch, scratch=scratch)
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


def _executor(threads: int) -> Executor:
    return ThreadPoolExecutor(threads, thread_name_prefix="loader") if threads else _Inline()
