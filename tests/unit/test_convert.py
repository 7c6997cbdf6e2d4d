"""Conversion: every value comes back, and what cannot be converted is refused whole."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract.checksum import checksum
from data_prep.contract.errors import RefusedError
from data_prep.contract.manifest import load_manifest
from data_prep.contract.storage import Storage
from data_prep.layouts.zarr_writer import CHUNK_ALIGNMENT, CRC32C
from data_prep.sources.prepared import open_prepared
from data_prep.sources.well import open_well
from tests.unit.converting import LAYOUTS, SMALL, contents, convert, stored_frames
from tests.unit.tiny_well import TinyField, write_dataset, write_file

WITH_CONSTANTS = (TinyField("pressure"), TinyField("velocity", rank=1), TinyField("depth", time_varying=False))


@pytest.fixture(autouse=True)
def _no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk is what these tests would mostly do; none of them cuts the power."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    write_dataset(tmp_path / "tiny", scalars={"gamma": 1.4})
    return tmp_path / "tiny", tmp_path / "out"


def compress_pressure(file: h5py.File) -> None:
    """Its values are read through HDF5, those of the other fields plainly."""
    values = file["t0_fields/pressure"][()]
    attributes = dict(file["t0_fields/pressure"].attrs)
    del file["t0_fields/pressure"]
    file["t0_fields"].create_dataset("pressure", data=values, compression="gzip").attrs.update(attributes)


ROUND_TRIPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "constants": {"fields": WITH_CONSTANTS},
    "three dimensions": {"axes": {"x": 3, "y": 4, "z": 2}, "boundaries": ()},
    "tensors": {"fields": (TinyField("stress", rank=2), TinyField("density"))},
    "one step": {"num_steps": 1},
    "one trajectory": {"num_trajectories": 1},
    "axes left out": {"fields": (TinyField("profile", dim_varying=(False, True), drops_axes=True),)},
    "scalars that change": {"scalars": {"ramp": np.arange(5.0), "each": np.array([1.0, 2.0])}},
    "times by trajectory": {"times": np.array([[0, 1, 2, 3, 4], [0, 2, 4, 6, 9]])},
}


OF_ALL_STORAGE = ROUND_TRIPS | {"one field compressed": {"edit": compress_pressure}}


CUT = ("--tile-bytes", "50")
WAYS: dict[str, tuple[str, ...]] = {
    "tars": ("webdataset",),
    "zarr": ("zarr",),
    "zarr, zstd": ("zarr", "--codec", "blosc-zstd"),
    "tiles": ("zarr", *CUT),
    "plain tiles": ("zarr", "--codec", "none", *CUT),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("options", OF_ALL_STORAGE.values(), ids=OF_ALL_STORAGE)
def test_every_value_comes_back(tmp_path: Path, way: tuple[str, ...], options: dict[str, Any]) -> None:
    expected = write_dataset(tmp_path / "tiny", **options)
    assert convert(tmp_path / "tiny", tmp_path / "out", *way, *SMALL) == 0
    assert (load_manifest(Storage(str(tmp_path / "out")))[0].tile is not None) == ("--tile-bytes" in way)
    frames = stored_frames(tmp_path / "out")
    assert len(frames) == sum(len(file.frames) for file in expected.values())
    for path, file in expected.items():
        for number, original in enumerate(file.frames):
            np.testing.assert_array_equal(frames[f"{path}#{number}"].view(np.uint32), original.view(np.uint32))
    assert_source_checksums(tmp_path / "tiny", tmp_path / "out")
    assert main(["verify", str(tmp_path / "out"), "--against", str(tmp_path / "tiny")]) == 0


@pytest.mark.parametrize("options", [("--codec", "none"), ("--codec", "blosc-lz4"), CUT])
def test_chunks_begin_at_a_line_of_a_processors_cache(folders: tuple[Path, Path], options: tuple[str, ...]) -> None:
    assert convert(*folders, "zarr", *options) == 0
    _, index = load_manifest(Storage(str(folders[1])))
    assert (index["offset"] % CHUNK_ALIGNMENT).max() == 0
    assert ((index["bytes"] + CRC32C.size) % CHUNK_ALIGNMENT).any(), "or they would begin there anyway"


def assert_source_checksums(source: Path, destination: Path) -> None:
    """The provenance has those of the whole files, of which each shard has read a part."""
    manifest, _ = load_manifest(Storage(str(destination)))
    for file in manifest.provenance.files:
        data = (source / "data" / file.path).read_bytes()
        assert (file.bytes, file.crc32c) == (len(data), checksum(data))


def test_values_behind_a_user_block_come_back(tmp_path: Path) -> None:
    """All places in such a file are counted from behind it."""
    expected = write_file(tmp_path / "plain.hdf5")
    moved = tmp_path / "tiny" / "data" / "train" / "a.hdf5"
    moved.parent.mkdir(parents=True)
    with h5py.File(tmp_path / "plain.hdf5") as plain, h5py.File(moved, "w", userblock_size=1024) as file:
        file.attrs.update(plain.attrs)
        for name in plain:
            plain.copy(name, file)
    assert convert(tmp_path / "tiny", tmp_path / "out", "zarr", "--codec", "none", *SMALL) == 0
    frames = stored_frames(tmp_path / "out")
    for number, original in enumerate(expected.frames):
        np.testing.assert_array_equal(frames[f"train/a.hdf5#{number}"], original)
    assert_source_checksums(tmp_path / "tiny", tmp_path / "out")


def test_frames_that_need_no_tiles_are_stored_as_if_there_were_none(folders: tuple[Path, Path]) -> None:
    """To the byte, and the manifest has no key that an older reader would not know."""
    source, destination = folders
    convert(source, destination, "zarr")
    convert(source, destination.with_name("large tiles"), "zarr", "--tile-bytes", "1G")
    assert b'"tile"' not in (destination / "manifest.json").read_bytes()
    one, other = contents(destination), contents(destination.with_name("large tiles"))
    one.pop("manifest.json"), other.pop("manifest.json")  # the one has the option in its command
    assert one == other


def test_a_tiled_dataset_changes_its_layout(folders: tuple[Path, Path]) -> None:
    source, destination = folders
    convert(source, destination, "zarr", *CUT)
    assert convert(destination, destination.with_name("tars"), "webdataset") == 0
    assert main(["verify", str(destination.with_name("tars")), "--against", str(source)]) == 0


def test_tiles_in_tars_are_refused(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(*folders, "webdataset", *CUT) == 2
    assert "samples of tars are whole arrays; take --format zarr" in capsys.readouterr().err


def test_a_conversion_with_other_tiles_is_another(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    convert(*folders, "zarr", *CUT)
    assert convert(*folders, "zarr") == 2
    assert "is of another conversion (`tile` differs)" in capsys.readouterr().err


def test_trajectories_of_different_length_come_back(tmp_path: Path, layout: str) -> None:
    short = write_file(tmp_path / "tiny" / "data" / "train" / "a.hdf5", num_steps=3)
    long = write_file(tmp_path / "tiny" / "data" / "train" / "b.hdf5", num_steps=8)
    assert convert(tmp_path / "tiny", tmp_path / "out", layout) == 0
    frames = stored_frames(tmp_path / "out")
    np.testing.assert_array_equal(frames["train/a.hdf5#1"], short.frames[1])
    np.testing.assert_array_equal(frames["train/b.hdf5#1"], long.frames[1])


def test_a_trajectory_longer_than_a_shard_is_split_in_time(tmp_path: Path, layout: str) -> None:
    expected = write_dataset(tmp_path / "tiny", num_steps=9, fields=WITH_CONSTANTS)
    assert convert(tmp_path / "tiny", tmp_path / "out", layout, "--shard-bytes", "700") == 0
    np.testing.assert_array_equal(stored_frames(tmp_path / "out")["train/b.hdf5#1"], expected["train/b.hdf5"].frames[1])


def test_constants_are_one_record_after_the_frames(tmp_path: Path, layout: str) -> None:
    expected = write_dataset(tmp_path / "tiny", fields=WITH_CONSTANTS)
    convert(tmp_path / "tiny", tmp_path / "out", layout, *SMALL)
    source = open_prepared(Storage(str(tmp_path / "out")))
    constants = np.empty(source.spec.constant_shape, np.float32)
    with source.reader() as reader:
        for run in source.trajectories:
            reader.read_constants(run, out=constants)
            np.testing.assert_array_equal(constants, expected[run.file].constants[run.number])


def test_statistics_are_those_of_the_train_split(folders: tuple[Path, Path], layout: str) -> None:
    convert(*folders, layout, *SMALL)
    manifest, _ = load_manifest(Storage(str(folders[1])))
    frames = [run for name, run in stored_frames(folders[1]).items() if name.startswith("train/")]
    values = np.concatenate(frames).astype(np.float64)
    change = np.concatenate([np.diff(run.astype(np.float64), axis=0) for run in frames])
    for channel, name in enumerate(manifest.dataset.channels):
        stored = manifest.statistics[name]
        found = (stored.mean, stored.std, stored.mean_delta, stored.std_delta)
        mine, mine_change = values[:, channel], change[:, channel]
        np.testing.assert_allclose(found, (mine.mean(), mine.std(), mine_change.mean(), mine_change.std()), rtol=1e-9)


def test_a_prepared_dataset_changes_its_layout(folders: tuple[Path, Path]) -> None:
    source, destination = folders
    convert(source, destination, "zarr")
    assert convert(destination, destination.with_name("tars"), "webdataset") == 0
    assert main(["verify", str(destination.with_name("tars")), "--against", str(source)]) == 0


def test_values_that_are_not_finite_are_counted_and_refused(
    tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(file: Any) -> None:
        file["t0_fields/pressure"][1, 3, 0, :2] = np.nan
        file["t1_fields/velocity"][1, 4, 0, 0, 1] = np.inf

    write_file(tmp_path / "tiny" / "data" / "train" / "a.hdf5", edit=edit)
    assert convert(tmp_path / "tiny", tmp_path / "out", layout) == 2
    message = capsys.readouterr().err
    assert f"refused: {tmp_path}/tiny/data/train/a.hdf5#1: 2 frames, the first of them 3," in message
    assert "`pressure`: 2 NaN and 0 infinite; `velocity_y`: 0 NaN and 1 infinite" in message
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_constants_that_are_not_finite_are_refused(
    tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(file: Any) -> None:
        file["t0_fields/depth"][0, 0, 0] = np.nan

    write_file(tmp_path / "tiny" / "data" / "train" / "a.hdf5", fields=WITH_CONSTANTS, edit=edit)
    assert convert(tmp_path / "tiny", tmp_path / "out", layout) == 2
    assert (
        "train/a.hdf5#0: constant fields have values that are not finite as float32 (`depth`: 1 NaN"
        in capsys.readouterr().err
    )


def test_values_beyond_single_precision_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def edit(file: Any) -> None:
        file["t0_fields/pressure"][0, 0, 0, 0] = 1e300

    write_file(tmp_path / "tiny" / "data" / "train" / "a.hdf5", fields=(TinyField("pressure", dtype="f8"),), edit=edit)
    assert convert(tmp_path / "tiny", tmp_path / "out", "zarr") == 2
    assert "`pressure`: 0 NaN and 1 infinite" in capsys.readouterr().err


def test_a_source_without_train_split_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(tmp_path / "tiny" / "data" / "test" / "a.hdf5")
    assert convert(tmp_path / "tiny", tmp_path / "out", "zarr") == 2
    assert "has no files in data/train" in capsys.readouterr().err


def test_a_full_disk_is_one_message(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert convert(*folders, "zarr") == 1
    assert "storage failed: OSError: [Errno 28] No space left on device" in capsys.readouterr().err
    assert [path for path in folders[1].rglob("*") if path.is_file()] == []


def test_a_dry_run_writes_nothing(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(*folders, "zarr", "--dry-run") == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 40
    assert not folders[1].exists()


def test_compression_of_tars_is_refused(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(*folders, "webdataset", "--codec", "blosc-lz4") == 2
    assert "tar shards hold plain .npy members" in capsys.readouterr().err


def test_an_axis_that_is_named_like_an_array_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_file(tmp_path / "tiny" / "data" / "train" / "a.hdf5", axes={"times": 4, "y": 6}, boundaries=())
    assert convert(tmp_path / "tiny", tmp_path / "out", "zarr") == 2
    assert "`times` names two arrays" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_memory_storage_takes_a_conversion(folders: tuple[Path, Path]) -> None:
    url = "memory://converted/tiny"
    assert main(["convert", str(folders[0]), url, "--format", "zarr"]) == 0
    assert main(["verify", url, "--against", str(folders[0])]) == 0
    Storage(url).delete_folder("")


def test_headers_alone_are_read_to_open_a_source(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RefusedError("read field data")

    monkeypatch.setattr("data_prep.sources.well.HdfNode.values", fail)
    assert len(open_well(str(folders[0])).trajectories) == 8
