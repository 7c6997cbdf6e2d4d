"""A local folder that another process tidies away while it is listed, as parts of one conversion do to each other."""

import os
from pathlib import Path
from typing import Any

import pytest

from data_prep.contract.errors import StorageError
from data_prep.contract.storage import Retries, Storage


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """The folder `going` is there when its parent is listed, and gone when it would be itself."""
    storage, scan, going = Storage(str(tmp_path)), os.scandir, tmp_path / "going"
    for name in ("going/a", "staying/b"):
        storage.put(name, b"")

    def scan_too_late(folder: str | Path) -> Any:
        if str(folder) == str(going):
            (going / "a").unlink(missing_ok=True)
            going.rmdir()
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scan_too_late)
    return storage


def test_a_folder_that_goes_while_it_is_listed_is_empty(storage: Storage) -> None:
    """The part that ends last removes the notes that the other may just look for."""
    assert storage.sizes() == {"staying/b": 0}


def test_a_folder_that_goes_while_leftovers_are_looked_for_has_none(storage: Storage) -> None:
    storage.delete_leftovers()
    assert storage.list() == ("staying/b",)


def test_a_disk_that_fails_is_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: str | Path) -> Any:
        raise OSError(5, "Input/output error", str(folder))

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        Storage(str(tmp_path), Retries(attempts=1, first_seconds=0, longest_seconds=0)).sizes()
