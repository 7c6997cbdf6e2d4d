"""The manifest: the one file that makes a folder of shards a dataset.

Two files, written last: `index.npy` (one row for each stored record: shard, offset, bytes, crc32c) and
`manifest.json` (everything else, the index's checksum included). A destination without a manifest is no dataset.
The manifest comes from elsewhere, so it is checked strictly and never trusted for a path or a size.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field as Bounds, model_validator

from data_prep.contract.fields import Contract, DatasetSpec, Name

MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.npy"
SPLITS = ("train", "valid", "test")
INDEX_DTYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("bytes", "<u4"), ("crc32c", "<u4")])
"""One stored record: the number of its shard in `Manifest.shards`, the range of its payload, its checksum."""

Split = Literal["train", "valid", "test"]
Codec = Literal["none", "blosc-lz4"]
ShardPath = Annotated[str, Bounds(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.\-]*)*$")]
"""A relative path without `..`, empty or hidden components."""


class Shard(Contract):
    """One stored object."""

    path: ShardPath
    bytes: Annotated[int, Bounds(ge=0)]
    crc32c: Annotated[int, Bounds(ge=0, lt=2**32)]


class Trajectory(Contract):
    """One simulation run. Its records are rows `first_record …` of the index: its frames, then its constants."""

    split: Split
    source: str
    """The source file's path relative to the source, and the number of the run in it: `train/a.hdf5#3`."""
    num_steps: Annotated[int, Bounds(ge=1)]
    first_record: Annotated[int, Bounds(ge=0)]
    times: tuple[float, ...]
    """Time of each frame, in the units of the source."""
    scalars: dict[Name, float | tuple[float, ...]] = {}
    """Simulation parameters; a tuple has one value for each frame."""

    @model_validator(mode="after")
    def _times_agree(self) -> "Trajectory":
        if len(self.times) != self.num_steps:
            raise ValueError(f"{self.source}: {len(self.times)} times, but num_steps is {self.num_steps}")
        return self


class Moments(Contract):
    """Statistics of one channel over the train split, in float64."""

    mean: float
    std: float
    rms: float
    mean_delta: float
    """Of the difference between neighbouring frames, as are the two below."""
    std_delta: float
    rms_delta: float


class SourceFile(Contract):
    """Provenance of one input file."""

    path: str
    bytes: int
    crc32c: int


class Provenance(Contract):
    """How this dataset was made."""

    command: tuple[str, ...]
    versions: dict[str, str]
    files: tuple[SourceFile, ...]


class Manifest(Contract):
    """Everything a reader needs to turn (trajectory, frame) into a byte range."""

    version: Literal[1] = 1
    dataset: DatasetSpec
    layout: Literal["webdataset", "zarr"]
    codec: Codec
    shards: tuple[Shard, ...]
    trajectories: tuple[Trajectory, ...]
    index: Shard
    statistics: dict[Name, Moments]
    """For each channel, constant channels too (with zero deltas)."""
    provenance: Provenance

    @model_validator(mode="after")
    def _statistics_cover_channels(self) -> "Manifest":
        expected = set(self.dataset.channels + self.dataset.constant_channels)
        if set(self.statistics) != expected:
            raise ValueError(f"statistics are of {sorted(self.statistics)}, but channels are {sorted(expected)}")
        return self

    @property
    def num_records(self) -> int:
        """Rows that the index must have."""
        constants = 1 if self.dataset.constant_fields else 0
        return sum(trajectory.num_steps + constants for trajectory in self.trajectories)

    def of_split(self, split: str) -> tuple[Trajectory, ...]:
        """The trajectories of one split, in stored order."""
        return tuple(trajectory for trajectory in self.trajectories if trajectory.split == split)


Index = np.ndarray[Any, np.dtype[np.void]]
"""(record,) of INDEX_DTYPE."""
