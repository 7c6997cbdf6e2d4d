"""What the tests of conversion share."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract.storage import Storage
from data_prep.sources.prepared import open_prepared

LAYOUTS = ("zarr", "webdataset")
SMALL = ("--shard-bytes", "2K")
"""One trajectory of the tiny dataset to a shard."""


def convert(source: Path, destination: Path | str, layout: str, *options: str) -> int:
    """Run the verb; gives the exit code."""
    return main(["convert", str(source), str(destination), "--format", layout, *options])


def contents(folder: Path) -> dict[str, int]:
    """A checksum of each file, by path."""
    return {
        str(path.relative_to(folder)): zlib.crc32(path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    }


def stored_frames(destination: Path) -> dict[str, np.ndarray]:
    """What a prepared dataset holds, by trajectory name."""
    source = open_prepared(Storage(str(destination)))
    frames = {}
    with source.reader() as reader:
        for run in source.trajectories:
            frames[run.name] = np.empty((run.num_steps, *source.spec.frame_shape), np.float32)
            reader.read_frames(run, 0, out=frames[run.name])
    return frames


def refer(source: Path, destination: Path, *options: str) -> int:
    """Run the verb with `--reference`; gives the exit code."""
    return main(["convert", str(source), str(destination), "--reference", *options])


@contextmanager
def interrupted_after(num_objects: int) -> Iterator[None]:
    """Ctrl-C comes when so many objects have been written."""
    put, left = Storage.put, [num_objects]

    def put_or_stop(self: Storage, path: str, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        put(self, path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Storage, "put", put_or_stop)
        yield
