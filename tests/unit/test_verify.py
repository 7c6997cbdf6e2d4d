"""Verification finds whatever is not as it should be, names it and ends with 1."""

import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract.checksum import checksum
from data_prep.contract.manifest import Manifest, describe_index, load_manifest, save_manifest
from data_prep.contract.storage import Storage
from tests.unit.tiny_well import TinyField, write_dataset

FIELDS = (TinyField("pressure"), TinyField("velocity", rank=1), TinyField("depth", time_varying=False))


@pytest.fixture(params=["zarr", "webdataset"])
def prepared(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    write_dataset(tmp_path / "tiny", fields=FIELDS)
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), "--format", request.param]) == 0
    return tmp_path / "out"


def differences(folder: Path, capsys: pytest.CaptureFixture[str], *options: str, expected_code: int = 1) -> list[str]:
    capsys.readouterr()
    assert main(["verify", str(folder), *options]) == expected_code
    captured = capsys.readouterr()
    found: list[str] = json.loads(captured.out)["differences"]
    assert all(line in captured.err for line in found[:20])
    return found


def manifest_of(folder: Path) -> Manifest:
    return load_manifest(Storage(str(folder)))[0]


def first_shard(folder: Path) -> Path:
    return folder / manifest_of(folder).shards[0].path


