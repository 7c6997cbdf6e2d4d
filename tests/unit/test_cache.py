"""The cache of records: fewer requests, the same bytes, never above its bound, whatever becomes of its files."""

import errno
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract.checksum import checksum
from data_prep.contract.manifest import Codec
from data_prep.contract.storage import Storage
from tests.unit.prepared import Prepared, prepare
from trainer.config.schema import DataConfig
from trainer.data.cache import BLOCK_BYTES, LEDGER, PARTS, RECORDS, Cache
from trainer.data.dataset import open_dataset
from trainer.data.requests import Cost
from trainer.data.ring import Scratch
from trainer.data.source import Source
from trainer.data.stream import open_datasets, training_loader
from trainer.data.windows import Window
from trainer.errors import IntegrityError, RefusedError

ROOMY = 2**20
Values = np.ndarray[Any, np.dtype[np.float32]]


def opened(folder: Path, *, max_bytes: int = ROOMY) -> Cache:
    cache = Cache(str(folder), max_bytes=max_bytes)
    cache.open()
    return cache


def read(prepared: Prepared, cache: Cache, window: Window, *, frames: int = 4) -> tuple[Values, Cost]:
    dataset = open_dataset(prepared.url)
    out = np.full(dataset.window_shape(frames), np.nan, np.float32)
    cost = Source(dataset, frames=frames, cache=cache).read(window, out=out, scratch=Scratch())
    np.testing.assert_array_equal(out, prepared.expected(window.trajectory, window.start, frames=frames))
    return out, cost


def record(number: int, num_bytes: int = BLOCK_BYTES) -> bytes:
    return np.random.default_rng(number).bytes(num_bytes)


def put(cache: Cache, *numbers: int) -> None:
    for number in numbers:
        cache.put(f"waves/{number % 2}/{number}", memoryview(record(number)))


def held(cache: Cache, numbers: Sequence[int]) -> list[int]:
    """Which of these records the cache has, looked up from the last to the first."""
    out = memoryview(bytearray(BLOCK_BYTES))
    found = [
        number
        for number in reversed(numbers)
        if cache.read(f"waves/{number % 2}/{number}", out, crc32c=checksum(record(number)))
    ]
    return found[::-1]


def files(cache: Cache) -> list[Path]:
    return [path for path in (cache.folder / RECORDS).rglob("*") if path.is_file()]


def set_aside(cache: Cache) -> int:
    return int((cache.folder / LEDGER).read_text().split()[1])


@pytest.mark.parametrize("codec", ["none", "blosc-lz4"])
@pytest.mark.parametrize("tile", [None, (2, 3)])
def test_a_window_that_was_read_before_asks_for_nothing(
    tmp_path: Path, codec: Codec, tile: tuple[int, ...] | None
) -> None:
    prepared = prepare(tmp_path / "waves", codec=codec, tile=tile)
    cache = opened(tmp_path / "cache")
    _, first = read(prepared, cache, Window(0, 2))
    _, second = read(prepared, cache, Window(0, 2))
    records = 4 * (1 if tile is None else 4)
    assert (first.requests, second) == (1, Cost(windows=1))
    assert cache.counts == {
        "hits": records,
        "misses": records,
        "evictions": 0,
        "corrupt": 0,
        "bytes": first.bytes_read,
    }


def test_of_an_overlapping_window_the_rest_alone_is_asked_for(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "waves")
    cache = opened(tmp_path / "cache")
    read(prepared, cache, Window(0, 2))
    _, cost = read(prepared, cache, Window(0, 4))
    assert cost == Cost(windows=1, requests=1, bytes_read=2 * prepared.manifest.frame_bytes)


def test_what_one_run_has_fetched_the_next_one_has(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "waves")
    read(prepared, opened(tmp_path / "cache"), Window(0, 2))
    assert read(prepared, opened(tmp_path / "cache"), Window(0, 2))[1].requests == 0


def test_datasets_that_share_a_name_do_not_share_records(tmp_path: Path) -> None:
    cache = opened(tmp_path / "cache")
    for seed in (0, 1):
        read(prepare(tmp_path / f"waves-{seed}", seed=seed), cache, Window(0, 2))
    assert cache.counts["hits"] == 0


