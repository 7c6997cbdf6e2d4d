"""`convert --reference`: a manifest that points into the source's own files gives the values of a converted copy."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract.checksum import checksum_of_records
from data_prep.contract.errors import NotFoundError
from data_prep.contract.manifest import describe_index, load_manifest, save_manifest
from data_prep.contract.storage import Storage
from data_prep.sources.hdf5_node import HdfNode
from tests.unit.converting import contents, convert, interrupted_after, refer, stored_frames
from tests.unit.test_convert import ROUND_TRIPS
from tests.unit.tiny_well import TinyField, write_dataset, write_file
from trainer.data.dataset import open_dataset
from trainer.data.requests import Cost
from trainer.data.ring import Scratch
from trainer.data.source import Source
from trainer.data.windows import Window
from trainer.errors import IntegrityError, RefusedError

FIELDS = (
    TinyField("pressure"),
    TinyField("profile", dim_varying=(False, True)),
    TinyField("forcing", rank=1, sample_varying=False),
    TinyField("depth", time_varying=False),
    TinyField("gravity", rank=1, time_varying=False, sample_varying=False),
    TinyField("stress", rank=2),
)


@pytest.fixture(autouse=True)
def _no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """(source, its reference)."""
    write_dataset(tmp_path / "tiny", fields=FIELDS)
    assert refer(tmp_path / "tiny", tmp_path / "out") == 0
    return tmp_path / "tiny", tmp_path / "out"


@pytest.mark.parametrize("options", [*ROUND_TRIPS.values(), {"fields": FIELDS}], ids=[*ROUND_TRIPS, "all kinds"])
def test_every_value_comes_back(tmp_path: Path, options: dict[str, Any]) -> None:
    expected = write_dataset(tmp_path / "tiny", **options)
    assert refer(tmp_path / "tiny", tmp_path / "out") == 0
    frames = stored_frames(tmp_path / "out")
    assert len(frames) == sum(len(file.frames) for file in expected.values())
    for path, file in expected.items():
        for number, original in enumerate(file.frames):
            np.testing.assert_array_equal(frames[f"{path}#{number}"].view(np.uint32), original.view(np.uint32))
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert main(["verify", str(tmp_path / "out"), "--against", str(tmp_path / "tiny")]) == 0


def window(folder: Path, *, split: str) -> tuple[np.ndarray, Cost]:
    dataset = open_dataset(str(folder), split=split)
    out = np.empty(dataset.window_shape(frames=2), np.float32)
    cost = Source(dataset, frames=2).read(Window(1, 1, stride=2), out=out, scratch=Scratch())
    return out, cost


def test_training_reads_the_windows_of_a_converted_copy(folders: tuple[Path, Path], tmp_path: Path) -> None:
    source, reference = folders
    assert convert(source, tmp_path / "copy", "zarr") == 0
    for split in ("train", "valid", "test"):
        ours, _ = window(reference, split=split)
        theirs, _ = window(tmp_path / "copy", split=split)
        np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def test_the_manifest_says_what_that_of_a_copy_says(folders: tuple[Path, Path], tmp_path: Path) -> None:
    source, reference = folders
    assert convert(source, tmp_path / "copy", "zarr") == 0
    (ours, _), (theirs, _) = (load_manifest(Storage(str(folder))) for folder in (reference, tmp_path / "copy"))
    assert ours.dataset == theirs.dataset
    for name, moments in ours.statistics.items():
        assert moments.model_dump() == pytest.approx(theirs.statistics[name].model_dump(), rel=1e-9, abs=1e-12)
    assert [(run.source, run.times) for run in ours.trajectories] == [
        (run.source, run.times) for run in theirs.trajectories
    ]
    assert ours.provenance.files == theirs.provenance.files


def test_nothing_but_manifest_and_index_is_written(folders: tuple[Path, Path]) -> None:
    assert set(contents(folders[1])) == {"manifest.json", "index.npy"}


def test_frames_that_lie_together_come_by_one_request_for_each_field(tmp_path: Path) -> None:
    """Beside the two fields there is nothing; fields that lie near are joined."""
    fields = (TinyField("pressure"), TinyField("velocity", rank=1))
    write_dataset(tmp_path / "tiny", fields=fields, axes={"x": 64, "y": 64}, num_steps=12, boundaries=())
    assert refer(tmp_path / "tiny", tmp_path / "out") == 0
    dataset = open_dataset(str(tmp_path / "out"))
    out = np.empty(dataset.window_shape(frames=5), np.float32)
    cost = Source(dataset, frames=5).read(Window(0, 3), out=out, scratch=Scratch())
    assert (cost.requests, cost.bytes_read) == (2, out.nbytes)


def test_the_files_are_not_touched_even_when_a_reference_is_replaced(folders: tuple[Path, Path]) -> None:
    source, reference = folders
    before = contents(source)
    assert refer(source, reference, "--overwrite") == 0
    assert convert(source, reference, "zarr", "--overwrite") == 0
    assert refer(source, reference, "--overwrite") == 0
    assert contents(source) == before
    assert set(contents(reference)) == {"manifest.json", "index.npy"}


def test_a_stopped_reference_goes_on_and_ends_with_the_same_bytes(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, reference = folders
    with interrupted_after(3):
        assert refer(source, tmp_path / "again") == 130
    read, values = [], HdfNode.values
    monkeypatch.setattr(HdfNode, "values", lambda node, *args: read.append(node.file) or values(node, *args))
    assert refer(source, tmp_path / "again") == 0
    assert {Path(file).parent.name for file in read} == {"valid", "test"}
    assert contents(tmp_path / "again") == contents(reference)


def test_workers_make_the_same_reference(folders: tuple[Path, Path], tmp_path: Path) -> None:
    source, reference = folders
    assert refer(source, tmp_path / "shared", "--workers", "2") == 0
    assert contents(tmp_path / "shared") == contents(reference)


def test_a_reference_becomes_a_copy(folders: tuple[Path, Path], tmp_path: Path) -> None:
    source, reference = folders
    assert convert(reference, tmp_path / "copy", "webdataset") == 0
    assert main(["verify", str(tmp_path / "copy"), "--against", str(source)]) == 0


def test_values_that_are_not_finite_are_kept_as_in_a_copy(tmp_path: Path) -> None:
    def edit(file: Any) -> None:
        file["t0_fields/pressure"][1, 2, 0, 0] = np.nan

    write_dataset(tmp_path / "tiny", edit=edit)
    assert refer(tmp_path / "tiny", tmp_path / "refused") == 2
    assert refer(tmp_path / "tiny", tmp_path / "out", "--not-finite", "keep") == 0
    assert main(["verify", str(tmp_path / "out"), "--against", str(tmp_path / "tiny")]) == 0
    run = load_manifest(Storage(str(tmp_path / "out")))[0].trajectories[1]
    assert run.not_finite["pressure"].nan == 1


def test_a_user_block_before_the_file_is_counted(tmp_path: Path) -> None:
    write_dataset(tmp_path / "tiny")
    for path in (tmp_path / "tiny").rglob("*.hdf5"):
        plain = path.rename(path.with_suffix(".plain"))
        with h5py.File(plain) as old, h5py.File(path, "w", userblock_size=1024) as new:
            new.attrs.update(old.attrs)
            for name in old:
                old.copy(name, new)
        plain.unlink()
    assert refer(tmp_path / "tiny", tmp_path / "out") == 0
    assert main(["verify", str(tmp_path / "out"), "--against", str(tmp_path / "tiny")]) == 0


def test_show_says_what_it_refers_to(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    source, reference = folders
    assert main(["show", str(reference)]) == 0
    assert f"refers to {source}: 4 objects" in capsys.readouterr().out


def test_a_remote_source_is_streamed_by_a_local_reference(folders: tuple[Path, Path], tmp_path: Path) -> None:
    source, reference = folders
    remote = Storage("memory://corpora/tiny")
    for path in source.rglob("*.hdf5"):
        remote.put(str(path.relative_to(source)), path.read_bytes())
    assert main(["convert", remote.url, str(tmp_path / "far"), "--reference"]) == 0
    np.testing.assert_array_equal(window(tmp_path / "far", split="train")[0], window(reference, split="train")[0])
    assert main(["verify", str(tmp_path / "far"), "--against", str(source)]) == 0
    remote.delete_folder("")


# what happens to the source afterwards


def differences(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert main(["verify", str(folder)]) == 1
    found: list[str] = json.loads(capsys.readouterr().out)["differences"]
    return found


def test_a_value_that_changed_is_found_by_trajectory_and_frame(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, reference = folders
    path = source / "data" / "valid" / "a.hdf5"
    with h5py.File(path, "r+") as file:
        file["t0_fields/pressure"][1, 3, 0, 0] += 1
    assert differences(reference, capsys) == [
        "data/valid/a.hdf5: valid/a.hdf5#1 frame 3 `pressure` is damaged (its crc32c is not the one in index.npy)"
    ]
    with pytest.raises(IntegrityError, match=r"data/valid/a\.hdf5, window of 2 frames from frame 1"):
        window(reference, split="valid")


def test_a_source_that_was_written_anew_is_refused_by_training(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, reference = folders
    write_file(source / "data" / "train" / "b.hdf5", fields=FIELDS, num_steps=7)
    assert any("data/train/b.hdf5: has " in line for line in differences(reference, capsys))
    with pytest.raises(RefusedError, match="bytes, but the manifest says"):
        open_dataset(str(reference))


def test_a_source_that_is_gone_is_named(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    source, reference = folders
    source.rename(source.with_name("moved"))
    found = differences(reference, capsys)
    assert found[0].startswith(f"manifest.json: reference.url: {source}")
    assert f"data/train/a.hdf5: is missing in {source}" in found
    with pytest.raises(NotFoundError, match="there is no such object"):
        open_dataset(str(reference))


def test_rows_that_do_not_follow_the_files_are_found(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """`pressure` of two frames, swapped in an index whose checksums are all right: HDF5 says otherwise."""
    storage = Storage(str(folders[1]))
    manifest, index = load_manifest(storage)
    swapped, width = index.copy(), len(manifest.dataset.fields)
    swapped[[0, width]] = swapped[[width, 0]]
    crc32c = checksum_of_records(swapped["crc32c"][swapped["shard"] == 0].tolist())
    shards = (manifest.shards[0].model_copy(update={"crc32c": crc32c}), *manifest.shards[1:])
    save_manifest(storage, manifest.model_copy(update={"index": describe_index(swapped), "shards": shards}), swapped)
    (found,) = differences(folders[1], capsys)
    assert "train/a.hdf5#0 frame 0 `pressure` lies at" in found
