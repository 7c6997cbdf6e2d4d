"""Windows from byte ranges: exact values, few requests, and errors that name dataset, shard and window."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from data_prep.contract.errors import NotFoundError
from data_prep.contract.fields import Field
from data_prep.contract.manifest import Codec
from data_prep.contract.storage import Retries, Storage
from tests.unit.prepared import Prepared, prepare
from trainer.data.cache import Cache
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.requests import LARGEST_GAP, LARGEST_REQUEST, Cost, Record, plan_requests
from trainer.data.ring import Scratch
from trainer.data.source import Source, Verification
from trainer.data.windows import Window, WindowShape
from trainer.errors import DataError, IntegrityError, RefusedError

CONSTANTS = (Field(name="mask"), Field(name="gravity", rank=1))


def read(dataset: Dataset, window: Window, *, frames: int, verify: Verification = "always") -> tuple[Any, Cost]:
    out = np.full(dataset.window_shape(frames), np.nan, np.float32)
    cost = Source(dataset, frames=frames, verify=verify).read(window, out=out, scratch=Scratch())
    return out, cost


@pytest.mark.parametrize("codec", get_args(Codec))
@pytest.mark.parametrize("constants", [(), CONSTANTS])
def test_a_window_has_the_values_that_were_stored(tmp_path: Path, codec: Codec, constants: tuple[Field, ...]) -> None:
    prepared = prepare(tmp_path, codec=codec, constant_fields=constants, padding=7, records_per_shard=4)
    out, _ = read(open_dataset(prepared.url), Window(1, 1, stride=2), frames=3)
    np.testing.assert_array_equal(out, prepared.expected(1, 1, frames=3, stride=2))


def test_three_space_axes_are_read_alike(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, resolution=(3, 4, 5), constant_fields=CONSTANTS)
    out, _ = read(open_dataset(prepared.url), Window(0, 2), frames=4)
    np.testing.assert_array_equal(out, prepared.expected(0, 2, frames=4))


@pytest.mark.parametrize("codec", get_args(Codec))
@pytest.mark.parametrize("tile", [(2, 3), (3, 4), (4, 2), (1, 6)])
def test_tiles_are_joined(tmp_path: Path, codec: Codec, tile: tuple[int, ...]) -> None:
    prepared = prepare(tmp_path, codec=codec, tile=tile, constant_fields=CONSTANTS, padding=7, records_per_shard=10)
    out, _ = read(open_dataset(prepared.url), Window(1, 1, stride=2), frames=3)
    np.testing.assert_array_equal(out, prepared.expected(1, 1, frames=3, stride=2))


def test_a_window_of_tiles_comes_by_one_request(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, tile=(2, 3))
    _, cost = read(open_dataset(prepared.url), Window(0, 2), frames=5)
    assert cost == Cost(windows=1, bytes_read=5 * prepared.manifest.frame_bytes, requests=1)


@pytest.mark.parametrize("tile", [None, (2, 3)])
def test_a_shard_begins_at_a_frame_however_many_pieces_it_has(tmp_path: Path, tile: tuple[int, ...] | None) -> None:
    """Four frames to a shard: runs of windows end where frames 4 and 8 begin."""
    per_frame = 1 if tile is None else 4
    prepared = prepare(tmp_path, tile=tile, lengths=(10,), records_per_shard=4 * per_frame)
    windows = open_dataset(prepared.url).windows(WindowShape(frames=2))
    assert windows.shard_ends.tolist() == [4, 8, 9]


def test_constant_channels_come_last_and_are_no_targets(tmp_path: Path) -> None:
    dataset = open_dataset(prepare(tmp_path, constant_fields=(Field(name="mask"),)).url)
    assert dataset.channels == ("density", "momentum_x", "momentum_y", "mask")
    assert dataset.is_target == (True, True, True, False)


def test_a_split_has_its_own_trajectories(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, lengths=(4, 5, 6), splits=("train", "valid", "valid"))
    out, _ = read(open_dataset(prepared.url, split="valid"), Window(1, 0), frames=2)
    np.testing.assert_array_equal(out, prepared.expected(2, 0, frames=2))


def test_neighbouring_records_come_by_one_request(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, padding=512)
    _, cost = read(open_dataset(prepared.url), Window(0, 2), frames=5)
    assert cost == Cost(windows=1, bytes_read=5 * prepared.manifest.frame_bytes + 4 * 512, requests=1)


def test_a_window_over_two_shards_takes_two_requests(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, records_per_shard=4)
    _, cost = read(open_dataset(prepared.url), Window(0, 2), frames=4)
    assert cost.requests == 2


def test_far_records_are_not_joined() -> None:
    records = [Record(0, 0, 10, 0), Record(0, 10 + LARGEST_GAP + 1, 10, 0)]
    assert len(plan_requests(records)) == 2


def test_requests_do_not_grow_beyond_their_bound() -> None:
    records = [Record(0, number * LARGEST_REQUEST // 3, LARGEST_REQUEST // 3, 0) for number in range(6)]
    assert [request.records for request in plan_requests(records)] == [(0, 1, 2), (3, 4, 5)]


def test_the_time_step_is_the_mean_over_the_window(tmp_path: Path) -> None:
    dataset = open_dataset(prepare(tmp_path).url)
    assert dataset.time_step(Window(0, 1, stride=2), frames=3) == 1.0


def test_the_time_step_of_a_single_frame_is_the_trajectorys(tmp_path: Path) -> None:
    dataset = open_dataset(prepare(tmp_path).url)
    assert dataset.time_step(Window(0, 1, stride=3), frames=1) == 1.5


def test_a_dataset_without_a_window_is_refused_with_what_to_change(tmp_path: Path) -> None:
    dataset = open_dataset(prepare(tmp_path, lengths=(4, 6)).url)
    with pytest.raises(
        RefusedError, match=r"waves has no window: 4 frames with stride 2 take 7 .*2 traj.* has 6; lower"
    ):
        dataset.windows(WindowShape(frames=4, stride=2))


def test_a_split_without_trajectories_is_refused_naming_the_others(tmp_path: Path) -> None:
    dataset = open_dataset(prepare(tmp_path).url, split="test")
    with pytest.raises(
        RefusedError, match=r"no trajectory in its test split \(trajectories: train 2, valid 0, test 0\)"
    ):
        dataset.windows(WindowShape(frames=2))


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"has no manifest\.json"):
        open_dataset(str(tmp_path))


def test_a_missing_shard_is_refused_on_opening(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, records_per_shard=4)
    prepared.shard_path(1).unlink()
    with pytest.raises(NotFoundError, match=r"waves, shard .*/shard-1: .*verify"):
        open_dataset(prepared.url)


def test_a_shard_cut_short_is_told_on_opening(tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    prepared.shard_path().write_bytes(prepared.shard_path().read_bytes()[:-1])
    with pytest.raises(RefusedError, match=r"waves, shard .*/shard-0: \d+ bytes, but the manifest says"):
        open_dataset(prepared.url)


def test_shards_of_other_splits_may_be_absent(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, lengths=(4, 4), splits=("train", "test"), records_per_shard=4)
    prepared.shard_path(1).unlink()
    assert open_dataset(prepared.url).windows(WindowShape(frames=4)).total == 1


def break_missing(prepared: Prepared) -> None:
    prepared.shard_path().unlink()


def break_truncated(prepared: Prepared) -> None:
    prepared.shard_path().write_bytes(b"short")


def break_one_bit(prepared: Prepared) -> None:
    data = bytearray(prepared.shard_path().read_bytes())
    data[3 * prepared.manifest.frame_bytes] ^= 1
    prepared.shard_path().write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "error"),
    [(break_missing, NotFoundError), (break_truncated, NotFoundError), (break_one_bit, IntegrityError)],
)
def test_damage_while_running_names_dataset_shard_and_window(
    tmp_path: Path, damage: Callable[[Prepared], None], error: type[Exception]
) -> None:
    prepared = prepare(tmp_path)
    dataset = open_dataset(prepared.url)
    damage(prepared)
    place = r"dataset waves, shard .*/shard-0, window of 4 frames from frame 2 of train/a\.hdf5#0: "
    with pytest.raises(error, match=place):
        read(dataset, Window(0, 2), frames=4)


def test_a_wrong_checksum_shows_both(tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    break_one_bit(prepared)
    with pytest.raises(IntegrityError, match=r"crc32c [0-9a-f]{8}, but the manifest says [0-9a-f]{8}; run `python -m"):
        read(open_dataset(prepared.url), Window(0, 3), frames=1)


def test_checksums_can_be_left_out(tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    break_one_bit(prepared)
    out, _ = read(open_dataset(prepared.url), Window(0, 3), frames=1, verify="never")
    assert (out != prepared.expected(0, 3, frames=1)).sum() == 1


def test_a_sample_of_the_checksums_finds_what_stays_wrong(tmp_path: Path) -> None:
    """One of 16 records is checked, so of 1000 none that is wrong would be missed."""
    prepared = prepare(tmp_path)
    break_one_bit(prepared)
    source = Source(open_dataset(prepared.url), frames=1, verify="sample")
    out, found = np.empty(source.dataset.window_shape(1), np.float32), 0
    for _ in range(1000):
        try:
            source.read(Window(0, 3), out=out, scratch=Scratch())
        except IntegrityError:
            found += 1
    assert 1 <= found <= 200


def test_bytes_that_went_wrong_on_their_way_are_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(tmp_path)
    spoil_ranges(monkeypatch, times=2)
    out, cost = read(open_dataset(prepared.url), Window(0, 0), frames=2)
    np.testing.assert_array_equal(out, prepared.expected(0, 0, frames=2))
    assert (cost.requests, cost.bytes_read) == (3, 3 * 2 * prepared.manifest.frame_bytes)


@pytest.mark.parametrize("codec", get_args(Codec))
@pytest.mark.parametrize("options", [{}, {"tile": (2, 3)}, {"constant_fields": CONSTANTS}])
def test_a_frame_that_is_whole_may_be_changed_once(
    tmp_path: Path, codec: Codec, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its bytes were wrong at first, and what a cache keeps is as it was stored."""
    prepared = prepare(tmp_path / "waves", codec=codec, **options)
    dataset, cache = open_dataset(prepared.url), Cache(str(tmp_path / "cache"), max_bytes=2**20)
    cache.open()
    out = np.empty(dataset.window_shape(3), np.float32)
    spoil_ranges(monkeypatch, times=1)
    for kept in (False, True):
        source = Source(dataset, frames=3, cache=cache)
        cost = source.read(Window(0, 1), out=out, scratch=Scratch(), on_frame=lambda frame: np.negative(frame, frame))
        np.testing.assert_array_equal(out, -prepared.expected(0, 1, frames=3))
        assert (cost.requests == 0) is kept


def test_storage_that_keeps_failing_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(tmp_path)
    dataset = open_dataset(prepared.url)
    stubborn = Dataset(
        Storage(prepared.url, Retries(attempts=2, first_seconds=0)), dataset.manifest, dataset.index, "train"
    )
    monkeypatch.setattr("os.preadv", time_out)
    with pytest.raises(DataError, match=r"waves, shard .*window of 1 frames from frame 0 .*after 2 attempts"):
        read(stubborn, Window(0, 0), frames=1)


def time_out(*_arguments: object, **_more: object) -> bytes:
    raise TimeoutError("no answer")


def spoil_ranges(monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
    """The first so many ranges come with a wrong bit."""
    right, calls = os.preadv, iter(range(times))

    def preadv(descriptor: int, out: Sequence[memoryview], offset: int) -> int:
        found = right(descriptor, out, offset)
        if next(calls, None) is not None:
            out[-1][0] ^= 1
        return found

    monkeypatch.setattr("os.preadv", preadv)
