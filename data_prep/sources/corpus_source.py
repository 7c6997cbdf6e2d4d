"""A person's `Corpus` as a `Source`: found by its address, asked, and checked before anything relies on it."""

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from pydantic import ValidationError

from data_prep.contract.checksum import extend_checksum
from data_prep.contract.entries import first_not_later
from data_prep.contract.errors import IntegrityError, RefusedError, StorageError
from data_prep.contract.fields import Boundary, DatasetSpec
from data_prep.contract.manifest import SPLITS
from data_prep.contract.sample import FrameArray
from data_prep.contract.storage import Storage, checked
from data_prep.contract.strict_yaml.explain import faults_of
from data_prep.corpus import Axis, Corpus, Description, Field, Run
from data_prep.sources.protocol import InputFile, SourceTrajectory, refuse_unspeakable
from data_prep.sources.reading import disordered_axes
from data_prep.sources.stretches import Stretch, whole

ADDRESS = re.compile(r"(?P<code>[^:@]+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)(@(?P<where>.+))?")
"""`waves.py:Waves@/scratch/run7`; no URL looks like this."""
CHECKSUM_BLOCK_BYTES = 16 * 2**20


def is_address(text: str) -> bool:
    """Whether SOURCE names a class."""
    return ADDRESS.fullmatch(text) is not None


def open_address(address: str) -> "CorpusSource":
    """The corpus that SOURCE names. Runs its code. Raises RefusedError."""
    match = ADDRESS.fullmatch(address)
    assert match is not None, "asked for by `is_address` before"
    found = vars(_module(match["code"], address)).get(match["name"])
    if not isinstance(found, type):
        raise RefusedError(f"{address}: {match['code']} has no class `{match['name']}`; give FILE.py:CLASS")
    with _explained(address, f"{match['name']}()"):
        corpus: Corpus = found(match["where"]) if match["where"] else found()
    return CorpusSource(address, corpus)


def open_description(path: str) -> "CorpusSource":
    """The corpus of NetCDF files or zarr stores that a YAML file describes. Raises RefusedError."""
    try:
        from data_prep.sources.xarray_corpus import XarrayCorpus  # xarray is an extra
    except ImportError as error:
        raise RefusedError(f"{path}: reading it needs xarray ({error}); run `pip install '.[xarray]'`") from error
    return CorpusSource(path, XarrayCorpus(Path(path)))


def _module(code: str, address: str) -> ModuleType:
    """A file or an importable module; imported once."""
    with _explained(address, f"importing {code}"):
        if not code.endswith(".py"):
            return importlib.import_module(code)
        path = Path(code).resolve()
        if not path.is_file():
            raise RefusedError(f"{address}: there is no file {path}; give FILE.py:CLASS")
        name = f"corpus_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None, "a file that ends in .py has a loader"
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
        spec.loader.exec_module(module)
        return module


