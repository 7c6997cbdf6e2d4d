"""What --dry-run promises: requests as they are made, dollars by list prices, and nothing for a local disk."""

import json
from pathlib import Path

import fsspec
import pytest

from data_prep.contract.storage import Storage
from data_prep.planning.estimate import UPLOAD_BYTES, num_uploads
from tests.unit.converting import LAYOUTS, SMALL, convert
from tests.unit.tiny_well import write_dataset


@pytest.mark.parametrize("layout", LAYOUTS)
def test_as_many_objects_are_written_as_was_said(
    tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "tiny")
    url = "memory://estimate"
    assert convert(tmp_path / "tiny", url, layout, *SMALL, "--dry-run") == 0
    said = json.loads(capsys.readouterr().out)
    puts: list[str] = []
    put = Storage.put

    def counted(self: Storage, path: str, data: bytes) -> None:
        puts.append(path)
        put(self, path, data)

    monkeypatch.setattr(Storage, "put", counted)
    assert convert(tmp_path / "tiny", url, layout, *SMALL) == 0
    fsspec.filesystem("memory").store.clear()
    num_listings = 2
    assert said["put_requests"] == len(puts) + num_listings


def test_a_local_disk_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "tiny")
    assert convert(tmp_path / "tiny", tmp_path / "out", "zarr", "--dry-run") == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert (summary["put_requests"], summary["get_requests"]) == (0, 0)
    assert summary["estimated_request_dollars"] == summary["estimated_storage_dollars_per_month"] == 0
    assert "nothing is written" in said.err
    assert not (tmp_path / "out").exists()


def test_large_objects_are_uploaded_in_parts() -> None:
    assert num_uploads(2 * UPLOAD_BYTES - 1) == 1
    assert num_uploads(2 * UPLOAD_BYTES) == 4
    assert num_uploads(5 * UPLOAD_BYTES + 1) == 8
