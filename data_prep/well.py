"""The Well's HDF5 files -> trajectories, lazily: `WellSource` is the `Source` of the converter.

The one reader that imports h5py. Headers are read and checked when a source is opened; field data is read in the
order of the file, a bounded run of frames at a time, straight into the caller's fused buffer.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np

from data_prep.contract.checksum import extend_checksum
from data_prep.contract.errors import NotFoundError, RefusedError
from data_prep.contract.fields import DatasetSpec
from data_prep.contract.manifest import SPLITS, Split
from data_prep.contract.sample import FrameArray
from data_prep.contract.storage import Storage
from data_prep.source import InputFile, SourceTrajectory
from data_prep.well_header import FieldLayout, Header, read_header

SUFFIXES = (".hdf5", ".h5")
CHUNK_CACHE_BYTES = 64 * 2**20
"""h5py's default of 1 MiB decompresses a chunk of several frames once for each of them."""
GRID_TOLERANCE = 1e-6
"""Of a coordinate, relative to the largest of its axis: a few roundings of float32."""
CHECKSUM_BLOCK_BYTES = 16 * 2**20


class WellSource:
    """A dataset folder of The Well (`data/{train,valid,test}/*.hdf5`) whose headers have been read."""

    def __init__(self, data: Storage, headers: dict[str, Header], files: tuple[InputFile, ...]) -> None:
        self._data = data
        self._headers = headers
        self.url = data.url.removesuffix("/data")
        self.files = files
        self.spec: DatasetSpec = next(iter(headers.values())).spec
        self.trajectories = tuple(
            trajectory for path, header in headers.items() for trajectory in _trajectories(path, header)
        )
        self.warnings = tuple(warning for header in headers.values() for warning in header.warnings)

    @contextmanager
    def reader(self) -> Iterator["WellReader"]:
        """A reader that keeps one file open at a time."""
        reader = WellReader(self._data, self._headers)
        try:
            yield reader
        finally:
            reader.close()

    def checksum_of(self, file: InputFile) -> int | None:
        """crc32c of a whole file; None when it is not on a local disk."""
        if not self._data.is_local:
            return None
        crc32c = 0
        with self._data.open(file.path) as stream:
            while block := stream.read(CHECKSUM_BLOCK_BYTES):
                crc32c = extend_checksum(crc32c, block)
        return crc32c

    def fingerprint_of(self, file: InputFile) -> str:
        """The file's fingerprint as it is now."""
        return self._data.fingerprint(file.path)


def open_well(url: str) -> WellSource:
    """Read and check all headers of a dataset folder. Raises RefusedError naming the file that is wrong."""
    storage = Storage(url)
    data = storage.join("data")
    _refuse_others(data)
    paths = [path for split in SPLITS for path in data.list(split) if _is_of_split(path, split)]
    if not paths:
        raise NotFoundError(
            f"{url}: no HDF5 files below it in data/train, data/valid or data/test; "
            "a dataset folder of The Well has them"
        )
    headers: dict[str, Header] = {}
    for path in paths:
        headers[path] = _header_of(data, path, dataset_name=storage.name)
    headers = _agreeing(data, headers)
    files = tuple(InputFile(path, data.size(path), data.fingerprint(path)) for path in paths)
    return WellSource(data, headers, files)


def _refuse_others(data: Storage) -> None:
    """Raises RefusedError for an entry named like a file of ours that is none, rather than leave it out."""
    for split in SPLITS:
        others = [path for path in data.list_others(split) if _is_of_split(path, split)]
        if others:
            raise RefusedError(
                f"{data.locate(others[0])}: is no file but a folder, or a link to something that is not there; "
                "put the file there or remove the entry"
            )