class CorpusSource:
    """A corpus whose description has been checked, with one frame of each field as a sample."""

    def __init__(self, url: str, corpus: Corpus) -> None:
        self.url = url
        self._corpus = corpus
        with _explained(url, "describe()"):
            description = corpus.describe()
        if not isinstance(description, Description):
            raise RefusedError(f"{url}: describe() gives {type(description).__name__}, expected corpus.Description")
        self.spec: DatasetSpec = _spec_of(url, description)
        self._runs: dict[str, Run] = {}
        runs = sorted(description.runs, key=lambda run: SPLITS.index(run.split) if run.split in SPLITS else -1)
        self.trajectories = tuple(self._trajectory(run) for run in runs)
        if not runs:
            raise RefusedError(f"{url}: describe() gives no runs; there is nothing to convert")
        self.files = self._input_files()
        self.warnings = (*description.warnings, *disordered_axes(url, self.spec), *self._sample())

    def __reduce__(self) -> tuple[Any, ...]:
        """Workers open it for themselves: open files do not travel."""
        return (open_address if is_address(self.url) else open_description, (self.url,))

    @contextmanager
    def reader(self) -> Iterator["CorpusReader"]:
        """A reader; what it keeps open is the corpus's own affair."""
        yield CorpusReader(self.url, self._corpus, self.spec, self._runs)

    def checksum_of(self, file: InputFile) -> int | None:
        """Of a run's files, one after the other; None when one is not on a local disk, or none is named."""
        places = [_place(path) for path in self._files_of(file.path)]
        if not places or not all(folder.is_local for folder, _ in places):
            return None
        crc32c = 0
        for folder, name in places:
            with folder.open(name) as stream:
                while block := stream.read(CHECKSUM_BLOCK_BYTES):
                    crc32c = extend_checksum(crc32c, block)
        return crc32c

    def unread_of(self, file: InputFile, trajectories: Iterable[SourceTrajectory]) -> tuple[Stretch, ...]:
        """All of it."""
        del trajectories
        return whole(file.bytes, self.checksum_of(file))

    def fingerprint_of(self, file: InputFile) -> str:
        """Of all files of a run, as they are now."""
        return " ".join(folder.fingerprint(name) for folder, name in map(_place, self._files_of(file.path)))

    def folders(self) -> list[Storage]:
        """Where the files of the runs lie, but for the folder of the code or description itself."""
        own = Storage(str(Path(self.url.partition(":")[0]).parent))
        found = {folder.url: folder for run in self._runs.values() for folder, _ in map(_place, run.files)}
        return [folder for folder in found.values() if not folder.is_same_place(own)]

    def _files_of(self, path: str) -> tuple[str, ...]:
        """What the runs of one file are read from."""
        runs = (self._runs[run.name] for run in self.trajectories if run.file == path)
        return tuple(dict.fromkeys(file for run in runs for file in run.files))

    def _trajectory(self, run: Run) -> SourceTrajectory:
        where = f"{self.url}: run `{run.name}` of {run.split}"
        if run.split not in SPLITS:
            raise RefusedError(f"{where}: split is {run.split!r}, expected train, valid or test")
        name, _, number = run.name.partition("#")
        checked(name)
        if not name or (number and not number.isdecimal()):
            raise RefusedError(f"{where}: a name is a relative path, perhaps with `#` and a number behind it")
        times = _numbers(where, "times", run.times)
        if (frame := first_not_later(times)) is not None:
            raise RefusedError(
                f"{where}: time of frame {frame} is {times[frame]:.9g}, expected one after {times[frame - 1]:.9g}, "
                "that of the frame before"
            )
        scalars = {key: _scalar(where, key, value, num_steps=len(times)) for key, value in run.scalars.items()}
        if tuple(scalars) != self.spec.scalars:
            raise RefusedError(f"{where}: scalars are {tuple(scalars)}, but the first run has {self.spec.scalars}")
        trajectory = SourceTrajectory(run.split, f"{run.split}/{name}", int(number or 0), times, scalars)
        refuse_unspeakable(where, trajectory.name)
        if trajectory.name in self._runs:
            raise RefusedError(f"{where}: two runs have this name; each needs its own")
        self._runs[trajectory.name] = run
        return trajectory

    def _input_files(self) -> tuple[InputFile, ...]:
        paths = dict.fromkeys(run.file for run in self.trajectories)
        sizes = {path: sum(folder.size(name) for folder, name in map(_place, self._files_of(path))) for path in paths}
        blank = (InputFile(path, num_bytes, "") for path, num_bytes in sizes.items())
        return tuple(InputFile(file.path, file.bytes, self.fingerprint_of(file)) for file in blank)

    def _sample(self) -> Iterator[str]:
        """Reads one frame of each field, so that a wrong shape is told at once; warns of values that are rounded."""
        reader = CorpusReader(self.url, self._corpus, self.spec, self._runs)
        for member in self.spec.fields + self.spec.constant_fields:
            is_constant = member in self.spec.constant_fields
            values = reader.values(self.trajectories[0], member, start=0, stop=1, is_constant=is_constant)
            if values.dtype.itemsize > 4:
                yield f"{self.url}: `{member.name}` is {values.dtype}; its values are rounded to float32"


