"""NetCDF files and zarr stores as a `Corpus`, by a description in YAML. The one file that imports xarray."""

import warnings
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from data_prep.contract.errors import NotFoundError, RefusedError
from data_prep.contract.fields import Field
from data_prep.contract.manifest import SPLITS, Split
from data_prep.contract.storage import Storage
from data_prep.contract.strict_yaml.read import read_model
from data_prep.corpus import Axis, Description, Run
from data_prep.sources.ranged_file import RangedFile
from data_prep.sources.xarray_description import Along, Variables, XarrayDescription, rank_of

GRID_TOLERANCE = 1e-6
"""Of a coordinate, relative to the largest of its axis: a few roundings of float32."""
Selection = Mapping[str | None, int | slice]
"""What is wanted along the dimensions of time and of runs, where a variable has them."""
ZARR_METADATA = ("zarr.json", ".zmetadata", ".zgroup")


class XarrayCorpus:
    """`describe` opens every file for its sizes and times; `read` keeps the last one open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._described = read_model(path, XarrayDescription)
        self._open_url = ""
        self._open: xarray.Dataset | None = None
        self._places: dict[tuple[Split, str], tuple[str, int]] = {}
        """Of each run: URL of its file, number in it."""

    def describe(self) -> Description:
        """See `corpus.Corpus`. Raises RefusedError naming the file that is wrong."""
        described = self._described
        axes: tuple[Axis, ...] = ()
        runs: list[Run] = []
        for split in SPLITS:
            for url in self._urls(split):
                dataset = self._dataset(url)
                for name, variables in (described.fields | described.constant_fields).items():
                    self._check(url, dataset, name, variables)
                found = tuple(self._axis(url, dataset, name) for name in described.axes)
                axes = axes or found
                _refuse_other_grid(url, axes, found)
                runs.extend(self._runs_of(split, url, dataset))
        return Description(
            name=described.name,
            axes=axes,
            fields=_fields(described.fields),
            constant_fields=_fields(described.constant_fields),
            runs=runs,
            grid_type=described.grid,
        )

    def read(self, run: Run, name: str, start: int, stop: int) -> np.ndarray[Any, Any]:
        """See `corpus.Corpus`."""
        url, number = self._places[run.split, run.name]
        dataset = self._dataset(url)
        if name in self._described.constant_fields:
            return self._values(dataset, self._described.constant_fields[name], {self._described.trajectory: number})
        selection: Selection = {self._described.trajectory: number, self._described.time: slice(start, stop)}
        return self._values(dataset, self._described.fields[name], selection)

    def _values(self, dataset: xarray.Dataset, variables: Variables, selection: Selection) -> np.ndarray[Any, Any]:
        """(time, *axes, *components); no time for a constant."""
        if isinstance(variables, Along):
            return self._array(dataset, variables.variable, selection, extra=variables.along)
        if isinstance(variables, str):
            return self._array(dataset, variables, selection)
        parts = [self._values(dataset, part, selection) for part in variables]
        return np.stack(parts, axis=-rank_of(variables))

    def _array(
        self,
        dataset: xarray.Dataset,
        variable: str,
        selection: Selection,
        *,
        extra: tuple[str, ...] = (),
    ) -> np.ndarray[Any, Any]:
        """One variable, its dimensions in the order that is stored; it does not vary along those that it lacks."""
        array = dataset[variable]
        array = array.isel({dim: chosen for dim, chosen in selection.items() if dim in array.dims})
        sizes = {dim: dataset.sizes[dim] for dim in (*self._dims, *extra)}
        time = selection.get(self._described.time)
        if isinstance(time, slice):
            sizes = {self._described.time: time.stop - time.start, **sizes}
        missing = [dim for dim in sizes if dim not in array.dims]
        values = array.expand_dims(missing).transpose(*sizes).values
        return np.broadcast_to(values, tuple(sizes.values()))

    @property
    def _dims(self) -> list[str]:
        """Of the axes of space, as the files name them."""
        return [axis.dimension or name for name, axis in self._described.axes.items()]

    def _check(self, url: str, dataset: xarray.Dataset, name: str, variables: Variables) -> None:
        """Raises RefusedError unless the variables of a field are there with dimensions that are described."""
        extra = variables.along if isinstance(variables, Along) else ()
        is_constant = name in self._described.constant_fields
        known = {*self._dims, *extra, self._described.trajectory, None if is_constant else self._described.time}
        for variable in _flat(variables):
            if variable not in dataset.variables:
                raise RefusedError(
                    f"{url}: has no variable `{variable}` for `{name}`; it has {sorted(map(str, dataset.data_vars))}"
                )
            if unknown := [dim for dim in dataset[variable].dims if dim not in known]:
                raise RefusedError(
                    f"{url}: variable `{variable}` of `{name}` has dimensions {dataset[variable].dims}, of which "
                    f"{unknown} are not described; give them in {self._path} under axes, time, trajectory or along"
                )
        for dim in extra:
            if dataset.sizes.get(dim) != len(self._dims):
                raise RefusedError(
                    f"{url}: dimension `{dim}` of `{name}` has {dataset.sizes.get(dim)} components, "
                    f"expected {len(self._dims)}"
                )

    def _axis(self, url: str, dataset: xarray.Dataset, name: str) -> Axis:
        axis = self._described.axes[name]
        dim = axis.dimension or name
        if dim not in dataset.sizes:
            raise RefusedError(f"{url}: has no dimension `{dim}`; it has {sorted(map(str, dataset.sizes))}")
        points = dataset[dim].values if dim in dataset.variables else np.arange(dataset.sizes[dim])
        sides = axis.boundary if isinstance(axis.boundary, tuple) else (axis.boundary, axis.boundary)
        return Axis(name, _floats(url, dim, points), (sides[0].value, sides[1].value))

    def _runs_of(self, split: Split, url: str, dataset: xarray.Dataset) -> Iterator[Run]:
        trajectory, time = self._described.trajectory, self._described.time
        if time not in dataset.sizes:
            raise RefusedError(f"{url}: has no dimension `{time}`; give `time:` in {self._path}")
        times = dataset[time].values if time in dataset.variables else np.arange(dataset.sizes[time])
        for number in range(dataset.sizes.get(trajectory, 1)):
            name = f"{url.rpartition('/')[2]}#{number}"
            if (split, name) in self._places:
                raise RefusedError(f"{url}: another file of {split} has the same name; rename one of them")
            self._places[split, name] = url, number
            scalars = {key: self._scalar(url, dataset, key, number) for key in self._described.scalars}
            yield Run(split, name, _floats(url, time, times), scalars, files=_files_of(url))

    def _scalar(self, url: str, dataset: xarray.Dataset, name: str, number: int) -> float | list[float]:
        if name in dataset.attrs:
            return float(_floats(url, name, np.asarray(dataset.attrs[name])).item())
        if name not in dataset.variables:
            raise RefusedError(
                f"{url}: has neither a variable nor an attribute `{name}`, which {self._path} lists under scalars"
            )
        array = dataset[name]
        array = array.isel({self._described.trajectory: number}) if self._described.trajectory in array.dims else array
        values: float | list[float] = _floats(url, name, array.values).tolist()
        return values

    def _urls(self, split: Split) -> Iterator[str]:
        for pattern in self._described.files.get(split, ()):
            folder, _, name = pattern.rpartition("/")
            is_absolute = "://" in pattern or pattern.startswith("/")
            storage = Storage(folder if is_absolute else str(self._path.parent / folder))
            stores = [path for path in storage.list_others() if fnmatchcase(path, name)]
            found = stores or [path for path in storage.list() if "/" not in path and fnmatchcase(path, name)]
            if not found:
                raise NotFoundError(f"{self._path}: files.{split}: nothing in {storage.url} is named {name}")
            yield from (storage.locate(path) for path in found)

    def _dataset(self, url: str) -> xarray.Dataset:
        """The file of this URL, open; the one before is closed. Values are not read, times not decoded."""
        if self._open is None or self._open_url != url:
            if self._open is not None:
                self._open.close()
            self._open, self._open_url = _opened(url), url
        return self._open


def _fields(described: dict[str, Variables]) -> list[Field]:
    return [Field(name=name, rank=rank_of(variables)) for name, variables in described.items()]


def _opened(url: str) -> xarray.Dataset:
    folder, _, name = url.rpartition("/")
    storage = Storage(folder)
    try:
        if _is_store(url):
            with warnings.catch_warnings():  # that metadata are not consolidated is no fault of the data
                warnings.simplefilter("ignore", RuntimeWarning)
                return xarray.open_dataset(url, engine="zarr", decode_times=False, chunks=None)
        local_path = storage.local_path(name)
        target: Any = local_path or RangedFile(storage, name)
        return xarray.open_dataset(target, engine=None if local_path else "h5netcdf", decode_times=False, cache=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise RefusedError(
            f"{url}: xarray cannot open it: {str(error).splitlines()[0]:.300}; it is damaged, or neither NetCDF "
            "nor zarr (which `pip install '.[xarray]'` lets xarray read)"
        ) from error


def _floats(url: str, name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise RefusedError(f"{url}: `{name}` is of type {values.dtype}, expected numbers") from error


def _is_store(url: str) -> bool:
    """Whether it is a folder, as zarr stores are, not one file."""
    return bool(_files_of(url)) and not Storage(url.rpartition("/")[0]).exists(url.rpartition("/")[2])


def _files_of(url: str) -> tuple[str, ...]:
    """What changes when the data does: the file itself, of a zarr store its description."""
    folder, _, name = url.rpartition("/")
    if Storage(folder).exists(name):
        return (url,)
    return tuple(f"{url}/{metadata}" for metadata in ZARR_METADATA if Storage(url).exists(metadata))


def _refuse_other_grid(url: str, expected: tuple[Axis, ...], found: tuple[Axis, ...]) -> None:
    for ours, theirs in zip(expected, found, strict=True):
        first, other = np.asarray(ours.coordinates), np.asarray(theirs.coordinates)
        tolerance = GRID_TOLERANCE * np.abs(first).max()
        if first.shape != other.shape or not np.allclose(first, other, rtol=0, atol=tolerance):
            raise RefusedError(
                f"{url}: axis `{ours.name}` has {len(other)} points from {other[0]:g} to {other[-1]:g}, but the first "
                f"file has {len(first)} from {first[0]:g} to {first[-1]:g}; files that differ are different datasets"
            )


def _flat(variables: Variables) -> Iterator[str]:
    if isinstance(variables, Along):
        yield variables.variable
    elif isinstance(variables, str):
        yield variables
    else:
        for part in variables:
            yield from _flat(part)
