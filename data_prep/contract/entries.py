"""What a manifest is made of: shards, trajectories, statistics, rounding, provenance, reference.

Each entry checks itself; `Manifest` checks that they agree.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field as Bounds
from pydantic import model_validator

from data_prep.contract.fields import Contract, Name
from data_prep.contract.texts import matching

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
Layout = Literal["webdataset", "zarr", "reference"]
"""A reference stores nothing of its own: its shards are the files of the source."""
Codec = Literal["none", "blosc-lz4", "blosc-zstd"]
ShardPath = Annotated[
    str,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.\-]*)*",
        "a relative path of letters, digits, `_`, `.` and `-`, each part of it beginning with a letter or digit",
    ),
]
"""Cannot leave its folder, and names nothing hidden."""
SourceName = Annotated[
    str, matching(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,4096}", "a path on one line, of at most 4096 characters of UTF-8")
]
"""Of a file or a trajectory of the source; only shown to people."""
MANTISSA_BITS = 23
"""That float32 stores: as many kept bits are exact."""


class Shard(Contract):
    """One stored object."""

    path: ShardPath
    bytes: Annotated[int, Bounds(ge=0, lt=2**63)]
    crc32c: Annotated[int, Bounds(ge=0, lt=2**32)]
    """Of all bytes; of a file that is referred to, of its records' checksums in the order of the index: what else is
    in that file is not ours."""


def is_empty(value: object) -> bool:
    """Such a key is not written: datasets without need of it stay readable for readers that do not know it."""
    return not value


def first_not_later(times: Sequence[float]) -> int | None:
    """The first frame whose time is not after that of the frame before; None where all are."""
    return next((frame for frame, (before, time) in enumerate(pairwise(times), start=1) if not before < time), None)


class NotFinite(Contract):
    """Values of one channel that are no finite numbers, kept as they are in the source."""

    nan: Annotated[int, Bounds(ge=0)]
    infinite: Annotated[int, Bounds(ge=0)]


class Trajectory(Contract):
    """One simulation run. Rows `first_record …` of the index are its own: its frames', then its constants'."""

    split: Split
    source: SourceName
    """The source file's path relative to the source, and the number of the run in it: `train/a.hdf5#3`."""
    num_steps: Annotated[int, Bounds(ge=1)]
    first_record: Annotated[int, Bounds(ge=0)]
    times: tuple[float, ...]
    """Time of each frame, in the units of the source; each later than the one before."""
    scalars: dict[Name, float | tuple[float, ...]] = Bounds(default_factory=dict)
    """Simulation parameters; a tuple has one value for each frame."""
    not_finite: dict[Name, NotFinite] = Bounds(default_factory=dict, exclude_if=is_empty)
    """By channel, of those that have any; a trajectory that is not named here has finite values alone."""

    @model_validator(mode="after")
    def _times_agree(self) -> "Trajectory":
        if len(self.times) != self.num_steps:
            raise ValueError(f"{self.source}: {len(self.times)} times, but num_steps is {self.num_steps}")
        if (frame := first_not_later(self.times)) is not None:
            raise ValueError(
                f"{self.source}: time of frame {frame} is {self.times[frame]!r}, expected one after "
                f"{self.times[frame - 1]!r}, that of the frame before"
            )
        for name, values in self.scalars.items():
            if isinstance(values, tuple) and len(values) != self.num_steps:
                raise ValueError(f"{self.source}: {len(values)} values of {name}, but num_steps is {self.num_steps}")
        return self


Spread = Annotated[float, Bounds(ge=0)]


class Moments(Contract):
    """Statistics of one channel over the train split, in float64."""

    mean: float
    std: Spread
    rms: Spread
    mean_delta: float
    """Of the difference between neighbouring frames, as are the two below."""
    std_delta: Spread
    rms_delta: Spread


class Rounding(Contract):
    """What the values of one channel were rounded to, and what that cost over all frames of all splits.

    VRMSE is the root of (sum of squared errors / sum of squared distances from the mean over space): of a single frame
    it is the-well's; over many it sums both first, so that a uniform frame counts by its error and divides nothing.
    """

    kept_bits: Annotated[int, Bounds(ge=1, lt=MANTISSA_BITS)]
    """Of the mantissa; to nearest, ties to even."""
    vrmse: Annotated[float, Bounds(ge=0)] | None
    """None where the channel is uniform in space."""
    vrmse_delta: Annotated[float, Bounds(ge=0)] | None
    """Of the difference between neighbouring frames; None where there is none, as in constant channels."""


class SourceFile(Contract):
    """Provenance of one input file."""

    path: SourceName
    """Relative to the source."""
    bytes: Annotated[int, Bounds(ge=0)]
    crc32c: Annotated[int, Bounds(ge=0, lt=2**32)] | None
    """None for a source that is not on a local disk: it would have to be read twice."""


class LeftOut(Contract):
    """A trajectory of the source that was not converted, since some of its values are not finite."""

    source: SourceName
    """As in `Trajectory.source`."""
    not_finite: dict[Name, NotFinite]


class Provenance(Contract):
    """How this dataset was made."""

    command: tuple[str, ...]
    versions: dict[str, str]
    files: tuple[SourceFile, ...]
    left_out: tuple[LeftOut, ...] = Bounds(default=(), exclude_if=is_empty)


class Reference(Contract):
    """Where the values of a dataset lie that was not converted: in the files of its source, as they are there."""

    url: Annotated[
        str,
        matching(
            r"(/|[a-z][a-z0-9+.\-]*://)[^\x00-\x1f\x7f]{1,4095}",
            "an absolute path or a URL on one line, of at most 4096 characters",
        ),
    ]
    """Of the source's dataset folder, to which the paths of shards are relative; absolute."""
    kept: dict[Name, tuple[bool, ...]]
    """By field, the axes along which it is stored in full; of fields that are not stored so along all."""