def test_a_dataset_larger_than_the_cache_streams_and_keeps_the_bound(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "waves", resolution=(32, 32), lengths=(12,))
    bound = 4 * prepared.manifest.frame_bytes
    cache = opened(tmp_path / "cache", max_bytes=bound)
    for start in np.random.default_rng(0).integers(0, 9, 40).tolist():
        read(prepared, cache, Window(0, start))
        assert sum(path.stat().st_size for path in files(cache)) <= bound
    assert cache.counts["evictions"] > 0
    assert cache.counts["hits"] > 0


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1], lambda data: b"?" + data[1:]])
def test_a_record_that_went_wrong_is_fetched_again(tmp_path: Path, damage: Any) -> None:
    prepared = prepare(tmp_path / "waves")
    cache = opened(tmp_path / "cache")
    read(prepared, cache, Window(0, 2))
    place = min(files(cache))
    place.write_bytes(damage(place.read_bytes()))
    assert read(prepared, cache, Window(0, 2))[1].requests == 1
    assert cache.counts["corrupt"] == 1
    assert read(prepared, cache, Window(0, 2))[1].requests == 0


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    cache = opened(tmp_path / "cache", max_bytes=4 * BLOCK_BYTES)
    put(cache, 0, 1, 2, 3)
    assert held(cache, [0, 2]) == [0, 2]
    put(cache, 4, 5)
    assert held(cache, range(6)) == [0, 2, 4, 5]


def test_a_record_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = opened(tmp_path / "cache", max_bytes=4 * BLOCK_BYTES)
    put(cache, 0, 1)
    cache.put("waves/0/large", memoryview(bytes(5 * BLOCK_BYTES)))
    assert held(cache, [0, 1]) == [0, 1]


def test_the_same_record_twice_counts_once(tmp_path: Path) -> None:
    cache = opened(tmp_path / "cache")
    put(cache, 0, 0, 0)
    assert set_aside(cache) == BLOCK_BYTES


@pytest.mark.parametrize("text", ["", "rubbish", "00000000-another-boot 00000000000000004096"])
def test_a_ledger_that_says_nothing_of_sense_is_made_anew(tmp_path: Path, text: str) -> None:
    cache = opened(tmp_path / "cache", max_bytes=4 * BLOCK_BYTES)
    put(cache, 0, 1, 2)
    (cache.folder / LEDGER).write_text(text)
    put(cache, 3)
    assert set_aside(cache) == 4 * BLOCK_BYTES
    put(cache, 4)
    assert len(files(cache)) == 4


def test_the_part_of_a_dead_writer_is_removed_and_that_of_a_living_one_counts(tmp_path: Path) -> None:
    cache = opened(tmp_path / "cache", max_bytes=4 * BLOCK_BYTES)
    (cache.folder / PARTS / "dead").write_bytes(record(0))
    living = cache._set_aside(BLOCK_BYTES)
    assert living is not None
    put(cache, 0, 1, 2, 3, 4)
    assert [path.name for path in (cache.folder / PARTS).iterdir()] == [Path(living.name).name]
    assert len(files(cache)) == 3
    living.close()


def test_threads_share_a_cache(tmp_path: Path) -> None:
    cache = opened(tmp_path / "cache", max_bytes=16 * BLOCK_BYTES)

    def use(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 48, 60).tolist():
            if not held(cache, [number]):
                put(cache, number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert BLOCK_BYTES * len(files(cache)) <= set_aside(cache) <= 16 * BLOCK_BYTES
    assert cache.counts["corrupt"] == 0


def test_a_full_disk_costs_speed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = prepare(tmp_path / "waves")
    cache = opened(tmp_path / "cache")

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.rename", refuse)
    for _ in range(2):
        assert read(prepared, cache, Window(0, 2))[1].requests == 1
    assert (files(cache), set_aside(cache)) == ([], 0)
    assert capsys.readouterr().err.count("No space left on device); reading goes on without") == 1


def test_a_folder_that_was_removed_costs_speed_alone(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "waves")
    cache = opened(tmp_path / "cache")
    (tmp_path / "cache").rename(tmp_path / "gone")
    assert read(prepared, cache, Window(0, 2))[1].requests == 1


def test_a_folder_with_other_things_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RefusedError, match=r"is no cache, but holds thesis\.tex; name a folder that is empty"):
        Cache(str(tmp_path), max_bytes=ROOMY).open()
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RefusedError, match=r"file: is a file; let data\.cache\.folder name a folder"):
        Cache(str(tmp_path / "file"), max_bytes=ROOMY).open()