def _is_of_split(path: str, split: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder == split and name.endswith(SUFFIXES) and not name.startswith(".")


def _trajectories(path: str, header: Header) -> Iterator[SourceTrajectory]:
    split = _split_of(path)
    for number in range(header.num_trajectories):
        scalars = {name: _plain_scalar(values[number]) for name, values in header.scalars.items()}
        times = tuple(header.times[number].tolist())
        yield SourceTrajectory(split=split, file=path, number=number, times=times, scalars=scalars)


def _split_of(path: str) -> Split:
    splits: dict[str, Split] = {"train": "train", "valid": "valid", "test": "test"}
    return splits[path.partition("/")[0]]


def _plain_scalar(values: np.ndarray[Any, Any]) -> float | tuple[float, ...]:
    return tuple(values.tolist()) if values.ndim else float(values)


def _header_of(data: Storage, path: str, *, dataset_name: str) -> Header:
    try:
        with open_hdf5(data, path) as root:
            return read_header(root, dataset_name)
    except RefusedError as error:
        raise RefusedError(f"{error}; repair the file or take it out of the dataset") from error


def _agreeing(data: Storage, headers: dict[str, Header]) -> dict[str, Header]:
    """All files of a dataset have the same fields, axes, grid and boundaries; only times and scalars may differ.

    Grids that differ by rounding are taken for the same, the first file's, with a warning. Raises RefusedError that
    names every kind of file there is.
    """
    first = next(iter(headers.values()))
    agreeing = {path: _with_grid_of(first, header, place=data.locate(path)) for path, header in headers.items()}
    for key in DatasetSpec.model_fields:
        kinds: dict[str, list[str]] = {}
        for path, header in agreeing.items():
            kinds.setdefault(str(header.spec.__dict__[key]), []).append(data.locate(path))
        if len(kinds) > 1:
            parts = [f"{paths[0]}{_others(len(paths) - 1)} has {value[:200]}" for value, paths in kinds.items()]
            raise RefusedError(
                f"{data.url}: files disagree in {key}: {'; '.join(parts[:5])}; "
                "files that differ are different datasets, in folders of their own"
            )
    return agreeing


def _others(count: int) -> str:
    return f" (as {count} others)" if count else ""


def _with_grid_of(first: Header, header: Header, *, place: str) -> Header:
    """`header` with the first file's coordinates where its own differ from them by rounding alone."""
    ours, theirs = first.spec, header.spec
    if ours.coordinates == theirs.coordinates or ours.resolution != theirs.resolution:
        return header
    if not all(map(_equal_but_for_rounding, ours.coordinates, theirs.coordinates)):
        return header
    warning = f"{place}: its grid differs from the first file's by rounding; the first one's is taken"
    spec = theirs.model_copy(update={"coordinates": ours.coordinates})
    return replace(header, spec=spec, warnings=(*header.warnings, warning))


def _equal_but_for_rounding(ours: tuple[float, ...], theirs: tuple[float, ...]) -> bool:
    largest = max(abs(value) for value in ours)
    return bool(np.allclose(ours, theirs, rtol=0, atol=GRID_TOLERANCE * largest))


class WellReader:
    """Fills fused buffers from the field arrays of the files."""

    def __init__(self, data: Storage, headers: dict[str, Header]) -> None:
        self._data = data
        self._headers = headers
        self._open_path: str | None = None
        self._root: HdfNode | None = None
        self._stack = ExitStack()

    def close(self) -> None:
        """Close the open file, if there is one."""
        self._stack.close()
        self._open_path, self._root = None, None

    def locate(self, trajectory: SourceTrajectory) -> str:
        """`/corpora/euler/data/train/a.hdf5#3`."""
        return self._data.locate(trajectory.name)

    def read_frames(self, trajectory: SourceTrajectory, start: int, *, out: FrameArray) -> None:
        """Fill `out`: (time, channel, *space), with the frames from `start` on."""
        root, frames = self._file(trajectory.file), slice(start, start + len(out))
        for layout in self._headers[trajectory.file].fields:
            selection = (trajectory.number, frames) if layout.is_sample_varying else (frames,)
            values = root.values(layout.place, selection)
            _spread(values, layout, out=out)

    def read_constants(self, trajectory: SourceTrajectory, *, out: FrameArray) -> None:
        """Fill `out`: (constant channel, *space)."""
        root = self._file(trajectory.file)
        for layout in self._headers[trajectory.file].constant_fields:
            selection = (trajectory.number,) if layout.is_sample_varying else ()
            values = root.values(layout.place, selection)
            _spread(values[np.newaxis], layout, out=out[np.newaxis])

    def _file(self, path: str) -> "HdfNode":
        if self._root is None or self._open_path != path:
            self.close()
            self._root = self._stack.enter_context(open_hdf5(self._data, path))
            self._open_path = path
        return self._root


def _spread(values: np.ndarray[Any, Any], layout: FieldLayout, *, out: FrameArray) -> None:
    """Stored field (time, *kept space, *tensor) -> its channels of `out`: (time, channel, *space)."""
    components = values.reshape(len(values), *layout.kept_shape, layout.num_components)
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which the caller reports
        for component in range(layout.num_components):
            out[:, layout.first_channel + component] = components[..., component]


@dataclass(frozen=True)
class HdfNode:
    """A group or array of an open file; fulfils `well_header.Node`."""

    raw: Any
    file: str
    path: str = ""

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

    def values(self, path: str, selection: tuple[int | slice, ...]) -> np.ndarray[Any, Any]:
        """A part of the array at `path`; damage in the file becomes a RefusedError naming it."""
        with _explained(f"{self.file}:/{path}"):
            return np.asarray(self.raw[path][selection])

    def _child(self, name: str) -> "HdfNode":
        path = f"{self.path}/{name}".lstrip("/")
        with _explained(f"{self.file}:/{path}"):
            link = self.raw.get(name, getlink=True)
        if link is None:
            raise RefusedError(f"{self.place}: has no `{name}`; The Well's format demands it")
        if isinstance(link, h5py.ExternalLink):
            raise RefusedError(f"{self.file}:/{path}: points into another file, which is not supported")
        with _explained(f"{self.file}:/{path}"):
            return HdfNode(self.raw[name], self.file, path)


@contextmanager
def open_hdf5(data: Storage, path: str) -> Iterator[HdfNode]:
    """The root group of a file. Raises RefusedError when it is truncated or no HDF5 at all."""
    where = data.locate(path)
    with ExitStack() as stack:
        # h5py reads a file object of Python's some ten times slower than a path of the local disk
        target = data.local_path(path) or stack.enter_context(data.open(path))
        with _explained(where):
            file = h5py.File(target, "r", rdcc_nbytes=CHUNK_CACHE_BYTES, locking=False)
        stack.callback(file.close)
        yield HdfNode(file, where)


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
