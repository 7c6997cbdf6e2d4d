"""Corpora that lie on a real S3 server are shown, scanned and converted from there."""

import gc
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray

from data_prep.__main__ import main
from tests.integration.s3_server import S3Server
from tests.integration.test_xarray_corpus import full, write
from tests.unit.converting import convert, stored_frames
from tests.unit.tiny_well import TinyField, write_dataset

FIELDS = (TinyField("pressure"), TinyField("velocity", rank=1), TinyField("depth", time_varying=False))


@pytest.fixture(autouse=True)
def _no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def upload(s3: S3Server, folder: Path) -> str:
    """The URL of a copy of the folder."""
    bucket = s3.make_bucket()
    files = s3.files()
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe_file(f"{bucket}/{folder.name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return f"{bucket}/{folder.name}"


def test_files_of_the_well_are_converted_from_s3(s3: S3Server, tmp_path: Path) -> None:
    expected = write_dataset(tmp_path / "tiny", fields=FIELDS)
    url = upload(s3, tmp_path / "tiny")
    assert main(["show", url, "--scan"]) == 0
    assert (
        main(["convert", url, str(tmp_path / "out"), "--format", "zarr", "--workers", "2", "--shard-bytes", "2K"]) == 0
    )
    frames = stored_frames(tmp_path / "out")
    assert len(frames) == 8
    for path, file in expected.items():
        for number, original in enumerate(file.frames):
            np.testing.assert_array_equal(frames[f"{path}#{number}"].view(np.uint32), original.view(np.uint32))
    assert main(["verify", str(tmp_path / "out"), "--against", url]) == 0


# zarr never closes the client that it makes for itself; it is collected here, where that may be said
@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")
@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_files_of_xarray_are_converted_from_s3(s3: S3Server, tmp_path: Path, suffix: str) -> None:
    datasets: dict[str, xarray.Dataset] = write(tmp_path / "sea", suffix)
    url = upload(s3, tmp_path / "sea")
    (tmp_path / "sea.yaml").write_text((tmp_path / "sea" / "sea.yaml").read_text().replace("raw/", f"{url}/raw/"))
    assert convert(tmp_path / "sea.yaml", tmp_path / "out", "webdataset") == 0
    found = stored_frames(tmp_path / "out")[f"train/train_b{suffix}#1"]
    np.testing.assert_array_equal(found, full(datasets["train_b"], 1))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    gc.collect()
