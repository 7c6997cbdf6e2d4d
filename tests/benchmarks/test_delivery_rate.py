"""Batches of 32 MB brought to the training process by two workers: ours, and a torch DataLoader over the same reader.

    python -m tests.benchmarks.test_delivery_rate        windows of 8 frames, 256x256, 4 channels

As an ordinary test it runs once, small and without workers, and asserts no time.
"""

import math
import multiprocessing
import os
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_prep.contract.checksum import checksum
from tests.benchmarks.peer_readers import FRAMES, Read, facts_of
from tests.benchmarks.test_stream_peers import Rate, Take, in_process, is_of_sense, make, measure, table
from trainer.config.schema import DataConfig
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.loader import Loader
from trainer.data.normalise import normaliser_of
from trainer.data.ring import PAGE_BYTES, Scratch
from trainer.data.source import Source
from trainer.data.stream import open_datasets, training_loader, vocabulary
from trainer.data.windows import Window

BATCH_SIZE, WORKERS = 4, 2
BATCHES, ROUNDS, SETTLE_SECONDS = 40, 5, 1.0
"""Of a turn, and between turns."""
BUFFERS = 5
"""Batches in memory at once, as our loader has them here: those it reads ahead, and the one that was taken."""


class Windows(torch.utils.data.Dataset[np.ndarray]):
    """Windows checked and scaled by the same reader, for a torch DataLoader; each worker opens it for itself."""

    def __init__(self, folder: Path, name: str, length: int) -> None:
        self._folder, self._name, self._length = folder, name, length
        self._read: Callable[[int], np.ndarray] | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> np.ndarray:
        self._read = self._read or self._open()
        return self._read(number)

    def _open(self) -> Callable[[int], np.ndarray]:
        dataset = open_dataset(str(self._folder / self._name))
        source, facts, scratch = Source(dataset, frames=FRAMES), facts_of(self._folder), Scratch()
        on_frame = normaliser_of(config_of(self._folder, self._name), dataset).of_frame

        def read(number: int) -> np.ndarray:
            out = np.empty(dataset.window_shape(FRAMES), np.float32)  # not one for all: a batch has several
            source.read(Window(*facts.place(number)), out=out, scratch=scratch, on_frame=on_frame)
            return out

        return read


def config_of(folder: Path, name: str) -> DataConfig:
    """Of our loader with as many threads as a DataLoader has workers."""
    sections = {"datasets": ({"url": str(folder / name)},), "window": {"frames": FRAMES}, "batch_size": BATCH_SIZE}
    return DataConfig.model_validate({**sections, "threads": WORKERS})


def our_loader(folder: Path, name: str) -> Loader:
    data = config_of(folder, name)
    return loader_alone(data, open_datasets(data))


def loader_alone(data: DataConfig, datasets: Sequence[Dataset]) -> Loader:
    """Batches as the only rank takes them, each in one piece."""
    return training_loader(
        data,
        datasets,
        seed=0,
        step=0,
        share=Alone(),
        micro_batch_size=data.batch_size,
        field_ids={channel: row for row, channel in enumerate(vocabulary(datasets))},
        pin=False,
    )


