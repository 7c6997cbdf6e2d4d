"""Conversion stopped, repeated, overwritten: idempotent, and never half-written."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract.manifest import load_manifest
from data_prep.contract.storage import Storage
from tests.unit.converting import LAYOUTS, SMALL, contents, convert
from tests.unit.tiny_well import write_dataset, write_file


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


class PowerCut(BaseException):
    """Nothing catches it."""


def test_converting_twice_gives_the_same_bytes(folders: tuple[Path, Path], layout: str) -> None:
    source, destination = folders
    convert(source, destination, layout, *SMALL)
    convert(source, destination.with_name("again"), layout, *SMALL)
    assert contents(destination) == contents(destination.with_name("again"))


@pytest.mark.parametrize("num_puts", [0, 1, 2, 5, 9])
def test_stopped_anywhere_and_started_again_gives_the_same_bytes(
    folders: tuple[Path, Path], layout: str, num_puts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = folders
    convert(source, destination.with_name("whole"), layout, *SMALL)
    put = Storage.put
    remaining = iter(range(num_puts))

    def failing_put(self: Storage, path: str, data: bytes) -> None:
        if next(remaining, None) is None:
            raise PowerCut
        put(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put", failing_put)
        with pytest.raises(PowerCut):
            convert(source, destination, layout, *SMALL)
    assert not (destination / "manifest.json").exists()
    assert convert(source, destination, layout, *SMALL) == 0
    assert contents(destination) == contents(destination.with_name("whole"))


def test_finished_shards_are_kept(
    folders: tuple[Path, Path], layout: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.conversion.convert.save_manifest", lambda *args: (_ for _ in ()).throw(PowerCut))
        with pytest.raises(PowerCut):
            convert(*folders, layout, *SMALL)
    convert(*folders, layout, *SMALL)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["written_shards"] == 0
    assert summary["kept_shards"] == summary["shards"]


def test_a_shard_that_got_lost_meanwhile_is_made_again(
    folders: tuple[Path, Path], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = folders
    convert(source, destination.with_name("whole"), layout, *SMALL)
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.conversion.convert.save_manifest", lambda *args: (_ for _ in ()).throw(PowerCut))
        with pytest.raises(PowerCut):
            convert(source, destination, layout, *SMALL)
    manifest, _ = load_manifest(Storage(str(destination.with_name("whole"))))
    (destination / manifest.shards[1].path).write_bytes(b"cut short")
    assert convert(source, destination, layout, *SMALL) == 0
    assert contents(destination) == contents(destination.with_name("whole"))


def test_a_damaged_note_of_progress_is_no_obstacle(
    folders: tuple[Path, Path], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = folders
    convert(source, destination.with_name("whole"), layout, *SMALL)
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.conversion.convert.save_manifest", lambda *args: (_ for _ in ()).throw(PowerCut))
        with pytest.raises(PowerCut):
            convert(source, destination, layout, *SMALL)
    notes = [path for path in (destination / ".progress").rglob("*.json") if path.name != "plan.json"]
    for note, damage in zip(sorted(notes), ["", "{", "[]", '{"digest": 1}'], strict=False):
        note.write_text(damage)
    assert convert(source, destination, layout, *SMALL) == 0
    assert contents(destination) == contents(destination.with_name("whole"))


def test_a_finished_conversion_says_so(
    folders: tuple[Path, Path], layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(*folders, layout)
    before = contents(folders[1])
    assert convert(*folders, layout) == 0
    assert "is complete already" in capsys.readouterr().err
    assert contents(folders[1]) == before


def test_nothing_remains_of_the_progress(folders: tuple[Path, Path], layout: str) -> None:
    convert(*folders, layout)
    assert list(folders[1].rglob(".*")) == []


def test_other_options_do_not_touch_a_finished_dataset(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    convert(*folders, "zarr")
    before = contents(folders[1])
    assert convert(*folders, "webdataset") == 2
    assert "is of another conversion (`layout` differs)" in capsys.readouterr().err
    assert convert(*folders, "zarr", "--codec", "none") == 2
    assert convert(*folders, "zarr", *SMALL) == 2
    assert contents(folders[1]) == before


def test_overwriting_leaves_nothing_of_the_old(folders: tuple[Path, Path]) -> None:
    source, destination = folders
    convert(source, destination, "zarr", *SMALL)
    assert convert(source, destination, "webdataset", "--overwrite") == 0
    convert(source, destination.with_name("fresh"), "webdataset")
    assert contents(destination) == contents(destination.with_name("fresh"))
    assert not (destination / "train").exists()


def test_overwriting_removes_nothing_where_something_else_lies(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    convert(*folders, "zarr", *SMALL)
    (folders[1] / "notes.txt").write_text("mine")
    before = contents(folders[1])
    assert convert(*folders, "webdataset", "--overwrite") == 2
    assert f"{folders[1] / 'notes.txt'}: lies in the dataset" in capsys.readouterr().err
    assert contents(folders[1]) == before


def test_overwriting_removes_nothing_behind_a_link(folders: tuple[Path, Path]) -> None:
    """A dataset whose shards were moved and linked to, or one from elsewhere that means no good."""
    source, destination = folders
    convert(source, destination, "zarr", *SMALL)
    elsewhere = destination.with_name("elsewhere")
    (destination / "train").rename(elsewhere)
    (destination / "train").symlink_to(elsewhere)
    before = contents(elsewhere)
    assert main(["verify", str(destination)]) == 0
    assert convert(source, destination, "webdataset", "--overwrite") == 0
    assert contents(elsewhere) == before


def test_overwriting_stopped_half_way_can_be_done_again(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = folders
    convert(source, destination, "zarr", *SMALL)
    delete, remaining = Storage.delete, iter(range(3))

    def failing_delete(self: Storage, path: str) -> None:
        if next(remaining, None) is None:
            raise PowerCut
        delete(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete", failing_delete)
        with pytest.raises(PowerCut):
            convert(source, destination, "webdataset", "--overwrite")
    assert convert(source, destination, "webdataset", "--overwrite") == 0
    convert(source, destination.with_name("fresh"), "webdataset")
    assert contents(destination) == contents(destination.with_name("fresh"))


def test_a_folder_with_other_files_is_left_alone(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folders[1].mkdir()
    (folders[1] / "thesis.tex").write_text("years of work")
    for options in ((), ("--overwrite",)):
        assert convert(*folders, "zarr", *options) == 2
        assert "holds no conversion (`thesis.tex` is there)" in capsys.readouterr().err
    assert contents(folders[1]).keys() == {"thesis.tex"}


def test_a_dataset_is_not_converted_into_itself(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    convert(*folders, "zarr")
    before = contents(folders[1])
    assert convert(folders[1], folders[1], "webdataset", "--overwrite") == 2
    assert "is the source itself" in capsys.readouterr().err
    assert contents(folders[1]) == before


def test_a_destination_that_is_a_file_is_refused_before_the_source_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert convert(tmp_path / "nothing", tmp_path / "README.md", "zarr") == 2
    assert capsys.readouterr().err == f"refused: {tmp_path}/README.md: is a file; give an empty folder\n"
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("place", ["file/below", "dangling"])
def test_a_destination_that_cannot_be_written_is_refused_before_the_source_is_read(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    assert convert(tmp_path / "nothing", tmp_path / place, "zarr") == 2
    assert f"{tmp_path / place}: cannot be written (is no folder); give an empty folder" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here; a file in the way is covered above")
def test_a_destination_in_a_folder_that_takes_no_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(tmp_path / "nothing", Path("/proc/foo"), "zarr") == 2
    assert "refused: /proc/foo: cannot be written (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        ("tiny/data/out", "lies inside the source"),
        (".", "lies inside it"),
        ("prepared/more/out", "lies inside the prepared dataset"),
    ],
)
def test_a_destination_mixed_up_with_a_dataset_is_refused(
    folders: tuple[Path, Path], destination: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = folders[0], folders[0].parent
    convert(source, folder / "prepared", "zarr")
    before = contents(folder)
    assert convert(source, folder / destination, "zarr", "--overwrite") == 2
    assert message in capsys.readouterr().err
    assert contents(folder) == before


def test_a_repaired_file_goes_on_with_the_shards_of_the_others(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, destination = folders
    bad = source / "data" / "valid" / "a.hdf5"
    write_file(bad, seed=2, scalars={"gamma": 1.4}, edit=lambda file: file["t0_fields/pressure"].__setitem__(0, np.nan))
    assert convert(source, destination, "zarr", *SMALL) == 2
    write_file(bad, seed=2, scalars={"gamma": 1.4})
    assert convert(source, destination, "zarr", *SMALL) == 0
    assert json.loads(capsys.readouterr().out)["kept_shards"] > 0
    assert main(["verify", str(destination), "--against", str(source)]) == 0


def test_a_file_that_changes_meanwhile_is_refused(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("data_prep.sources.well.WellSource.fingerprint_of", lambda self, file: "changed")
    assert convert(*folders, "zarr") == 2
    assert "train/a.hdf5 of" in capsys.readouterr().err
    assert not (folders[1] / "manifest.json").exists()


def test_a_missing_shard_of_a_finished_dataset_is_named(
    folders: tuple[Path, Path], layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(*folders, layout)
    manifest, _ = load_manifest(Storage(str(folders[1])))
    (folders[1] / manifest.shards[0].path).unlink()
    assert convert(*folders, layout) == 2
    assert f"{manifest.shards[0].path}: no such object, though the manifest lists it" in capsys.readouterr().err
