"""HDF5 files, opened to be read: nodes whose every access is checked, and values in few large reads.

The one reader that imports h5py. From a local disk h5py reads by itself; from object storage through `RangedFile`, that
is told beforehand where the wanted values lie.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import h5py
import numpy as np

from data_prep.contract.errors import RefusedError
from data_prep.contract.storage import Storage
from data_prep.sources.ranged_file import Range, RangedFile

CHUNK_CACHE_BYTES = 64 * 2**20
"""h5py's default of 1 MiB decompresses a chunk of several frames once for each of them."""

RUN_BYTES = 2**20
"""Values that are read at once where they lie in one piece: whatever is done with them next finds them in the cache."""

Selection = tuple[int | slice, ...]
"""The leading axes of an array: numbers, then perhaps a slice; the other axes are wanted whole."""


@dataclass(frozen=True)
class HdfNode:
    """A group or array of an open file; fulfils `well_header.Node`."""

    raw: Any
    file: str
    path: str = ""
    remote: RangedFile | None = None
    """What the file is read through; None on a local disk."""

    @property
    def place(self) -> str:
        return f"{self.file}:/{self.path}"

    def group(self, name: str) -> "HdfNode":
        child = self._child(name)
        if not isinstance(child.raw, h5py.Group):
            raise RefusedError(f"{child.place}: is an array, expected a group")
        return child

    def array(self, name: str) -> "HdfNode":
        child = self._child(name)
        if not isinstance(child.raw, h5py.Dataset):
            raise RefusedError(f"{child.place}: is a group, expected an array")
        with _explained(child.place):
            is_elsewhere = child.raw.is_virtual or child.raw.external
        if is_elsewhere:
            raise RefusedError(f"{child.place}: keeps its values in other files, which is not supported")
        return child

    def children(self) -> list[str]:
        with _explained(self.place):
            return sorted(self.raw)

    def attribute(self, name: str) -> Any:
        with _explained(self.place):
            return self.raw.attrs.get(name)

    @property
    def shape(self) -> tuple[int, ...]:
        with _explained(self.place):
            return tuple(self.raw.shape or ())

    @property
    def dtype(self) -> np.dtype[Any]:
        with _explained(self.place):
            dtype: np.dtype[Any] = self.raw.dtype
        return dtype

    def read(self) -> np.ndarray[Any, Any]:
        with _explained(self.place):
            return np.asarray(self.raw[()])

    def plain_place(self, path: str) -> int | None:
        """The first byte of the values of an array that lie in the file as `plain_offset` wants them, else None."""
        with _explained(f"{self.file}:/{path}"):
            array = self.raw[path]
            return array.id.get_offset() if array.chunks is None and _is_float32(array) else None

    def plain_offset(self, path: str) -> int:
        """The first byte of the values of an array that lie in the file as contiguous little-endian float32.

        Raises RefusedError saying what they are instead.
        """
        place = f"{self.file}:/{path}"
        with _explained(place):
            array = self.raw[path]
            offset = array.id.get_offset()
            found = [f"compressed with {array.compression}"] if array.compression else []
            found += [f"in chunks of {array.chunks}"] if array.chunks else []
            found += [] if _is_float32(array) else [f"of type {_type_name(array)}"]
        if not found and offset is None:
            found = ["in the file's header, or not written yet"]
        if found:
            raise RefusedError(
                f"{place}: its values are stored {' and '.join(found)}; only contiguous little-endian float32 can be "
                "referred to: convert this dataset with `--format zarr` instead"
            )
        return int(offset)

    def expect(self, wanted: Sequence[tuple[str, Selection]]) -> None:
        """Fetch these parts of arrays, by path, in few large requests; `values` finds them then. Nothing on a disk."""
        if self.remote is not None:
            ranges = [found for path, selection in wanted for found in self._stored_ranges(path, selection)]
            self.remote.expect(ranges)

    def values(self, path: str, selection: Selection) -> np.ndarray[Any, Any]:
        """A part of the array at `path`; damage in the file becomes a RefusedError naming it."""
        with _explained(f"{self.file}:/{path}"):
            return np.asarray(self.raw[path][selection])

    def runs(self, path: str, leading: tuple[int, ...], steps: slice) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """The same as `values`, a few steps at a time: (where in `steps` they begin, their values).

        Chunks are read all at once, lest one be decompressed for each of its steps.
        """
        place = f"{self.file}:/{path}"
        with _explained(place):
            array = self.raw[path]
            step_bytes = array.dtype.itemsize * math.prod(array.shape[len(leading) + 1 :])
            length = steps.stop - steps.start if array.chunks else max(1, RUN_BYTES // max(1, step_bytes))
        for start in range(steps.start, steps.stop, length):
            with _explained(place):
                values = np.asarray(array[(*leading, slice(start, min(start + length, steps.stop)))])
            yield start - steps.start, values

    def _stored_ranges(self, path: str, selection: Selection) -> list[Range]:
        with _explained(f"{self.file}:/{path}"):
            return list(stored_ranges(self.raw[path], selection))

    def _child(self, name: str) -> "HdfNode":
        path = f"{self.path}/{name}".lstrip("/")
        with _explained(f"{self.file}:/{path}"):
            link = self.raw.get(name, getlink=True)
        if link is None:
            raise RefusedError(f"{self.place}: has no `{name}`; The Well's format demands it")
        if isinstance(link, h5py.ExternalLink):
            raise RefusedError(f"{self.file}:/{path}: points into another file, which is not supported")
        with _explained(f"{self.file}:/{path}"):
            child = HdfNode(self.raw[name], self.file, path, self.remote)
            is_elsewhere = child.raw.file.filename != self.raw.file.filename  # by a link to a link
        if is_elsewhere:
            raise RefusedError(f"{child.place}: points into another file, which is not supported")
        return child


@contextmanager
def open_hdf5(data: Storage, path: str) -> Iterator[HdfNode]:
    """The root group of a file. Raises RefusedError when it is truncated or no HDF5 at all."""
    where = data.locate(path)
    with ExitStack() as stack:
        local_path = data.local_path(path)  # a file object of Python's is some ten times slower
        remote = None if local_path else stack.enter_context(RangedFile(data, path))
        with _explained(where):
            file = h5py.File(local_path or remote, "r", rdcc_nbytes=CHUNK_CACHE_BYTES, locking=False)
        stack.callback(file.close)
        yield HdfNode(file, where, remote=remote)


def stored_ranges(dataset: h5py.Dataset, selection: Selection) -> Iterator[Range]:
    """Where the values of a selection lie in the file: in one range of a contiguous array, else in chunks."""
    if not isinstance(dataset, h5py.Dataset) or not dataset.shape or not dataset.size:
        return
    bounds = [
        (item, item + 1) if isinstance(item, int) else item.indices(size)[:2]
        for item, size in _axes(dataset, selection)
    ]
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        if offset is not None:  # else nothing was written yet, or the values stand in the header
            first, last = (
                np.ravel_multi_index([bound[end] - end for bound in bounds], dataset.shape) for end in (0, 1)
            )
            value_bytes = dataset.id.get_type().get_size()
            yield offset + int(first) * value_bytes, offset + (int(last) + 1) * value_bytes
        return
    steps = [range(low - low % size, high, size) for (low, high), size in zip(bounds, dataset.chunks, strict=True)]
    for corner in product(*steps):
        chunk = dataset.id.get_chunk_info_by_coord(corner)
        if chunk.byte_offset is not None:
            yield chunk.byte_offset, chunk.byte_offset + chunk.size


def _is_float32(dataset: h5py.Dataset) -> bool:
    """Whether the file holds little-endian float32; `dtype` is what h5py makes of it, float32 of bfloat16 too."""
    return bool(dataset.id.get_type() == h5py.h5t.IEEE_F32LE)


def _type_name(dataset: h5py.Dataset) -> str:
    name: str = dataset.dtype.str
    return name if name != "<f4" else f"float of {dataset.id.get_type().get_size()} bytes"


def _axes(dataset: h5py.Dataset, selection: Selection) -> Iterator[tuple[int | slice, int]]:
    """(what is wanted, length) of every axis."""
    whole = (slice(None),) * (dataset.ndim - len(selection))
    return zip((*selection, *whole), dataset.shape, strict=True)


@contextmanager
def _explained(place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip("\"'")
        raise RefusedError(f"{place}: cannot be read as HDF5: {reason}; {_meaning(reason)}") from error


def _meaning(reason: str) -> str:
    """What HDF5's own words most often mean."""
    if "filter" in reason or "plugin" in reason:
        return "it is compressed with a filter that is not installed here; set HDF5_PLUGIN_PATH to where its plugin is"
    if "already open for" in reason:
        return "it is still being written, or its writer was killed; wait, or clear the mark with `h5clear -s`"
    return "the file is damaged or was not copied completely"