def looked_at(batch: Tensor) -> Tensor:
    """The sum of one value of each page: a batch is delivered when its reader can touch all of it at once."""
    return batch.flatten()[:: PAGE_BYTES // batch.element_size()].sum()


def bare_loop(folder: Path, threads: Executor) -> Read:
    """What can be had: threads that do nothing but read, check and scale frames into a ring, in no order."""
    dataset, facts = open_dataset(str(folder / "zarr-none")), facts_of(folder)
    source, scale = Source(dataset, frames=FRAMES), normaliser_of(config_of(folder, "zarr-none"), dataset).of_frame
    assert scale is not None
    ring = np.zeros((BUFFERS, BATCH_SIZE, *dataset.window_shape(FRAMES)), np.float32)

    def fill(out: np.ndarray, number: int) -> None:
        records = source.records(Window(*facts.place(number)))
        with (folder / "zarr-none" / dataset.manifest.shards[records[0].shard].path).open("rb", buffering=0) as file:
            for record, frame in zip(records, out, strict=True):
                assert os.preadv(file.fileno(), [frame.data], record.offset) == record.num_bytes
                assert checksum(frame) == record.crc32c
                scale(frame)

    def begin(number: int) -> list[Future[None]]:
        rows = enumerate(ring[number % BUFFERS], start=number * BATCH_SIZE)
        return [threads.submit(fill, out, window) for window, out in rows]

    begun = deque(begin(number) for number in range(BUFFERS - 1))
    numbers = count(BUFFERS - 1)

    def read(_number: int) -> Tensor:
        begun.append(begin(number := next(numbers)))
        for row in begun.popleft():
            row.result()
        return looked_at(torch.from_numpy(ring[(number + 1) % BUFFERS]))

    return read


@dataclass(frozen=True)
class Alone:
    rank: int = 0
    size: int = 1


def deliver(
    folder: Path, *, rounds: int, batches: int, workers: int = WORKERS, settle_seconds: float = 0.0
) -> list[Rate]:
    """Batches in the process that asks for them: a bare loop, ours, and a DataLoader over the same reader with default
    collation.

    A turn has many more batches than either has read ahead when it begins. The seconds of a processor are the workers'
    too.
    """
    total = (rounds + 2) * batches * BATCH_SIZE
    window_bytes = FRAMES * 4 * math.prod(facts_of(folder).frame)
    with ExitStack() as stack:
        readers: dict[str, Take] = {}
        known: set[int | None] = set()
        readers["bare loop none"] = in_process(bare_loop(folder, stack.enter_context(ThreadPoolExecutor(WORKERS))))
        for codec in ("none", "blosc-lz4"):
            loader = stack.enter_context(our_loader(folder, f"zarr-{codec}"))
            readers[f"ours {codec}"] = in_process(lambda number, loader=loader: looked_at(loader.take(1)[0].fields))
            torch_loader = torch.utils.data.DataLoader(
                Windows(folder, f"zarr-{codec}", total),
                batch_size=BATCH_SIZE,
                num_workers=workers,
                multiprocessing_context="spawn" if workers else None,
            )
            stream = iter(torch_loader)
            take = in_process(lambda number, stream=stream: looked_at(next(stream)))
            pids = [worker.pid for worker in multiprocessing.active_children() if worker.pid not in known]
            known |= set(pids)
            readers[f"torch DataLoader {codec}"] = with_processors_of(pids, take)
        return measure(
            readers,
            rounds=rounds,
            windows=batches,
            window_bytes=BATCH_SIZE * window_bytes,
            settle_seconds=settle_seconds,
        )


def with_processors_of(pids: Sequence[int | None], take: Take) -> Take:
    """Adds the processor seconds of other processes meanwhile."""

    def both(first: int, count: int) -> Mapping[str, float]:
        before = sum(map(_cpu_seconds, pids))
        found = take(first, count)
        return {**found, "cpu_seconds": found["cpu_seconds"] + sum(map(_cpu_seconds, pids)) - before}

    return both


def _cpu_seconds(pid: int | None) -> float:
    """Of a process of this machine, as Linux counts them: to a hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_delivered_batches_are_timed(tmp_path: Path) -> None:
    """Without workers, which would import torch once more each."""
    make(tmp_path, size=16, steps=17, trajectories=2)
    assert is_of_sense(deliver(tmp_path, rounds=1, batches=2, workers=0))


if __name__ == "__main__":
    torch.set_num_threads(1)  # the threads that help to add up a frame wait busily, on processors that workers want
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch), size=256, steps=41, trajectories=3)
        rates = deliver(Path(scratch), rounds=ROUNDS, batches=BATCHES, settle_seconds=SETTLE_SECONDS)
        print(table(rates, limit="torch DataLoader none"))
