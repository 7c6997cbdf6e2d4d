"""Batches in order, made ahead by threads in a ring of reused buffers.

Threads, not processes: fetching, checking, decoding and scaling all let go of the interpreter lock. Which thread makes
which window changes nothing in a batch. An error waits for its turn: the batches before it are delivered, then it is
raised to the caller.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from trainer.batch import Batch
from trainer.data.order import MicroBatch
from trainer.data.reader import WindowReader
from trainer.data.ring import Buffer, Ring, Scratch
from trainer.data.source import Cost

JOIN_SECONDS = 10.0
"""How long closing waits for a thread that is inside a request; after it the thread dies with the process."""

Schedule = Callable[[int], MicroBatch | None]
"""Micro-batch 0, 1, 2, … of a rank; None beyond the last."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What bounds a loader's memory and threads."""

    micro_batch_size: int
    """Windows of the largest micro-batch."""
    largest_take: int = 1
    """Micro-batches that one `take` may ask for."""
    prefetch: int = 4
    """Micro-batches that wait ready or are in the making."""
    threads: int = 2
    pin: bool = False
    """Page-lock the buffers, so that copies to a GPU run beside its work."""


@dataclass(slots=True)
class _Making:
    """A micro-batch that is being made."""

    micro_batch: MicroBatch
    buffer: Buffer
    batch: Batch
    begun: int = 0
    done: int = 0
    error: Exception | None = None

    @property
    def is_begun(self) -> bool:
        """Whether a thread has every row in hand."""
        return self.begun == self.batch.num_windows

    @property
    def is_settled(self) -> bool:
        return self.done == self.batch.num_windows or self.error is not None


@dataclass(slots=True)
class _Line:
    """What threads and caller share; every access holds `changed`."""

    next_number: int
    making: deque[_Making] = field(default_factory=deque)
    """In order; the first is the next to be taken, the last may have rows that nobody has begun."""
    cost: Cost = field(default_factory=Cost)
    is_closed: bool = False
    """Nothing new is begun: the schedule has ended, an error has come, or the caller has closed the loader."""
    changed: threading.Condition = field(default_factory=threading.Condition)


class Loader:
    """One rank's batches from micro-batch `first` on. Used as a context, which starts and ends its threads.

    The batches of a `take` are valid until the next one: then their buffers are filled anew, after such copies to a
    GPU as were begun by then have ended.
    """

    def __init__(
        self, readers: Sequence[WindowReader], schedule: Schedule, *, capacity: Capacity, first: int = 0
    ) -> None:
        self._readers, self._schedule, self._capacity = tuple(readers), schedule, capacity
        self._line = _Line(next_number=first)
        self._threads: list[threading.Thread] = []
        self._taken: list[_Making] = []
        self._ring: Ring | None = None

    def __enter__(self) -> Self:
        assert self._ring is None, "a loader is entered once"
        shapes = [(self._capacity.micro_batch_size, *reader.shape) for reader in self._readers]
        num_buffers = self._capacity.prefetch + self._capacity.largest_take
        self._ring = ring = Ring(num_buffers, shapes=shapes, pin=self._capacity.pin)
        for number in range(self._capacity.threads):
            thread = threading.Thread(target=self._work, args=(ring,), name=f"loader-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; what is being read is read to its end. Again is fine."""
        with self._line.changed:
            self._line.is_closed = True
            self._line.making.clear()
            self._line.changed.notify_all()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    @property
    def cost(self) -> Cost:
        """What reading has taken since the loader was entered, prefetched windows included."""
        with self._line.changed:
            return self._line.cost

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
        assert count <= self._capacity.largest_take, f"the ring has room for {self._capacity.largest_take} at once"
        with self._line.changed:
            self._ring.release([making.buffer for making in self._taken])
            self._taken = []
            self._line.changed.notify_all()
            while len(self._taken) < count and (making := self._first()) is not None:
                self._taken.append(making)
        return self._taken

    def _first(self) -> _Making | None:
        """The next micro-batch once it is whole; None when there are no more. Holds the lock."""
        line = self._line
        line.changed.wait_for(lambda: line.making[0].is_settled if line.making else line.is_closed)
        if not line.making:
            return None
        if (error := line.making[0].error) is not None:
            raise error
        return line.making.popleft()

    def _work(self, ring: Ring) -> None:
        """What each thread does."""
        scratch = Scratch()
        while (task := self._next_task(ring)) is not None:
            making, row = task
            try:
                making.buffer.wait_until_free()
                reader = self._readers[making.micro_batch.dataset]
                cost = reader.read(making.batch, row, micro_batch=making.micro_batch, scratch=scratch)
            except Exception as error:  # not passed over: `take` raises it
                self._settle(making, error=error)
            else:
                self._settle(making, cost=cost)

    def _next_task(self, ring: Ring) -> tuple[_Making, int] | None:
        """A micro-batch and the row of it to read, in order; None when the thread is to end."""
        line = self._line
        with line.changed:
            while not line.is_closed:
                if line.making and not line.making[-1].is_begun:
                    line.making[-1].begun += 1
                    return line.making[-1], line.making[-1].begun - 1
                if ring.has_free:
                    self._begin(ring)
                else:
                    line.changed.wait()
        return None

    def _begin(self, ring: Ring) -> None:
        """Open the next micro-batch, or close the line behind the last. Holds the lock."""
        line = self._line
        micro_batch = self._schedule(line.next_number)
        if micro_batch is None:
            line.is_closed = True
        else:
            reader, buffer = self._readers[micro_batch.dataset], ring.acquire()
            fields = buffer.view((len(micro_batch.windows), *reader.shape))
            line.making.append(_Making(micro_batch, buffer, reader.empty_batch(micro_batch, fields)))
            line.next_number += 1
        line.changed.notify_all()

    def _settle(self, making: _Making, *, cost: Cost | None = None, error: Exception | None = None) -> None:
        line = self._line
        with line.changed:
            making.done += 1
            line.cost += cost or Cost()
            if error is not None:
                making.error, line.is_closed = error, True
            line.changed.notify_all()
