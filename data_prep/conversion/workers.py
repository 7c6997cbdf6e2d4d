"""A job done by this process or shared by several: how many, changes the speed only.

A process of its own for each worker, spawned rather than forked, since clients of object stores and HDF5 keep threads
and locks. Each is given one item after the other, a unit of a plan or a file to look through, stores what comes of it
by itself, and tells how far it is.
"""

import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar

from data_prep.contract.errors import IntegrityError, RefusedError, StorageError
from data_prep.conversion.unit import Advance
from data_prep.interrupts import signals_held

LEAVE_SECONDS = 20.0
"""How long a worker may take to leave once it was asked to: it removes its half-written file first."""


class WorkerLostError(Exception):
    """A worker that ended without a word. Commands print it and exit 1."""


class Named(Protocol):
    """What a job has to do with: a unit of a plan, or a file."""

    @property
    def path(self) -> str:
        """For messages."""


Item = TypeVar("Item", bound=Named)
Result = TypeVar("Result")
Made = TypeVar("Made", covariant=True)


class Job(Protocol[Item, Made]):
    """Does one item after the other. Picklable, for workers get a copy."""

    def __call__(self, items: Iterable[Item], /, *, advance: Advance) -> Iterator[tuple[Item, Made]]:
        """Each item and its result, which is no number; `advance` is told meanwhile of decoded bytes."""


def share(
    job: Job[Item, Result], items: Sequence[Item], *, num_workers: int, advance: Advance
) -> Iterator[tuple[Item, Result]]:
    """Every item and its result, as they are finished. The first error of any of them ends all."""
    if min(num_workers, len(items)) <= 1:
        yield from job(items, advance=advance)
    else:
        with _started(job, count=min(num_workers, len(items))) as workers:
            yield from _share_out(items, workers, advance)


@dataclass
class _Worker(Generic[Item, Result]):
    """One process, seen from the one that gives out the work."""

    process: BaseProcess
    connection: Connection
    item: Item | None = None
    """What it is working on."""

    def begin(self, item: Item) -> None:
        self.item = item
        self.tell(item)

    def tell(self, message: object) -> None:
        """Raises WorkerLostError where nobody is there to hear it."""
        try:
            self.connection.send(message)
        except ConnectionError:
            self.process.join(LEAVE_SECONDS)
            raise WorkerLostError(self._obituary()) from None

    def listen(self) -> int | Result:
        """Bytes that are done, or the result of the item. Raises what went wrong."""
        try:
            message: int | Result | Exception = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join(LEAVE_SECONDS)
            raise WorkerLostError(self._obituary()) from None
        if isinstance(message, Exception):
            raise message
        return message

    def _obituary(self) -> str:
        code = self.process.exitcode
        end = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
        return (
            f"a worker {end} while it was at {self.item.path if self.item else 'nothing'}; if memory was short, take "
            "fewer `--workers` or a smaller `--shard-bytes`; the same command goes on from here"
        )


def _share_out(
    items: Sequence[Item], workers: Sequence[_Worker[Item, Result]], advance: Advance
) -> Iterator[tuple[Item, Result]]:
    """The next item in order to whoever is free, so that neighbours in a file are read at about the same time."""
    waiting, busy = iter(items), {worker.connection: worker for worker in workers}
    for worker, item in zip(workers, waiting, strict=False):
        worker.begin(item)
    while busy:
        for connection in wait(busy):
            assert isinstance(connection, Connection)
            worker, message = busy[connection], busy[connection].listen()
            if isinstance(message, int):
                advance(message)
                continue
            assert worker.item is not None
            finished, following = worker.item, next(waiting, None)
            if following is None:
                del busy[connection]
            else:
                worker.begin(following)
            yield finished, message


@contextmanager
def _started(job: Job[Item, Result], *, count: int) -> Iterator[list[_Worker[Item, Result]]]:
    """The workers; however this ends, none of them is left."""
    workers: list[_Worker[Item, Result]] = []
    try:
        resource_tracker.ensure_running()  # the first spawn would start it, which unblocks interrupts
        with signals_held(signal.SIGINT):  # children inherit it: Ctrl-C reaches them as SIGTERM from us, once
            for _ in range(count):
                workers.append(_start())
        for worker in workers:
            worker.tell(job)  # once all are starting: a job that no pipe holds waits until somebody reads
        yield workers
    finally:
        _end(workers)


def _start() -> _Worker[Any, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _end(workers: Sequence[_Worker[Any, Any]]) -> None:
    """All of them leave at once."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(LEAVE_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.connection.close()


def _work(connection: Connection) -> None:
    """The life of a worker, which is told its job first. A lost parent is noticed at the next word to it, and ends it
    as SIGTERM does."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        job: Job[Any, Any] = connection.recv()
        for _, result in job(iter(connection.recv, None), advance=connection.send):
            connection.send(result)
    except (RefusedError, IntegrityError, StorageError) as error:
        connection.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _leave(number: int, frame: FrameType | None) -> None:
    """Once: while it leaves, the standard library puts its locks away, which a second exception would cut short."""
    del frame
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)
