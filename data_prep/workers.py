"""Units of one plan made by this process or by several: how many, changes the speed only.

A process of its own for each worker, spawned rather than forked, since clients of object stores and HDF5 keep threads
and locks. Each is given one unit after the other, stores its shard and its note by itself, and tells how far it is.
"""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType

from data_prep.contract.errors import IntegrityError, RefusedError, StorageError
from data_prep.journal import UnitResult
from data_prep.plan import Unit
from data_prep.unit import Advance, Task, make_units

LEAVE_SECONDS = 20.0
"""How long a worker may take to leave once it was asked to: it removes its half-written file first."""


class WorkerLostError(Exception):
    """A worker that ended without a word. Commands print it and exit 1."""


def run_units(
    task: Task, units: Sequence[Unit], *, num_workers: int, advance: Advance
) -> Iterator[tuple[Unit, UnitResult]]:
    """Every unit and its result, as they are finished. The first error of any of them ends all."""
    if min(num_workers, len(units)) <= 1:
        yield from make_units(task, units, advance=advance)
    else:
        with _started(task, count=min(num_workers, len(units))) as workers:
            yield from _share_out(units, workers, advance)


@dataclass
class _Worker:
    """One process, seen from the one that gives out the work."""

    process: BaseProcess
    connection: Connection
    unit: Unit | None = None
    """What it is working on."""

    def begin(self, unit: Unit) -> None:
        self.unit = unit
        self.connection.send(unit)

    def listen(self) -> int | UnitResult:
        """Bytes that are done, or the result of the unit. Raises what went wrong."""
        try:
            message: int | UnitResult | Exception = self.connection.recv()
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
            f"a worker {end} while it made {self.unit.path if self.unit else 'nothing'}; if memory was short, take "
            "fewer `--workers` or a smaller `--shard-bytes`; the same command goes on from here"
        )


def _share_out(
    units: Sequence[Unit], workers: Sequence[_Worker], advance: Advance
) -> Iterator[tuple[Unit, UnitResult]]:
    """The next unit in order to whoever is free, so that neighbours in a file are read at about the same time."""
    waiting, busy = iter(units), {worker.connection: worker for worker in workers}
    for worker, unit in zip(workers, waiting, strict=False):
        worker.begin(unit)
    while busy:
        for connection in wait(busy):
            assert isinstance(connection, Connection)
            worker, message = busy[connection], busy[connection].listen()
            if isinstance(message, int):
                advance(message)
                continue
            assert worker.unit is not None
            finished, following = worker.unit, next(waiting, None)
            if following is None:
                del busy[connection]
            else:
                worker.begin(following)
            yield finished, message


@contextmanager
def _started(task: Task, *, count: int) -> Iterator[list[_Worker]]:
    """The workers; however this ends, none of them is left."""
    with ExitStack() as stack:
        workers = []
        with _interrupts_blocked():  # children inherit it: Ctrl-C reaches them as SIGTERM from us, once
            for _ in range(count):
                workers.append(worker := _start(task))
                stack.callback(_end, worker)
        yield workers


def _start(task: Task) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(task, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _end(worker: _Worker) -> None:
    worker.process.terminate()
    worker.process.join(LEAVE_SECONDS)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    worker.connection.close()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(task: Task, connection: Connection) -> None:
    """The life of a worker. A lost parent is noticed at the next word to it, and ends it as SIGTERM does."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        for _, result in make_units(task, iter(connection.recv, None), advance=connection.send):
            connection.send(result)
    except (RefusedError, IntegrityError, StorageError) as error:
        connection.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _leave(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise SystemExit(0)