def damage(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_sound_dataset_has_no_differences(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    against = str(prepared.with_name("tiny"))
    assert differences(prepared, capsys, "--against", against, expected_code=0) == []


def test_what_a_manifest_claims_is_not_made_room_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Frames of a gigabyte, in shards that are said to be as large and are not."""
    write_dataset(tmp_path / "tiny", fields=FIELDS[:1])
    out = tmp_path / "out"
    assert main(["convert", str(tmp_path / "tiny"), str(out), "--format", "zarr", "--codec", "none"]) == 0
    manifest, index = load_manifest(Storage(str(out)))
    side, index = 2**14, index.copy()
    axis = tuple(number / side for number in range(side))
    index["bytes"], index["offset"] = 4 * side * side, 0
    large = {"resolution": (side, side), "coordinates": (axis, axis)}
    claim = manifest.model_copy(
        update={
            "dataset": manifest.dataset.model_copy(update=large),
            "shards": tuple(shard.model_copy(update={"bytes": 2**31}) for shard in manifest.shards),
            "index": describe_index(index),
        }
    )
    save_manifest(Storage(str(out)), claim, index)
    tracemalloc.start()
    found = differences(out, capsys)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**28
    assert any("frame 0 cannot be in a shard of" in line for line in found)


def test_shards_are_counted_as_by_convert(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = manifest_of(prepared)
    assert main(["convert", str(prepared.with_name("tiny")), str(prepared), "--format", manifest.layout]) == 0
    converted = json.loads(capsys.readouterr().out.splitlines()[-1])["shards"]
    assert main(["verify", str(prepared)]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert (verified["shards"], verified["metadata_objects"]) == (converted, len(manifest.shards) - converted)


def test_a_missing_shard_is_named(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest_of(prepared).shards[0].path
    (prepared / path).unlink()
    assert differences(prepared, capsys) == [f"{path}: is missing"]


def test_a_damaged_record_is_named_by_trajectory_and_frame(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, index = load_manifest(Storage(str(prepared)))
    row = index[2]
    damage(first_shard(prepared), int(row["offset"] + row["bytes"] - 1))
    by_checksum, by_record = differences(prepared, capsys)
    assert by_checksum.startswith(f"{manifest.shards[0].path}: crc32c ")
    assert "train/a.hdf5#0 frame 2 is damaged" in by_record


def test_a_shard_cut_short_is_named(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = first_shard(prepared)
    path.write_bytes(path.read_bytes()[:-1])
    assert "but the manifest says" in differences(prepared, capsys)[0]


def test_a_shard_that_grew_is_named(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = first_shard(prepared)
    path.write_bytes(path.read_bytes() + b"x")
    (found,) = differences(prepared, capsys)
    assert "bytes, but at most" in found


def test_damage_outside_the_records_is_found(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(first_shard(prepared), -1)
    assert any("crc32c" in line for line in differences(prepared, capsys))


def test_one_shard_can_be_looked_at_alone(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = manifest_of(prepared)
    damage(first_shard(prepared), 100)
    sound = next(shard.path for shard in manifest.shards if shard.path.startswith("valid"))
    assert differences(prepared, capsys, "--shard", sound, expected_code=0) == []
    assert differences(prepared, capsys, "--shard", manifest.shards[0].path)


def test_an_unknown_shard_is_refused(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(prepared), "--shard", "nothing.tar"]) == 2
    assert "lists no shard `nothing.tar`" in capsys.readouterr().err


def test_values_that_differ_from_the_source_are_named(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def edit(file: object) -> None:
        file["t0_fields/pressure"][1, 3, 2, 5] += 1
        file["t0_fields/depth"][0, 1, 1] = 9

    source = prepared.with_name("tiny")
    write_dataset(source, fields=FIELDS, edit=edit)
    found = differences(prepared, capsys, "--against", str(source))
    assert len(found) == 8
    assert any(
        line.startswith("train/b.hdf5#1 frame 3: 1 values differ from the source, the first in `pressure` at (2, 5)")
        for line in found
    )
    assert any(line.startswith("valid/a.hdf5#0 constants: 1 values differ") for line in found)


def test_a_negative_zero_is_not_a_zero(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bit by bit, not by ==."""
    layout = manifest_of(prepared).layout
    for name, zero in (("plus", 0.0), ("minus", -0.0)):
        write_dataset(tmp_path / name, edit=lambda file, zero=zero: file["t0_fields/pressure"].__setitem__(..., zero))
    assert main(["convert", str(tmp_path / "plus"), str(tmp_path / "zeros"), "--format", layout]) == 0
    assert differences(tmp_path / "zeros", capsys, "--against", str(tmp_path / "minus"))


def test_another_source_is_told_apart_by_its_headers(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "other", fields=FIELDS, axes={"x": 4, "y": 8})
    found = differences(prepared, capsys, "--against", str(tmp_path / "other"))
    assert any("dataset.resolution" in line for line in found)


def test_trajectories_that_the_dataset_lacks_are_named(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = prepared.with_name("tiny")
    (source / "data" / "test" / "b.hdf5").write_bytes((source / "data" / "test" / "a.hdf5").read_bytes())
    (found,) = differences(prepared, capsys, "--against", str(source))
    assert "`test/b.hdf5#0`" in found


def rewritten(folder: Path, change: Callable[[np.ndarray], None]) -> None:
    """Change the index and let the manifest vouch for it."""
    storage = Storage(str(folder))
    manifest, index = load_manifest(storage)
    index = index.copy()
    change(index)
    save_manifest(storage, manifest.model_copy(update={"index": describe_index(index)}), index)


def test_an_index_that_disagrees_with_the_layout_is_found(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise a plain session would see other frames than the trainer."""

    def swap(index: np.ndarray) -> None:
        index[[0, 1]] = index[[1, 0]]

    rewritten(prepared, swap)
    (found,) = differences(prepared, capsys)
    assert "train/a.hdf5#0 frame 0 lies at" in found


def test_a_checksum_that_is_wrong_in_the_index_is_found(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewritten(prepared, lambda index: index["crc32c"].__setitem__(4, 0))
    (found,) = differences(prepared, capsys)
    assert "train/a.hdf5#0 frame 4 is damaged" in found


def test_damage_in_one_tile_is_named_and_the_others_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "tiny"
    write_dataset(source, fields=FIELDS)
    options = ("--format", "zarr", "--codec", "none", "--tile-bytes", "100")
    assert main(["convert", str(source), str(tmp_path / "out"), *options]) == 0
    _, index = load_manifest(Storage(str(tmp_path / "out")))
    damage(first_shard(tmp_path / "out"), int(index[9]["offset"]))
    write_dataset(source, fields=FIELDS, edit=lambda file: file["t0_fields/pressure"].__setitem__((0, 2), 9))
    by_checksum, by_tile, by_value, *others = differences(tmp_path / "out", capsys, "--against", str(source))
    assert "crc32c" in by_checksum
    assert "train/a.hdf5#0 frame 2 tile 1 is damaged" in by_tile
    assert by_value.startswith("train/a.hdf5#0 frame 2: 18 values differ from the source")
    assert len(others) == 3


def test_sides_that_differ_from_the_source_are_told_in_plain_words(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = prepared.with_name("tiny")
    write_dataset(source, fields=FIELDS, boundaries=())
    (found,) = differences(prepared, capsys, "--against", str(source))
    assert found == (
        "manifest.json: dataset.boundaries is (('periodic', 'periodic'), ('periodic', 'periodic')), but the source has "
        "(('open', 'open'), ('open', 'open'))"
    )


def test_objects_that_nobody_knows_are_a_warning(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (prepared / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert main(["verify", str(prepared)]) == 0
    assert "notes.txt: is not part of the dataset" in capsys.readouterr().err


def vouched_for(folder: Path, path: str, data: bytes) -> None:
    """Replace a shard and let the manifest vouch for its bytes."""
    storage = Storage(str(folder))
    manifest, index = load_manifest(storage)
    shards = tuple(
        shard.model_copy(update={"bytes": len(data), "crc32c": checksum(data)}) if shard.path == path else shard
        for shard in manifest.shards
    )
    storage.put(path, data)
    save_manifest(storage, manifest.model_copy(update={"shards": shards}), index)


def converted(folder: Path, layout: str) -> Path:
    write_dataset(folder / "tiny")
    assert main(["convert", str(folder / "tiny"), str(folder / "out"), "--format", layout]) == 0
    return folder / "out"


def test_a_zarr_shard_without_its_own_index_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = converted(tmp_path, "zarr")
    path = manifest_of(folder).shards[0].path
    vouched_for(folder, path, (folder / path).read_bytes()[:-4] + bytes(4))
    assert differences(folder, capsys) == [f"{path}: the index at its end is damaged"]


def test_a_tar_without_its_members_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = converted(tmp_path, "webdataset")
    path = folder / "train-000000.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        header = next(member for member in tar if member.name.endswith(".json")).offset_data
    data[header] = ord("[")
    vouched_for(folder, path.name, bytes(data))
    assert any("is no webdataset shard of this dataset" in line for line in differences(folder, capsys))
