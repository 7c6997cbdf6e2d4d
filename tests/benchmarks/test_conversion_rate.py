"""The converter's rate against the least that a conversion can cost: read the same HDF5, write the same bytes.

    python -m tests.benchmarks.test_conversion_rate [FOLDER]        2560 frames of 512x512, 4 channels: 10.7 GB

The bare loop reads each field with h5py into one fused buffer that it uses again and again, which it writes with plain
file writes: no check, no checksum, no statistics, no index. Rounds alternate; all leave the file cache warm; FOLDER
has room for 13 GB, best in memory (/dev/shm), where no disk sets the pace; each source file stands there under five
names. What two workers can be faster than one at most, two bare loops at once show: memory is shared. Workers take a
second to start, whatever they have to do. As an ordinary test it runs once, small, and asserts no time.
"""

import json
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import h5py
import numpy as np

from data_prep.__main__ import main
from tests.unit.tiny_well import TinyField, write_file

FIELDS = (TinyField("density"), TinyField("pressure"), TinyField("velocity", rank=1))
SEGMENT_BYTES = 2**25
ALL = slice(None)
LONGEST_SECONDS = 300.0
"""A hang, not a slow machine."""


@dataclass(frozen=True)
class Rates:
    """Medians over rounds, in decoded bytes. Processor seconds tell more than the clock where others work too."""

    gigabytes: float
    bare_gigabytes_per_second: float
    one_worker_gigabytes_per_second: float
    one_worker_against_bare: float
    one_worker_against_bare_by_processor: float
    two_workers_against_one: float
    two_bare_loops_against_one: float


def measure(source: Path, scratch: Path, *, rounds: int, shard_bytes: str) -> Rates:
    numbers = iter(range(10**6))

    def fresh() -> Path:
        return scratch / str(next(numbers))

    def convert(workers: int) -> None:
        options = ("--codec", "none", "--shard-bytes", shard_bytes, "--workers", str(workers))
        assert main(["convert", str(source), str(fresh()), "--format", "zarr", *options]) == 0

    seconds: list[list[tuple[float, float]]] = []
    num_bytes = copy_bare(source, fresh())  # warms the file cache
    _empty(scratch)
    for _ in range(rounds):
        actions = (
            lambda: copy_bare(source, fresh()),
            lambda: convert(1),
            lambda: convert(2),
        )
        both = copy_bare_at_once(source, fresh())
        _empty(scratch)
        seconds.append([*(_timed(action, scratch) for action in actions), (both, math.nan)])
    return Rates(
        gigabytes=num_bytes / 1e9,
        bare_gigabytes_per_second=statistics.median(num_bytes / 1e9 / bare[0] for bare, *_ in seconds),
        one_worker_gigabytes_per_second=statistics.median(num_bytes / 1e9 / one[0] for _, one, *_ in seconds),
        one_worker_against_bare=statistics.median(bare[0] / one[0] for bare, one, *_ in seconds),
        one_worker_against_bare_by_processor=statistics.median(bare[1] / one[1] for bare, one, *_ in seconds),
        two_workers_against_one=statistics.median(one[0] / two[0] for _, one, two, _ in seconds),
        two_bare_loops_against_one=statistics.median(bare[0] / both[0] for bare, *_, both in seconds),
    )


def copy_bare(source: Path, destination: Path, *, share: slice = ALL) -> int:
    """One file for each source file, with frames of all channels one after the other; gives the bytes written."""
    destination.mkdir(parents=True)
    num_bytes = 0
    for path in sorted(source.glob("data/*/*.hdf5"))[share]:
        with h5py.File(path, "r") as file, open(destination / f"{path.parent.name}-{path.stem}", "wb") as out:
            num_bytes += _copy_file(file, out.write)
    return num_bytes


def copy_bare_at_once(source: Path, destination: Path) -> float:
    """Two processes share the files; gives the seconds from when both are ready until both are done."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Barrier(3), context.Barrier(3)
    arguments = [(source, destination / str(number), slice(number, None, 2), ready, done) for number in range(2)]
    processes = [context.Process(target=_copy_share, args=each) for each in arguments]
    for process in processes:
        process.start()
    ready.wait(LONGEST_SECONDS)
    begin = time.perf_counter()
    done.wait(LONGEST_SECONDS)
    seconds = time.perf_counter() - begin
    for process in processes:
        process.join()
    return seconds


def _copy_share(source: Path, destination: Path, share: slice, ready: Barrier, done: Barrier) -> None:
    ready.wait(LONGEST_SECONDS)
    copy_bare(source, destination, share=share)
    done.wait(LONGEST_SECONDS)


def _copy_file(file: h5py.File, write: Callable[[memoryview], object]) -> int:
    arrays = [file[f"t0_fields/{field.name}"] for field in FIELDS if field.rank == 0]
    vectors = [file[f"t1_fields/{field.name}"] for field in FIELDS if field.rank == 1]
    num_runs, num_steps, *space = arrays[0].shape
    num_channels = len(arrays) + len(vectors) * len(space)
    step = max(1, SEGMENT_BYTES // (4 * num_channels * math.prod(space)))
    buffer = np.empty((step, num_channels, *space), np.float32)
    for run in range(num_runs):
        for start in range(0, num_steps, step):
            frames = buffer[: min(step, num_steps - start)]
            window = slice(start, start + len(frames))
            for channel, array in enumerate(arrays):
                frames[:, channel] = array[run, window]
            for number, vector in enumerate(vectors):
                first = len(arrays) + number * len(space)
                frames[:, first : first + len(space)] = np.moveaxis(vector[run, window], -1, 1)
            write(frames.reshape(-1).view(np.uint8).data)
    return num_runs * num_steps * buffer[0].nbytes


def make_source(folder: Path, *, size: int, steps: int, runs: int, names: int) -> Path:
    """A corpus of `runs` files, each under so many `names`."""
    source = folder / "source"
    axes = {"x": size, "y": size}
    for number in range(runs):
        path = source / "data" / "train" / f"{number}.hdf5"
        write_file(path, num_trajectories=1, num_steps=steps, axes=axes, fields=FIELDS, boundaries=(), seed=number)
        for name in range(1, names):
            path.with_stem(f"{number}-{name}").hardlink_to(path)
    return source


def _timed(action: Callable[[], object], scratch: Path) -> tuple[float, float]:
    """Wall and processor seconds; the latter of all threads of this process, without those of workers."""
    wall, processor = time.perf_counter(), time.process_time()
    action()
    seconds = time.perf_counter() - wall, time.process_time() - processor
    _empty(scratch)
    return seconds


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        _remove(path)


def _remove(path: Path) -> None:
    for below in path.iterdir() if path.is_dir() else ():
        _remove(below)
    path.rmdir() if path.is_dir() else path.unlink()


def test_the_benchmark_runs_and_writes_the_same_values(tmp_path: Path) -> None:
    source = make_source(tmp_path, size=16, steps=3, runs=2, names=2)
    (tmp_path / "scratch").mkdir()
    rates = measure(source, tmp_path / "scratch", rounds=1, shard_bytes="30K")
    assert all(math.isfinite(value) and value > 0 for value in asdict(rates).values())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        source = make_source(Path(folder), size=512, steps=64, runs=8, names=5)
        (Path(folder) / "scratch").mkdir()
        result = measure(source, Path(folder) / "scratch", rounds=5, shard_bytes="256M")
        print(json.dumps({name: round(value, 3) for name, value in asdict(result).items()}))
