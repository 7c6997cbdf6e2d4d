"""From object storage a source is read about once, in few large requests: measured in requests and bytes.

python -m tests.benchmarks.test_read_amplification      prints the table for larger files
"""

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract.storage import Storage
from data_prep.sources.ranged_file import BLOCK_BYTES, REQUEST_BYTES, RangedFile
from data_prep.sources.well import open_well
from tests.benchmarks.counted_storage import BOOKS, upload
from tests.unit.tiny_well import TinyField, write_file

FIELDS = (TinyField("pressure"), TinyField("velocity", rank=1), TinyField("density", time_varying=False))
FILES = ("train/a.hdf5", "valid/a.hdf5")


def contiguous(path: Path) -> None:
    """As the public writers make them."""


def paged(path: Path) -> None:
    """As the copies on the Hugging Face hub are packed: pages of 8 MiB, metadata together."""
    _rewrite(path, {}, fs_strategy="page", fs_page_size=2**23)


def chunked_by_frame(path: Path) -> None:
    _rewrite(path, {"chunks": True})


def compressed_in_stretches(path: Path) -> None:
    """Chunks of ten frames, so that neighbouring segments meet the same ones."""
    _rewrite(path, {"chunks": 10, "compression": "lzf"})


LAYOUTS = {function.__name__: function for function in (contiguous, paged, chunked_by_frame, compressed_in_stretches)}


def _rewrite(path: Path, storage: dict[str, object], **file_options: object) -> None:
    old_path = path.rename(path.with_suffix(".old"))
    with h5py.File(old_path) as old, h5py.File(path, "w", **file_options) as new:
        new.attrs.update(old.attrs)
        for name, child in old.items():
            if not name.endswith("_fields") or not storage:
                old.copy(name, new)
                continue
            group = new.create_group(name)
            group.attrs.update(child.attrs)
            for field, values in child.items():
                frames = storage["chunks"] if isinstance(storage["chunks"], int) and storage["chunks"] > 1 else 1
                time_axis = 1 if values.attrs["time_varying"] else 0
                chunks = (1, *(min(frames, values.shape[1]),) * time_axis, *values.shape[1 + time_axis :])
                options = {**storage, "chunks": chunks}
                group.create_dataset(field, data=values[()], **options).attrs.update(values.attrs)
    old_path.unlink()


@dataclass(frozen=True)
class Amplification:
    """What reading a source once took."""

    file_bytes: int
    bytes_read: int
    requests: int
    opening_requests: int
    """Of these, to read the headers alone."""

    @property
    def ratio(self) -> float:
        return self.bytes_read / self.file_bytes


def measure(layout: str, folder: Path, *, size: int, num_steps: int) -> Amplification:
    """Convert a small dataset of two files from a counted store to a local disk."""
    url = f"counted://bucket/{layout}"
    for seed, name in enumerate(FILES):
        path = folder / layout / "data" / name
        write_file(path, axes={"x": size, "y": size}, fields=FIELDS, num_steps=num_steps, seed=seed)
        LAYOUTS[layout](path)
    upload(folder / layout, url)
    BOOKS.reads.clear()
    open_well(url)
    opening = len(BOOKS.reads)
    BOOKS.reads.clear()
    out = folder / f"{layout}-out"
    assert main(["convert", url, str(out), "--format", "webdataset"]) == 0
    file_bytes = sum((folder / layout / "data" / name).stat().st_size for name in FILES)
    found = Amplification(file_bytes, BOOKS.num_bytes, len(BOOKS.reads), opening)
    assert main(["verify", str(out), "--against", str(folder / layout)]) == 0
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_source_is_read_about_once_in_few_requests(layout: str, tmp_path: Path) -> None:
    found = measure(layout, tmp_path, size=128, num_steps=60)
    structure_bytes = 8 * BLOCK_BYTES * len(FILES)
    """Of each file's own structure, a whole block for every place of it, twice: to open it, and to read it."""
    assert found.bytes_read < 1.1 * found.file_bytes + structure_bytes
    assert found.requests < 16 * len(FILES) + found.file_bytes / (REQUEST_BYTES / 8)


def test_what_was_expected_is_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "values").write_bytes(np.arange(2**20, dtype=np.uint32).tobytes())
    upload(tmp_path, "counted://bucket/ranged")
    BOOKS.reads.clear()
    file = RangedFile(Storage("counted://bucket/ranged"), "values")
    file.expect([(100, 3_000_000)])
    file.expect([(200, 1_000_000), (2_000_000, 4_000_000)])
    assert [length for _, length in BOOKS.reads] == [2_999_900, 2_000_000]
    for start, stop in ((200, 1_000_000), (1_999_999, 2_000_001), (3_999_990, 2**22)):
        file.seek(start)
        buffer = bytearray(stop - start + 7)
        count = file.readinto(memoryview(buffer))
        expected = (tmp_path / "values").read_bytes()[start : stop + 7]
        assert (count, bytes(buffer[:count])) == (len(expected), expected)


if __name__ == "__main__":
    scratch = Path(tempfile.mkdtemp())
    print(f"{'layout':26}{'file MB':>9}{'read/file':>11}{'requests':>10}{'to open':>9}")
    for name in LAYOUTS:
        result = measure(name, scratch, size=256, num_steps=100)
        megabytes = result.file_bytes / 1e6
        print(f"{name:26}{megabytes:9.0f}{result.ratio:11.2f}{result.requests:10}{result.opening_requests:9}")
    shutil.rmtree(scratch)
    sys.exit(0)