class CorpusReader:
    """Fills fused buffers from what the corpus gives, each array checked."""

    def __init__(self, url: str, corpus: Corpus, spec: DatasetSpec, runs: dict[str, Run]) -> None:
        self._url, self._corpus, self._spec, self._runs = url, corpus, spec, runs

    def locate(self, trajectory: SourceTrajectory) -> str:
        """`waves.py:Waves: train/run-007#0`."""
        return f"{self._url}: {trajectory.name}"

    def read_frames(
        self, trajectory: SourceTrajectory, start: int, *, out: FrameArray, read: list[Stretch] | None = None
    ) -> None:
        """Fill `out`: (time, channel, *space), with the frames from `start` on."""
        del read
        self._fill(trajectory, self._spec.fields, out, start=start, is_constant=False)

    def read_constants(self, trajectory: SourceTrajectory, *, out: FrameArray) -> None:
        """Fill `out`: (constant channel, *space)."""
        self._fill(trajectory, self._spec.constant_fields, out[np.newaxis], start=0, is_constant=True)

    def _fill(
        self, trajectory: SourceTrajectory, fields: tuple[Field, ...], out: FrameArray, *, start: int, is_constant: bool
    ) -> None:
        first = 0
        for member in fields:
            values = self.values(trajectory, member, start=start, stop=start + len(out), is_constant=is_constant)
            components = values.reshape(*out.shape[:1], *out.shape[2:], -1)
            with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is counted by the caller
                out[:, first : first + components.shape[-1]] = np.moveaxis(components, -1, 1)
            first += components.shape[-1]

    def values(
        self, trajectory: SourceTrajectory, member: Field, *, start: int, stop: int, is_constant: bool
    ) -> np.ndarray[Any, Any]:
        """What the corpus gives for a field. Raises RefusedError unless it is numbers of the right shape."""
        num_dims = len(self._spec.spatial_dims)
        with _explained(self.locate(trajectory), f"read(…, {member.name!r}, {start}, {stop})"):
            values = np.asarray(self._corpus.read(self._runs[trajectory.name], member.name, start, stop))
        expected = (*self._spec.resolution, *(num_dims,) * member.rank)
        expected = expected if is_constant else (stop - start, *expected)
        if values.shape != expected or values.dtype.kind not in "fbui":
            raise RefusedError(
                f"{self.locate(trajectory)}: read(…, {member.name!r}, {start}, {stop}) gives {values.shape} of "
                f"{values.dtype}, expected {expected} of float32: "
                f"{'' if is_constant else 'time, '}{', '.join(self._spec.spatial_dims)}, then components"
            )
        return values


def _spec_of(url: str, description: Description) -> DatasetSpec:
    coordinates = [_numbers(url, f"coordinates of `{axis.name}`", axis.coordinates) for axis in description.axes]
    scalars = tuple(description.runs[0].scalars) if description.runs else ()
    facts = {
        "name": description.name,
        "grid_type": description.grid_type,
        "spatial_dims": tuple(axis.name for axis in description.axes),
        "resolution": tuple(len(points) for points in coordinates),
        "boundaries": tuple(_sides(url, axis) for axis in description.axes),
        "fields": tuple(description.fields),
        "constant_fields": tuple(description.constant_fields),
        "scalars": scalars,
        "coordinates": tuple(coordinates),
    }
    try:
        return DatasetSpec.model_validate(facts)
    except ValidationError as error:
        raise RefusedError(f"{url}: describe(): {faults_of(error, facts, DatasetSpec)[0]}") from error


def _sides(url: str, axis: Axis) -> tuple[Boundary, Boundary]:
    sides = (axis.boundary, axis.boundary) if isinstance(axis.boundary, str) else tuple(axis.boundary)
    try:
        low, high = (Boundary(side) for side in sides)
    except ValueError as error:
        raise RefusedError(
            f"{url}: boundary of axis `{axis.name}` is {axis.boundary!r}, expected wall, open or periodic, or a pair"
        ) from error
    return low, high


def _numbers(where: str, what: str, values: Any) -> tuple[float, ...]:
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise RefusedError(f"{where}: {what} are no numbers ({error})") from error
    if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
        raise RefusedError(
            f"{where}: {what} have shape {numbers.shape}, expected one axis of finite numbers, not empty"
        )
    return tuple(numbers.tolist())


def _scalar(where: str, name: str, value: Any, *, num_steps: int) -> float | tuple[float, ...]:
    numbers = _numbers(where, f"values of scalar `{name}`", np.atleast_1d(value))
    if np.ndim(value) == 0:
        return numbers[0]
    if len(numbers) != num_steps:
        raise RefusedError(
            f"{where}: scalar `{name}` has {len(numbers)} values, expected one, or {num_steps}: one a frame"
        )
    return numbers


def _place(path: str) -> tuple[Storage, str]:
    """(folder, name) of a file by path or URL."""
    folder, _, name = path.rpartition("/")
    return Storage(folder or ("/" if path.startswith("/") else ".")), name


@contextmanager
def _explained(where: str, call: str) -> Iterator[None]:
    """A person's code may raise anything; the message says what, and in which line of it."""
    try:
        yield
    except (RefusedError, IntegrityError, StorageError):
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise RefusedError(
            f"{where}: {call} failed in {place.filename}:{place.lineno}: {type(error).__name__}: {error}"
        ) from error
