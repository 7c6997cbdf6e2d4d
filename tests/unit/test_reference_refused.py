"""`convert --reference` says what keeps values from being referred to, by place, and what to do instead."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from data_prep.__main__ import main
from data_prep.contract.errors import RefusedError
from data_prep.contract.storage import Storage
from data_prep.sources.hdf5_node import HdfNode
from tests.unit.converting import convert, refer
from tests.unit.tiny_well import TinyField, write_dataset, write_file
from trainer.data.dataset import open_dataset


@pytest.fixture(autouse=True)
def _no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """(source, its reference)."""
    write_dataset(tmp_path / "tiny")
    assert refer(tmp_path / "tiny", tmp_path / "out") == 0
    return tmp_path / "tiny", tmp_path / "out"


def rewritten(**storage: Any) -> Callable[[h5py.File], None]:
    """An edit that stores `pressure` in another way."""

    def edit(file: h5py.File) -> None:
        old = file["t0_fields/pressure"]
        values, flags = old[()], dict(old.attrs)
        del file["t0_fields/pressure"]
        new = file["t0_fields"].create_dataset("pressure", data=values, **storage)
        new.attrs.update(flags)

    return edit


@pytest.mark.parametrize(
    ("storage", "found"),
    [
        ({"chunks": (1, 1, 4, 6)}, "in chunks of (1, 1, 4, 6)"),
        ({"compression": "gzip", "chunks": (1, 5, 4, 6)}, "compressed with gzip and in chunks of (1, 5, 4, 6)"),
        ({"dtype": ">f4"}, "of type >f4"),
        ({"dtype": "<f8"}, "of type <f8"),
        ({"dtype": "<i2"}, "of type <i2"),
    ],
)
def test_what_is_stored_otherwise_is_refused_by_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], storage: dict[str, Any], found: str
) -> None:
    write_dataset(tmp_path / "tiny")
    write_file(tmp_path / "tiny" / "data" / "valid" / "a.hdf5", edit=rewritten(**storage))
    assert refer(tmp_path / "tiny", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert f"valid/a.hdf5:/t0_fields/pressure: its values are stored {found}; only contiguous" in message
    assert "convert this dataset with `--format zarr` instead" in message
    assert not (tmp_path / "out").exists()


def test_values_in_the_header_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def compact(file: h5py.File) -> None:
        old = file["t0_fields/pressure"]
        values, flags = old[()], dict(old.attrs)
        del file["t0_fields/pressure"]
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_layout(h5py.h5d.COMPACT)
        space, name = h5py.h5s.create_simple(values.shape), b"pressure"
        raw = h5py.h5d.create(file["t0_fields"].id, name, h5py.h5t.IEEE_F32LE, space, settings)
        new = h5py.Dataset(raw)
        new[...] = values
        new.attrs.update(flags)

    write_file(tmp_path / "tiny" / "data" / "train" / "a.hdf5", edit=compact)
    assert refer(tmp_path / "tiny", tmp_path / "out") == 2
    assert "in the file's header, or not written yet" in capsys.readouterr().err


def test_files_that_keep_other_axes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "tiny", fields=(TinyField("profile", dim_varying=(False, True)),))
    full = (TinyField("profile"),)
    write_file(tmp_path / "tiny" / "data" / "test" / "a.hdf5", fields=full)
    assert refer(tmp_path / "tiny", tmp_path / "out") == 2
    assert "store their fields along different axes" in capsys.readouterr().err


def test_a_file_name_that_no_manifest_may_have_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(tmp_path / "tiny" / "data" / "train" / "Re = 100.hdf5")
    assert refer(tmp_path / "tiny", tmp_path / "out") == 2
    assert "Re = 100.hdf5: a manifest cannot refer to a file of this name" in capsys.readouterr().err


def test_a_prepared_source_is_refused(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    source, reference = folders
    convert(source, reference.with_name("copy"), "zarr")
    assert refer(reference.with_name("copy"), reference.with_name("again")) == 2
    assert "is no folder of HDF5 files; take --format" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [("--codec", "none"), ("--shard-bytes", "1M"), ("--tile-bytes", "1M"), ("--keep-bits", "9")]
)
def test_options_of_a_copy_are_refused(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], option: tuple[str, ...]
) -> None:
    assert refer(folders[0], folders[1].with_name("again"), *option) == 2
    assert f"{option[0]}: --reference leaves values where and as they are" in capsys.readouterr().err


def test_an_object_store_cannot_refer_to_this_machine(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, reference = folders
    assert main(["convert", str(source), "memory://referred/tiny", "--reference"]) == 2
    assert "nobody finds the folder" in capsys.readouterr().err
    remote = Storage("memory://referred/copied")
    for name in ("manifest.json", "index.npy"):
        remote.put(name, (reference / name).read_bytes())
    with pytest.raises(RefusedError, match="a folder of this machine, to which a dataset in an object store cannot"):
        open_dataset(remote.url)
    remote.delete_folder("")


def test_other_values_than_hdf5_reads_are_noticed_at_once(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offset = HdfNode.plain_offset
    monkeypatch.setattr(HdfNode, "plain_offset", lambda node, path: offset(node, path) + 4)
    assert refer(folders[0], folders[1].with_name("again")) == 2
    assert "lie other values than HDF5 reads there" in capsys.readouterr().err
