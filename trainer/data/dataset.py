"""One split of one prepared dataset, opened: its channels, its trajectories, its windows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import nan
from operator import gt

import numpy as np

from data_prep.contract.errors import NotFoundError
from data_prep.contract.fields import Boundary, DatasetSpec
from data_prep.contract.manifest import SPLITS, Index, Manifest, Trajectory, load_manifest, shards_of
from data_prep.contract.storage import Storage
from trainer.data.requests import Record
from trainer.data.windows import Window, WindowSet, WindowShape
from trainer.errors import RefusedError


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, opened for one of its splits."""

    storage: Storage
    manifest: Manifest
    index: Index
    split: str
    crop: tuple[int, ...] | None = None
    """Points that its windows show along each axis of space; None for all."""

    @property
    def name(self) -> str:
        return self.manifest.dataset.name

    def cropped(self, given: int | tuple[int, ...] | None, *, key: str = "crop") -> "Dataset":
        """The dataset whose windows show a part of space; of one number, as many points along every axis.

        Raises RefusedError, which names the `key` of the config, for a crop that no frame holds.
        """
        names, resolution = self.manifest.dataset.spatial_dims, self.manifest.dataset.resolution
        crop = (given,) * len(names) if isinstance(given, int) else given
        if crop is not None and (len(crop) != len(names) or any(map(gt, crop, resolution))):
            found = given if isinstance(given, int) else list(crop)
            raise RefusedError(
                f"{self.storage.url}: {key} is {found}, but frames of dataset {self.name} have "
                f"{' x '.join(map(str, resolution))} points ({', '.join(names)}); give a number for all axes or a list "
                "with one for each, no larger than these (each of data.datasets may have its own `window`)"
            )
        crop = None if crop == resolution else crop
        return self if crop == self.crop else replace(self, crop=crop)

    @cached_property
    def shown(self) -> DatasetSpec:
        """The facts of what windows show: where they are cropped, fewer points, and open sides."""
        spec = self.manifest.dataset
        if self.crop is None:
            return spec
        is_whole = [size == length for size, length in zip(spec.resolution, self.crop, strict=True)]
        cut = (Boundary.OPEN, Boundary.OPEN)
        return spec.model_copy(
            update={
                "resolution": self.crop,
                "boundaries": tuple(
                    sides if whole else cut for sides, whole in zip(spec.boundaries, is_whole, strict=True)
                ),
                "coordinates": tuple(axis[:size] for axis, size in zip(spec.coordinates, self.crop, strict=True)),
            }
        )

    @cached_property
    def digest(self) -> str:
        """A name of its records that no other dataset has."""
        return f"{self.name}-{hashlib.blake2b(self.index.tobytes(), digest_size=12).hexdigest()}"

    def record_name(self, record: Record) -> str:
        """In a cache: of these bytes of this dataset alone, wherever it lies."""
        return f"{self.digest}/{record.shard}/{record.offset}-{record.num_bytes}-{record.crc32c:08x}"

    def records_of(self, shard: int) -> list[Record]:
        """All that lie in a shard, of frames and constants."""
        return [Record(*row) for row in self.index[self.index["shard"] == shard].tolist()]

    @property
    def channels(self) -> tuple[str, ...]:
        """Of a window: the fields, then the constant ones."""
        return self.manifest.dataset.channels + self.manifest.dataset.constant_channels

    @property
    def is_target(self) -> tuple[bool, ...]:
        """For each channel, whether it changes in time."""
        spec = self.manifest.dataset
        return (True,) * len(spec.channels) + (False,) * len(spec.constant_channels)

    @cached_property
    def shards(self) -> Storage:
        """The folder of the shards: the dataset's own, or the source that it refers to."""
        return shards_of(self.storage, self.manifest)

    @cached_property
    def trajectories(self) -> tuple[Trajectory, ...]:
        return self.manifest.of_split(self.split)

    @property
    def stored_bytes(self) -> int:
        """Of the records of the split, as they are stored."""
        pieces = self.manifest.pieces
        ranges = ((one.first_record, pieces.num_rows(one.num_steps)) for one in self.trajectories)
        return sum(int(self.index["bytes"][first : first + count].sum(dtype=np.int64)) for first, count in ranges)

    def window_shape(self, frames: int) -> tuple[int, ...]:
        """(time, channel, *space) of one window."""
        return (frames, len(self.channels), *self.shown.resolution)

    def windows(self, *shapes: WindowShape) -> WindowSet:
        """All windows of the split, of each of the shapes. Raises RefusedError for a shape that there is none of."""
        lengths = [trajectory.num_steps for trajectory in self.trajectories]
        for shape in shapes:
            if not any(map(shape.count, lengths)):
                raise RefusedError(self._why_no_window(lengths, shape))
        return WindowSet(lengths, *shapes, shard_starts=self._shard_starts, num_corners=self._num_corners)

    def time_step(self, window: Window, *, frames: int) -> float:
        """Mean time between the frames of a window; of a single frame, the trajectory's mean times the stride."""
        times = self.trajectories[window.trajectory].times
        if frames > 1:
            return (times[window.start + (frames - 1) * window.stride] - times[window.start]) / (frames - 1)
        return (times[-1] - times[0]) / max(1, len(times) - 1) * window.stride

    @property
    def _num_corners(self) -> tuple[int, ...]:
        if self.crop is None:
            return ()
        return tuple(size - shown + 1 for size, shown in zip(self.manifest.dataset.resolution, self.crop, strict=True))

    @cached_property
    def _shard_starts(self) -> list[tuple[int, ...]]:
        """For each trajectory the frames at which another shard than before begins."""
        starts, before, width = [], -1, len(self.manifest.pieces.of_frame)
        for trajectory in self.trajectories:
            first = trajectory.first_record
            rows = self.index[first : first + trajectory.num_steps * width : width]  # the first piece of each frame
            shards = rows["shard"].astype(np.int64)
            starts.append(tuple(np.flatnonzero(np.diff(shards, prepend=before)).tolist()))
            before = int(shards[-1])
        return starts

    def scalar(self, name: str, window: Window) -> float:
        """A parameter of the window's simulation, at its first frame; not a number where the trajectory has none."""
        value = self.trajectories[window.trajectory].scalars.get(name, nan)
        return value[window.start] if isinstance(value, tuple) else value

    def _why_no_window(self, lengths: Sequence[int], shape: WindowShape) -> str:
        where = f"{self.storage.url}: dataset {self.name}"
        if not lengths:
            splits = ", ".join(f"{split} {len(self.manifest.of_split(split))}" for split in SPLITS)
            return f"{where} has no trajectory in its {self.split} split (trajectories: {splits}); choose another split"
        return (
            f"{where} has no window: {shape.frames} frames with stride {shape.stride} take {shape.span} stored frames, "
            f"but the longest of the {len(lengths)} trajectories of its {self.split} split has {max(lengths)}; "
            "lower data.window.frames or data.window.stride (evaluation.rollout_frames for a rollout)"
        )


