"""The Well's HDF5 files -> trajectories, lazily: `WellSource` is the `Source` of the converter.

Headers are read and checked when a source is opened; `well_reader` reads the values.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, Any

import numpy as np
from pydantic import ValidationError

from data_prep.contract.checksum import extend_checksum
from data_prep.contract.errors import NotFoundError, RefusedError
from data_prep.contract.fields import DatasetSpec
from data_prep.contract.manifest import SPLITS, Reference, Shard, Split
from data_prep.contract.storage import Storage
from data_prep.sources.hdf5_node import HdfNode, open_hdf5
from data_prep.sources.origin import FieldPlace, FilePlaces, Origin
from data_prep.sources.protocol import InputFile, SourceTrajectory, refuse_unspeakable
from data_prep.sources.reading import disordered_axes
from data_prep.sources.stretches import Stretch, gaps
from data_prep.sources.well_header import FieldLayout, Header, read_header
from data_prep.sources.well_reader import WellReader

FOLDER = "data"
"""Of the files, in a dataset folder."""
SUFFIXES = (".hdf5", ".h5")
MAX_WRONG = 10
"""Files that are told of in full."""
GRID_TOLERANCE = 1e-6
"""Of a coordinate, relative to the largest of its axis: a few roundings of float32."""
CHECKSUM_BLOCK_BYTES = 2**20


class WellSource:
    """A dataset folder of The Well (`data/{train,valid,test}/*.hdf5`) whose headers have been read."""

    def __init__(self, data: Storage, headers: dict[str, Header], files: tuple[InputFile, ...]) -> None:
        self._data = data
        self._headers = headers
        self.url = data.url.removesuffix(f"/{FOLDER}")
        self.files = files
        self.spec: DatasetSpec = next(iter(headers.values())).spec
        self.trajectories = tuple(
            trajectory for path, header in headers.items() for trajectory in _trajectories(path, header)
        )
        of_files = (warning for header in headers.values() for warning in header.warnings)
        self.warnings = (*of_files, *disordered_axes(self.url, self.spec))

    @contextmanager
    def reader(self) -> Iterator[WellReader]:
        """A reader that keeps one file open at a time."""
        reader = WellReader(self._data, self._headers)
        try:
            yield reader
        finally:
            reader.close()

    def origin(self) -> Origin:
        """Where all values lie. Raises RefusedError where they do not lie plainly, or not alike in all files."""
        kepts = {path: _kept_axes(header) for path, header in self._headers.items()}
        first_path, first = next(iter(kepts.items()))
        for path, kept in kepts.items():
            if kept != first:
                raise RefusedError(
                    f"{self._data.locate(path)} and {self._data.locate(first_path)} store their fields along different "
                    "axes, so that one manifest cannot refer to both; convert this dataset with `--format zarr` instead"
                )
        files = {file.path: self._places_of(file) for file in self.files}
        dataset = Storage(self.url)
        return Origin(Reference(url=dataset.absolute_url, kept=first), FOLDER, files)

    def _places_of(self, file: InputFile) -> FilePlaces:
        header, where = self._headers[file.path], self._data.locate(file.path)
        try:
            Shard(path=f"{FOLDER}/{file.path}", bytes=file.bytes, crc32c=0)
        except ValidationError as error:
            raise RefusedError(
                f"{where}: a manifest cannot refer to a file of this name; use letters, digits, `_`, `.` and `-` alone"
            ) from error
        with open_hdf5(self._data, file.path) as root:
            fields, constants = (
                tuple(_place_of(root, layout, num_steps) for layout in layouts)
                for layouts, num_steps in ((header.fields, header.times.shape[1]), (header.constant_fields, 0))
            )
        return FilePlaces(file.bytes, fields, constants)

    def checksum_of(self, file: InputFile) -> int | None:
        """crc32c of a whole file; None when it is not on a local disk."""
        stretches = self.unread_of(file, ())
        return stretches[0].crc32c if stretches else None

    def unread_of(self, file: InputFile, trajectories: Iterable[SourceTrajectory]) -> tuple[Stretch, ...]:
        """What of a file its reader will not tell when it reads the frames of these trajectories."""
        if not self._data.is_local:
            return ()
        layouts = [layout for layout in self._headers[file.path].fields if layout.is_sample_varying]
        with self.reader() as reader:
            told = [
                (place, place + run.num_steps * layout.step_bytes)
                for run in trajectories
                for layout in layouts
                if (place := reader.plain_place(run, layout)) is not None
            ]
        with self._data.open(file.path) as stream:
            return tuple(_stretch_of(stream, start, stop) for start, stop in gaps(told, stop=file.bytes))

    def fingerprint_of(self, file: InputFile) -> str:
        """The file's fingerprint as it is now."""
        return self._data.fingerprint(file.path)