def stream_config(prepared: Prepared, folder: Path) -> DataConfig:
    cache = {"folder": str(folder), "bytes": ROOMY}
    rest = {"window": {"frames": 3}, "batch_size": 4, "threads": 0}
    return DataConfig.model_validate({"datasets": ({"url": prepared.url},), "cache": cache, **rest})


def test_loaders_count_what_the_cache_saves(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "waves")
    data = stream_config(prepared, tmp_path / "cache")
    found = []
    for _ in range(2):
        with training_loader(
            data,
            open_datasets(data),
            seed=0,
            step=0,
            share=Alone(),
            micro_batch_size=4,
            field_ids={name: row for row, name in enumerate(prepared.manifest.dataset.channels)},
            pin=False,
        ) as loader:
            batches = [batch.fields.numpy().tobytes() for _ in range(6) for batch in loader.take(1)]
        found.append((batches, loader.totals))
    (first, before), (second, after) = found
    assert first == second
    assert before["requests"] > 0 == after["requests"]
    assert before["cache_misses"] == len(files(opened(tmp_path / "cache"))) > 0 == after["cache_misses"]
    assert after["cache_bytes"] == after["cache_hits"] * prepared.manifest.frame_bytes


class Alone:
    rank, size = 0, 1


def test_a_cache_that_cannot_be_is_refused_with_the_datasets(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "waves")
    with pytest.raises(RefusedError, match="is no cache"):
        open_datasets(stream_config(prepared, tmp_path / "waves"))
    assert not Storage(prepared.url).exists(LEDGER)


def whole_shard_source(prepared: Prepared, cache: Cache) -> Source:
    return Source(open_dataset(prepared.url), frames=4, cache=cache, whole_shards=True)


def test_a_record_brings_its_whole_shard_by_one_request(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "waves", lengths=(10, 7), records_per_shard=10, padding=7)
    cache, scratch = opened(tmp_path / "cache"), Scratch()
    source = whole_shard_source(prepared, cache)
    out = np.empty(source.dataset.window_shape(4), np.float32)
    costs = []
    for start in (5, 0, 6, 3):
        costs.append(source.read(Window(0, start), out=out, scratch=scratch).requests)
        np.testing.assert_array_equal(out, prepared.expected(0, start, frames=4))
    assert costs == [1, 0, 0, 0]


def test_threads_that_want_one_shard_fetch_it_once(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "waves", lengths=(40,), resolution=(32, 32))
    source = whole_shard_source(prepared, opened(tmp_path / "cache"))

    def read_one(start: int) -> int:
        out = np.empty(source.dataset.window_shape(4), np.float32)
        cost = source.read(Window(0, start), out=out, scratch=Scratch())
        np.testing.assert_array_equal(out, prepared.expected(0, start, frames=4))
        return cost.requests

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(read_one, range(36))) == 1


def test_a_wrong_record_of_a_whole_shard_is_told_with_its_window_alone(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "waves", lengths=(10,))
    data = bytearray(prepared.shard_path().read_bytes())
    data[9 * prepared.manifest.frame_bytes] ^= 1
    prepared.shard_path().write_bytes(data)
    source = whole_shard_source(prepared, opened(tmp_path / "cache"))
    out = np.empty(source.dataset.window_shape(4), np.float32)
    source.read(Window(0, 0), out=out, scratch=Scratch())
    with pytest.raises(IntegrityError, match=r"window of 4 frames from frame 6 .*crc32c"):
        source.read(Window(0, 6), out=out, scratch=Scratch())


def test_whole_shards_need_a_group_and_room_for_two(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "waves", records_per_shard=10, resolution=(128, 128))
    cache = {"folder": str(tmp_path / "cache"), "bytes": 2**20, "whole_shards": True}
    sections = {"datasets": ({"url": prepared.url},), "window": {"frames": 4}, "batch_size": 1, "cache": cache}
    with pytest.raises(ValueError, match=r"set data\.shards_in_group"):
        DataConfig.model_validate(sections)
    with pytest.raises(RefusedError, match=r"data.cache.bytes is 1048576, but whole_shards needs \d+"):
        open_datasets(DataConfig.model_validate(sections | {"shards_in_group": 1}))