def open_dataset(place: Storage | str, *, split: str = "train") -> Dataset:
    """Read and check the manifest at a place; on a local disk, also that the split's shards are there and whole.

    Raises RefusedError when there is no dataset of sense, or a shard of it is missing or of another size.
    """
    storage = Storage(place) if isinstance(place, str) else place
    manifest, index = load_manifest(storage)
    dataset = Dataset(storage=storage, manifest=manifest, index=index, split=split)
    if dataset.shards.is_local:  # object stores would take a request for each shard; there the first read tells
        _check_shards(dataset)
    return dataset


def _check_shards(dataset: Dataset) -> None:
    storage, pieces = dataset.shards, dataset.manifest.pieces
    rows = [
        trajectory.first_record + row
        for trajectory in dataset.trajectories
        for row in range(pieces.num_rows(trajectory.num_steps))
    ]
    for number in np.unique(dataset.index["shard"][rows]).tolist():
        shard = dataset.manifest.shards[number]
        where = f"dataset {dataset.name}, shard {storage.locate(shard.path)}"
        cure = f"; run `python -m data_prep verify {dataset.storage.url}`"
        try:
            found = storage.size(shard.path)
        except NotFoundError as error:
            raise NotFoundError(f"{where}: the manifest names it, but there is no such object{cure}") from error
        if found != shard.bytes:
            raise RefusedError(f"{where}: {found} bytes, but the manifest says {shard.bytes}{cure}")
