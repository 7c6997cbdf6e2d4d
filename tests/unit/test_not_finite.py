"""Values that are not finite: refused, their trajectories left out, or kept bit by bit and counted."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract.manifest import Manifest, NotFinite, load_manifest
from data_prep.contract.storage import Storage
from data_prep.sources.reading import read_frames
from tests.unit.converting import LAYOUTS, SMALL, contents, convert, stored_frames
from tests.unit.tiny_well import TinyField, write_dataset, write_file

FIELDS = (TinyField("pressure"), TinyField("velocity", rank=1), TinyField("depth", time_varying=False))
ODD_NAN = np.array([0x7FA12345], np.uint32).view(np.float32)[0]
"""A signalling NaN with a payload, which arithmetic would change."""
COUNTS = {"train/b.hdf5#1": {"pressure": NotFinite(nan=2, infinite=1), "depth": NotFinite(nan=1, infinite=0)}}


def spoil(file: h5py.File) -> None:
    """Trajectory 1 has a NaN in two frames, an infinity in a third, a NaN in its constants."""
    values = file["t0_fields/pressure"][()]
    values[1, 1, 2, 3], values[1, 2, 0, 0], values[1, 4, 1, 1] = ODD_NAN, np.nan, -np.inf
    file["t0_fields/pressure"][...] = values
    file["t0_fields/depth"][1, 3, 5] = np.nan


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    write_dataset(tmp_path / "tiny", fields=FIELDS)
    write_file(tmp_path / "tiny" / "data" / "train" / "b.hdf5", fields=FIELDS, seed=1, edit=spoil)
    return tmp_path / "tiny", tmp_path / "out"


def manifest_of(destination: Path) -> Manifest:
    return load_manifest(Storage(str(destination)))[0]


def original(source: Path, name: str) -> np.ndarray:
    """(time, channel, *space) of one trajectory, by h5py alone."""
    path, _, number = name.partition("#")
    with h5py.File(source / "data" / path) as file:
        pressure, velocity = file["t0_fields/pressure"][int(number)], file["t1_fields/velocity"][int(number)]
    return np.concatenate([pressure[:, None], np.moveaxis(velocity, -1, 1)], axis=1)


# ---- keep


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kept_values_come_back_bit_by_bit(folders: tuple[Path, Path], layout: str) -> None:
    assert convert(*folders, layout, "--not-finite", "keep", *SMALL) == 0
    for name, frames in stored_frames(folders[1]).items():
        np.testing.assert_array_equal(frames.view(np.uint32), original(folders[0], name).view(np.uint32))
    assert main(["verify", str(folders[1]), "--against", str(folders[0])]) == 0


def test_fewer_bits_leave_such_values_what_they_are(folders: tuple[Path, Path]) -> None:
    assert convert(*folders, "zarr", "--not-finite", "keep", "--keep-bits", "8") == 0
    found = stored_frames(folders[1])["train/b.hdf5#1"]
    exact = original(folders[0], "train/b.hdf5#1")
    spoiled = ~np.isfinite(exact)
    assert spoiled.sum() == 3
    np.testing.assert_array_equal(found[spoiled].view(np.uint32), exact[spoiled].view(np.uint32))
    np.testing.assert_allclose(found[~spoiled], exact[~spoiled], rtol=2**-9)
    manifest = manifest_of(folders[1])
    assert {run.source: run.not_finite for run in manifest.trajectories if run.not_finite} == COUNTS
    assert manifest.rounding is not None
    assert 0 < (manifest.rounding["pressure"].vrmse or 0) < 1e-2
    assert main(["verify", str(folders[1]), "--against", str(folders[0])]) == 0


@pytest.mark.parametrize("shard_bytes", ["700", "256M"], ids=["in pieces of a trajectory", "at once"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kept_values_are_counted_by_trajectory_and_channel(
    folders: tuple[Path, Path], layout: str, shard_bytes: str
) -> None:
    assert convert(*folders, layout, "--not-finite", "keep", "--shard-bytes", shard_bytes) == 0
    assert {run.source: run.not_finite for run in manifest_of(folders[1]).trajectories if run.not_finite} == COUNTS


def test_statistics_are_of_finite_values_alone(folders: tuple[Path, Path]) -> None:
    assert convert(*folders, "zarr", "--not-finite", "keep", "--shard-bytes", "700") == 0
    found = manifest_of(folders[1]).statistics["pressure"]
    runs = [original(folders[0], f"train/{file}.hdf5#{number}")[:, 0] for file in "ab" for number in (0, 1)]
    with np.errstate(invalid="ignore"):
        values = np.stack(runs).astype(np.float64)
        change = np.diff(values, axis=1)
    values, change = values[np.isfinite(values)], change[np.isfinite(change)]
    expected = (values.mean(), values.std(), change.mean(), change.std())
    np.testing.assert_allclose((found.mean, found.std, found.mean_delta, found.std_delta), expected, rtol=1e-9)


def test_a_conversion_that_kept_them_is_not_one_that_refuses(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(*folders, "zarr", "--not-finite", "keep") == 0
    assert convert(*folders, "zarr", "--not-finite", "keep") == 0
    assert convert(*folders, "zarr") == 2
    assert "is of another conversion (`trajectories` differs)" in capsys.readouterr().err


def test_a_refused_conversion_goes_on_once_it_may_keep_them(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(*folders, "zarr", *SMALL) == 2
    assert "convert with `--not-finite skip`" in capsys.readouterr().err
    assert convert(*folders, "zarr", "--not-finite", "keep", *SMALL) == 0
    assert json.loads(capsys.readouterr().out)["kept_shards"] > 0


def test_a_prepared_dataset_with_such_values_is_a_source_like_any_other(folders: tuple[Path, Path]) -> None:
    again = folders[1].with_name("again")
    assert convert(*folders, "zarr", "--not-finite", "keep") == 0
    assert convert(folders[1], again, "webdataset") == 2
    assert convert(folders[1], again, "webdataset", "--not-finite", "keep", "--overwrite") == 0
    assert {run.source: run.not_finite for run in manifest_of(again).trajectories if run.not_finite} == COUNTS


# ---- skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_skipped_trajectory_is_left_out_and_named(
    folders: tuple[Path, Path], layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(*folders, layout, "--not-finite", "skip", *SMALL) == 0
    said = capsys.readouterr()
    assert "warning: train/b.hdf5#1 of " in said.err
    assert "`pressure`: 2 NaN and 1 infinite; `depth`: 1 NaN and 0 infinite" in said.err
    assert json.loads(said.out)["left_out"] == ["train/b.hdf5#1"]
    manifest = manifest_of(folders[1])
    assert {run.source: run.not_finite for run in manifest.provenance.left_out} == COUNTS
    assert len(manifest.trajectories) == 7
    assert all(np.isfinite(frames).all() for frames in stored_frames(folders[1]).values())
    assert main(["verify", str(folders[1]), "--against", str(folders[0])]) == 0


def test_workers_find_what_one_process_finds(folders: tuple[Path, Path]) -> None:
    assert convert(*folders, "zarr", "--not-finite", "skip", *SMALL) == 0
    alone = folders[1].with_name("alone")
    folders[1].rename(alone)
    assert convert(*folders, "zarr", "--not-finite", "skip", "--workers", "2", *SMALL) == 0
    assert contents(folders[1]) == contents(alone)


def test_skipping_again_changes_nothing_and_reads_nothing(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert convert(*folders, "zarr", "--not-finite", "skip") == 0
    before = contents(folders[1])
    monkeypatch.setattr("data_prep.conversion.scan.read_frames", None)
    assert convert(*folders, "zarr", "--not-finite", "skip") == 0
    assert contents(folders[1]) == before


def test_a_stopped_search_goes_on_where_it_was(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def reading(reader: object, run: object, *args: object, **options: object) -> np.ndarray:
        read.append(run.file)
        if len(read) == 5:
            raise KeyboardInterrupt
        return read_frames(reader, run, *args, **options)

    monkeypatch.setattr("data_prep.conversion.scan.read_frames", reading)
    assert convert(*folders, "zarr", "--not-finite", "skip") == 130
    assert convert(*folders, "zarr", "--not-finite", "skip") == 0
    assert read == [
        f"{file}.hdf5" for file in ("train/a", "train/a", "train/b", "train/b", *("valid/a",) * 3, *("test/a",) * 2)
    ]


def test_parts_leave_out_the_same(folders: tuple[Path, Path]) -> None:
    alone = folders[1].with_name("alone")
    assert convert(folders[0], alone, "zarr", "--not-finite", "skip", *SMALL) == 0
    for part in ("1/2", "0/2"):
        assert convert(*folders, "zarr", "--not-finite", "skip", "--part", part, *SMALL) == 0
    assert contents(folders[1]) == contents(alone)


def test_nothing_left_to_train_on_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(tmp_path / "tiny/data/train/a.hdf5", fields=FIELDS, edit=spoil, num_trajectories=2)
    with h5py.File(tmp_path / "tiny/data/train/a.hdf5", "r+") as file:
        file["t1_fields/velocity"][0, 0, 0, 0, 0] = np.inf
    assert convert(tmp_path / "tiny", tmp_path / "out", "zarr", "--not-finite", "skip") == 2
    assert "every trajectory of its train split has values that are not finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_refused_conversion_leaves_no_folder_that_it_made(folders: tuple[Path, Path]) -> None:
    """Nor those above it; one that was there before stays."""
    assert convert(folders[0], folders[1] / "deep" / "deeper", "zarr") == 2
    assert not folders[1].exists()
    folders[1].mkdir()
    assert convert(folders[0], folders[1] / "deep", "zarr") == 2
    assert list(folders[1].iterdir()) == []


def test_a_dry_run_does_not_look_at_values(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(*folders, "zarr", "--not-finite", "skip", "--dry-run") == 0
    said = capsys.readouterr()
    assert "only their values tell" in said.err
    assert json.loads(said.out)["trajectories"] == 8
    assert not folders[1].exists()


# ---- the manifest


def test_a_manifest_of_finite_values_says_nothing_of_others(tmp_path: Path) -> None:
    """So that readers who do not know of them go on reading it."""
    write_dataset(tmp_path / "tiny")
    assert convert(tmp_path / "tiny", tmp_path / "out", "webdataset") == 0
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert "not_finite" not in text.replace("--not-finite", "")
    assert "left_out" not in text


def test_counts_of_channels_that_are_none_are_refused(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(*folders, "zarr", "--not-finite", "keep") == 0
    path = folders[1] / "manifest.json"
    path.write_text(path.read_text().replace('"not_finite":{"pressure"', '"not_finite":{"presure"'))
    assert main(["verify", str(folders[1])]) == 2
    assert "not_finite names ['presure']" in capsys.readouterr().err
