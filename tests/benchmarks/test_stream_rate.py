"""Rates against the least that delivering can cost: copying as many windows from a memory map into a reused buffer.

    python -m tests.benchmarks.test_stream_rate        windows of 8 frames, 256x256, 3 channels

`read` is a source alone, checksums included, in one thread; `loader` adds normalisation, threads and the ring.

As an ordinary test it runs once, small, and asserts no time.
"""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from data_prep.contract.manifest import Codec
from tests.unit.prepared import Prepared, prepare
from trainer.config.schema import DataConfig
from trainer.data.dataset import open_dataset
from trainer.data.loader import Loader
from trainer.data.ring import Scratch
from trainer.data.source import Source
from trainer.data.stream import open_datasets, training_loader
from trainer.data.windows import Window

FRAMES, MICRO_BATCH_SIZE = 8, 4


@dataclass(frozen=True)
class Share:
    rank: int = 0
    size: int = 1


@dataclass(frozen=True)
class Rate:
    """Medians over rounds that take turns, by what was timed."""

    codec: str
    gigabytes_per_second: dict[str, float]
    cpu_seconds_per_gigabyte: dict[str, float]
    share_of_memory_map: dict[str, float]
    """Of its rate, in wall time."""
    share_of_memory_map_in_cpu: dict[str, float]
    """The same in processor time, which others on the machine disturb less."""


def measure(prepared: Prepared, *, rounds: int, batches: int) -> Rate:
    gigabytes = batches * MICRO_BATCH_SIZE * FRAMES * prepared.manifest.frame_bytes / 1e9
    reading = _Reading(prepared)
    with _loader(prepared) as loader:
        actions: dict[str, Callable[[], None]] = {
            "memory map": lambda: _copy(prepared, batches),
            "read": lambda: reading.run(batches),
            "loader": lambda: _take(loader, batches),
        }
        timed = [{name: _timed(action) for name, action in actions.items()} for _ in range(rounds + 1)][1:]
    wall, cpu = ({name: statistics.median(one[name][which] for one in timed) for name in actions} for which in (0, 1))
    return Rate(
        prepared.manifest.codec,
        gigabytes_per_second={name: gigabytes / seconds for name, seconds in wall.items()},
        cpu_seconds_per_gigabyte={name: seconds / gigabytes for name, seconds in cpu.items()},
        share_of_memory_map={name: wall["memory map"] / seconds for name, seconds in wall.items()},
        share_of_memory_map_in_cpu={name: cpu["memory map"] / seconds for name, seconds in cpu.items()},
    )


class _Reading:
    """A source that fills one buffer again and again, in this thread."""

    def __init__(self, prepared: Prepared) -> None:
        dataset = open_dataset(prepared.url)
        self._source, self._scratch = Source(dataset, frames=FRAMES), Scratch()
        self._buffer = torch.empty(MICRO_BATCH_SIZE, *dataset.window_shape(FRAMES)).numpy()
        self._last_start = len(prepared.frames[0]) - FRAMES

    def run(self, batches: int) -> None:
        starts = np.random.default_rng(0).integers(0, self._last_start + 1, (batches, MICRO_BATCH_SIZE))
        for batch in starts.tolist():
            for row, start in zip(self._buffer, batch, strict=True):
                self._source.read(Window(0, start), out=row, scratch=self._scratch)


def _loader(prepared: Prepared) -> Loader:
    data = DataConfig.model_validate(
        {"datasets": ({"url": prepared.url},), "window": {"frames": FRAMES}, "batch_size": MICRO_BATCH_SIZE}
    )
    field_ids = {name: row for row, name in enumerate(prepared.manifest.dataset.channels)}
    return training_loader(
        data,
        open_datasets(data),
        seed=0,
        step=0,
        share=Share(),
        micro_batch_size=MICRO_BATCH_SIZE,
        field_ids=field_ids,
        pin=False,
    )


def _take(loader: Loader, batches: int) -> None:
    for _ in range(batches):
        loader.take(1)


def _copy(prepared: Prepared, batches: int) -> None:
    """As many windows from the decoded frames in a memory map into one buffer that is used again."""
    stored = np.memmap(Path(prepared.url, "decoded"), np.float32, "r").reshape(
        -1, *prepared.manifest.dataset.frame_shape
    )
    buffer = np.empty((MICRO_BATCH_SIZE, FRAMES, *stored.shape[1:]), np.float32)
    starts = np.random.default_rng(0).integers(0, len(stored) - FRAMES, (batches, MICRO_BATCH_SIZE))
    for batch in starts.tolist():
        for row, start in zip(buffer, batch, strict=True):
            row[:] = stored[start : start + FRAMES]


def _timed(action: Callable[[], None]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def _prepared(folder: Path, *, codec: Codec, size: int, length: int) -> Prepared:
    prepared = prepare(folder, codec=codec, resolution=(size, size), lengths=(length,) * 3, records_per_shard=length)
    np.concatenate(prepared.frames).tofile(folder / "decoded")
    return prepared


def test_the_benchmark_runs_and_compares_equal_bytes(tmp_path: Path) -> None:
    rate = measure(_prepared(tmp_path, codec="blosc-lz4", size=16, length=12), rounds=2, batches=3)
    for measured in (rate.gigabytes_per_second, rate.cpu_seconds_per_gigabyte, rate.share_of_memory_map):
        assert set(measured) == {"memory map", "read", "loader"}
        assert all(math.isfinite(value) and value > 0 for value in measured.values())


if __name__ == "__main__":
    for codec in ("none", "blosc-lz4"):
        with tempfile.TemporaryDirectory() as folder:
            result = measure(_prepared(Path(folder), codec=codec, size=256, length=50), rounds=7, batches=40)
            print(json.dumps(asdict(result), indent=1, default=str))