def _stretch_of(stream: IO[bytes], start: int, stop: int) -> Stretch:
    stream.seek(start)
    crc32c, room = 0, memoryview(bytearray(min(CHECKSUM_BLOCK_BYTES, stop - start)))
    for first in range(start, stop, CHECKSUM_BLOCK_BYTES):
        length = stream.readinto(room[: stop - first])  # type: ignore[attr-defined]  # IO[bytes] leaves it out
        crc32c = extend_checksum(crc32c, room[:length])
    return Stretch(start, stop - start, crc32c)


def _kept_axes(header: Header) -> dict[str, tuple[bool, ...]]:
    """By field that is not stored in full along all axes, whether it is along each."""
    spec = header.spec
    names = [field.name for field in spec.fields + spec.constant_fields]
    stored = [layout.kept_shape for layout in header.fields + header.constant_fields]
    return {
        name: tuple(kept == size for kept, size in zip(shape, spec.resolution, strict=True))
        for name, shape in zip(names, stored, strict=True)
        if shape != spec.resolution
    }


def _place_of(root: HdfNode, layout: FieldLayout, num_steps: int) -> FieldPlace:
    """`num_steps`: 0 for a constant field."""
    return FieldPlace(
        offset=root.plain_offset(layout.place),
        run_bytes=layout.step_bytes * max(1, num_steps) if layout.is_sample_varying else 0,
        step_bytes=layout.step_bytes if num_steps else 0,
    )


def open_well(url: str) -> WellSource:
    """Read and check all headers of a dataset folder. Raises RefusedError naming the file that is wrong."""
    storage = Storage(url)
    if storage.is_missing_folder():
        raise NotFoundError(f"{url}: there is no such folder; give a dataset folder of The Well, or a prepared dataset")
    data = storage.join(FOLDER)
    _refuse_others(data)
    paths = [path for split in SPLITS for path in data.list(split) if _is_of_split(path, split)]
    if not paths:
        raise NotFoundError(
            f"{url}: no HDF5 files below it in data/train, data/valid or data/test; "
            "a dataset folder of The Well has them"
        )
    for path in paths:
        refuse_unspeakable(data.locate(path), path)
    headers = _agreeing(data, _headers_of(data, paths, dataset_name=storage.name))
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


def _headers_of(data: Storage, paths: list[str], *, dataset_name: str) -> dict[str, Header]:
    """Raises RefusedError naming every file that is wrong, the first few with all that is to say."""
    headers: dict[str, Header] = {}
    wrong: list[str] = []
    for path in paths:
        try:
            with open_hdf5(data, path) as root:
                headers[path] = read_header(root, dataset_name)
        except RefusedError as error:
            wrong.append(f"{error}; repair the file or take it out of the dataset")
    if len(wrong) > 1:
        more = f"\n  … and {len(wrong) - MAX_WRONG} more" if len(wrong) > MAX_WRONG else ""
        lines = "".join(f"\n  {text}" for text in wrong[:MAX_WRONG])
        raise RefusedError(f"{data.url}: {len(wrong)} of {len(paths)} files cannot be used:{lines}{more}")
    if wrong:
        raise RefusedError(wrong[0])
    return headers


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
