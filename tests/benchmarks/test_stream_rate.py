"""The loader's rate against the least that delivering can cost: copying the same windows from a memory map.

    python -m tests.benchmarks.test_stream_rate        windows of 8 frames, 256x256, 3 channels

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

from data_prep.contract.manifest import Codec
from tests.unit.prepared import Prepared, prepare
from trainer.config.schema import DataConfig
from trainer.data.loader import Loader
from trainer.data.stream import open_datasets, training_loader

FRAMES, MICRO_BATCH_SIZE = 8, 4


@dataclass(frozen=True)
class Share:
    rank: int = 0
    size: int = 1


@dataclass(frozen=True)
class Rate:
    """Medians over rounds that alternate between the two."""

    codec: str
    loader_gigabytes_per_second: float
    loader_cpu_seconds_per_gigabyte: float
    memory_map_gigabytes_per_second: float
    memory_map_cpu_seconds_per_gigabyte: float
    ratio: float


def measure(prepared: Prepared, *, rounds: int, batches: int) -> Rate:
    gigabytes = batches * MICRO_BATCH_SIZE * FRAMES * prepared.manifest.frame_bytes / 1e9
    with _loader(prepared) as loader:
        pairs = [
            (_timed(lambda: _take(loader, batches)), _timed(lambda: _copy(prepared, batches)))
            for _ in range(rounds + 1)
        ][1:]
    (wall, cpu), (least_wall, least_cpu) = (
        [statistics.median(values) / gigabytes for values in zip(*one, strict=True)] for one in zip(*pairs, strict=True)
    )
    return Rate(prepared.manifest.codec, 1 / wall, cpu, 1 / least_wall, least_cpu, ratio=least_wall / wall)


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
    assert all(math.isfinite(value) and value > 0 for value in asdict(rate).values() if not isinstance(value, str))


if __name__ == "__main__":
    for codec in ("none", "blosc-lz4"):
        with tempfile.TemporaryDirectory() as folder:
            result = measure(_prepared(Path(folder), codec=codec, size=256, length=50), rounds=7, batches=40)
            print(json.dumps({name: round(v, 3) if isinstance(v, float) else v for name, v in asdict(result).items()}))
