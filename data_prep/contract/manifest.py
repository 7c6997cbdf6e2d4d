"""The manifest: the one file that makes a folder of shards a dataset.

Two files, written last: `index.npy` (one row for each stored piece: shard, offset, bytes, crc32c) and
`manifest.json` (everything else, the index's checksum included). A destination without a manifest is no dataset.
The manifest comes from elsewhere, so it is checked strictly and never trusted for a path or a size.
"""

import json
import math
import re
from typing import Annotated, Literal

from pydantic import Field as Bounds
from pydantic import ValidationError, model_validator

from data_prep.contract.entries import (
    MANTISSA_BITS,
    SPLITS,
    Codec,
    Layout,
    LeftOut,
    Moments,
    NotFinite,
    Provenance,
    Reference,
    Rounding,
    Shard,
    SourceFile,
    Split,
    Trajectory,
    is_empty,
)
from data_prep.contract.errors import NotFoundError, RefusedError
from data_prep.contract.fields import Contract, DatasetSpec, Name
from data_prep.contract.index import (
    CODEC_OVERHEAD_BYTES,
    CURE,
    INDEX_DTYPE,
    INDEX_NAME,
    Expected,
    Index,
    describe_index,
    encode_index,
    load_index,
)
from data_prep.contract.pieces import Pieces, num_tiles, pieces_of
from data_prep.contract.storage import Storage
from data_prep.contract.strict_yaml.explain import faults_of

__all__ = [
    "CODEC_OVERHEAD_BYTES",
    "CURE",
    "INDEX_DTYPE",
    "INDEX_NAME",
    "MANIFEST_NAME",
    "MANTISSA_BITS",
    "MAX_FRAME_BYTES",
    "MAX_MANIFEST_BYTES",
    "MAX_PIECE_BYTES",
    "MAX_TILES",
    "SPLITS",
    "Codec",
    "Index",
    "Layout",
    "LeftOut",
    "Manifest",
    "Moments",
    "NotFinite",
    "Provenance",
    "Reference",
    "Rounding",
    "Shard",
    "SourceFile",
    "Split",
    "Trajectory",
    "describe_index",
    "encode_index",
    "load_manifest",
    "save_manifest",
    "shards_of",
]

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 2**28
"""No manifest of sense is larger: 100 000 trajectories of 100 steps take about 200 MB."""
MAX_PIECE_BYTES = 2**31 - 17
"""What blosc can hold in one buffer."""
MAX_FRAME_BYTES = 2**36
"""No frame of sense is larger: 1024 cubed with 16 channels."""
MAX_TILES = 2**16
"""Of one record."""
MAX_FAULTS = 5
"""Of a manifest, that are told in full."""
LAYOUT_PATHS: dict[Layout, re.Pattern[str]] = {
    "zarr": re.compile(r".+(?<!\.tar)(?<!\.hdf5)(?<!\.h5)"),
    "webdataset": re.compile(r".+\.tar"),
    "reference": re.compile(r".+\.(hdf5|h5)"),
}
"""Of the objects that a layout writes, or refers to."""


class Manifest(Contract):
    """Everything a reader needs to turn (trajectory, frame) into a byte range."""

    version: Literal[1] = 1
    """Goes up when a key changes its meaning. A new key needs none: readers that do not know it refuse it by name."""
    dataset: DatasetSpec
    layout: Layout
    codec: Codec
    tile: tuple[Annotated[int, Bounds(ge=1)], ...] | None = Bounds(default=None, exclude_if=is_empty)
    """Points along each spatial axis of the tiles that records are cut into; None (and no key) for whole ones."""
    reference: Reference | None = Bounds(default=None, exclude_if=is_empty)
    """Of the layout `reference` alone."""
    shards: tuple[Shard, ...] = Bounds(min_length=1)
    trajectories: tuple[Trajectory, ...] = Bounds(min_length=1)
    index: Shard
    statistics: dict[Name, Moments]
    """For each channel, constant channels too (with zero deltas)."""
    rounding: dict[Name, Rounding] | None = Bounds(default=None, exclude_if=is_empty)
    """For each channel that is not exact; None (and no key) where all are."""
    provenance: Provenance

    @model_validator(mode="after")
    def _statistics_cover_channels(self) -> "Manifest":
        expected = set(self.dataset.channels + self.dataset.constant_channels)
        if set(self.statistics) != expected:
            raise ValueError(f"statistics are of {sorted(self.statistics)}, but channels are {sorted(expected)}")
        if unknown := set(self.rounding or ()) - expected:
            raise ValueError(f"rounding is of {sorted(unknown)}, but channels are {sorted(expected)}")
        return self

    @model_validator(mode="after")
    def _counts_are_of_channels(self) -> "Manifest":
        channels = set(self.dataset.channels + self.dataset.constant_channels)
        for number, trajectory in enumerate(self.trajectories):
            if unknown := sorted(set(trajectory.not_finite) - channels):
                raise ValueError(
                    f"trajectories.{number}.not_finite names {unknown}, but channels are {sorted(channels)}"
                )
        return self

    @model_validator(mode="after")
    def _trajectories_are_of_the_dataset(self) -> "Manifest":
        numbers: dict[str, int] = {}
        for number, run in enumerate(self.trajectories):
            first = numbers.setdefault(run.source, number)
            if first != number:
                raise ValueError(f"trajectories.{number}.source is {run.source}, as is that of trajectories.{first}")
            if set(run.scalars) != set(self.dataset.scalars):
                raise ValueError(
                    f"trajectories.{number}.scalars are {sorted(run.scalars)}, but those of the dataset are "
                    f"{sorted(self.dataset.scalars)}"
                )
        return self

    @model_validator(mode="after")
    def _shards_are_of_the_layout(self) -> "Manifest":
        if self.index.path != INDEX_NAME:
            raise ValueError(f"index.path is {self.index.path}, expected {INDEX_NAME}")
        if self.layout == "webdataset" and self.codec != "none":
            raise ValueError(f"codec is {self.codec}, but tars hold plain arrays (`none`)")
        wrong = [shard.path for shard in self.shards if not LAYOUT_PATHS[self.layout].fullmatch(shard.path)]
        if wrong:
            raise ValueError(f"layout is {self.layout}, but `{wrong[0]}` among its shards can be none of that layout")
        return self

    @model_validator(mode="after")
    def _tiles_are_of_sense(self) -> "Manifest":
        """First of all that looks at records, since it bounds how many there can be."""
        if self.frame_bytes > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {self.dataset.frame_shape} is larger than {MAX_FRAME_BYTES} bytes")
        if self.tile is None:
            return self
        space = self.dataset.resolution
        if self.layout != "zarr":
            raise ValueError(f"tile is {self.tile}, but only the layout zarr has tiles")
        if len(self.tile) != len(space) or any(length > size for length, size in zip(self.tile, space, strict=True)):
            raise ValueError(f"tile is {self.tile}, expected a part of {space}")
        if num_tiles(space, self.tile) > MAX_TILES:
            raise ValueError(f"tiles of {self.tile} cut {space} into more than {MAX_TILES} parts")
        return self

    @model_validator(mode="after")
    def _reference_is_of_sense(self) -> "Manifest":
        if (self.reference is None) == (self.layout == "reference"):
            raise ValueError(f"layout is {self.layout}, but reference is {(self.reference and 'given') or 'missing'}")
        if self.reference is None:
            return self
        if self.codec != "none" or self.rounding:
            raise ValueError(
                "values that are referred to are neither encoded nor rounded, but codec or rounding says so"
            )
        names = {field.name for field in self.dataset.fields + self.dataset.constant_fields}
        for name, flags in self.reference.kept.items():
            if name not in names or len(flags) != len(self.dataset.resolution):
                raise ValueError(
                    f"reference.kept has {flags} for {name}; expected a flag for each axis, of {sorted(names)}"
                )
        return self

    @model_validator(mode="after")
    def _records_follow_each_other(self) -> "Manifest":
        next_record, pieces = 0, self.pieces
        for number, trajectory in enumerate(self.trajectories):
            if trajectory.first_record != next_record:
                raise ValueError(
                    f"trajectories.{number}.first_record is {trajectory.first_record}, expected {next_record}"
                )
            next_record += pieces.num_rows(trajectory.num_steps)
        return self

    @model_validator(mode="after")
    def _records_are_of_sense(self) -> "Manifest":
        if self.pieces.largest_bytes > MAX_PIECE_BYTES:
            raise ValueError(f"a record of {self.dataset.frame_shape} has a part of more than {MAX_PIECE_BYTES} bytes")
        if len({shard.path for shard in self.shards}) != len(self.shards):
            raise ValueError("two shards have the same path")
        return self

    @property
    def pieces(self) -> Pieces:
        """How records are cut into rows of the index."""
        return pieces_of(self.dataset, self.tile, self.reference.kept if self.reference else None)

    @property
    def kept_bits(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Kept bits of each channel of a frame, and of each constant channel; all of them where it is exact."""
        rounding, spec = self.rounding or {}, self.dataset
        of_frame, of_constants = (
            tuple(rounding[name].kept_bits if name in rounding else MANTISSA_BITS for name in channels)
            for channels in (spec.channels, spec.constant_channels)
        )
        return of_frame, of_constants

    @property
    def kept_fields(self) -> dict[str, int]:
        """Kept bits of each field that is not exact."""
        rounding, spec = self.rounding or {}, self.dataset
        firsts = {
            field.name: field.component_names(spec.spatial_dims)[0] for field in spec.fields + spec.constant_fields
        }
        return {name: rounding[channel].kept_bits for name, channel in firsts.items() if channel in rounding}

    @property
    def num_rows(self) -> int:
        """Rows that the index must have."""
        pieces = self.pieces
        return sum(pieces.num_rows(trajectory.num_steps) for trajectory in self.trajectories)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one decoded frame."""
        return 4 * math.prod(self.dataset.frame_shape)

    def of_split(self, split: str) -> tuple[Trajectory, ...]:
        """The trajectories of one split, in stored order."""
        return tuple(trajectory for trajectory in self.trajectories if trajectory.split == split)


def load_manifest(storage: Storage) -> tuple[Manifest, Index]:
    """Read and check the manifest of a prepared dataset, and its index.

    Raises RefusedError, naming file and key, for anything that is not exactly what the manifest must be, and
    NotFoundError when there is none. After this every row of the index lies inside its shard.
    """
    try:
        text = storage.get(MANIFEST_NAME, max_bytes=MAX_MANIFEST_BYTES)
    except NotFoundError as error:
        raise NotFoundError(
            f"{storage.url} has no {MANIFEST_NAME}, so it is no prepared dataset (or its conversion has not "
            "finished); make one with `python -m data_prep convert SOURCE DEST --format zarr`"
        ) from error
    where = storage.locate(MANIFEST_NAME)
    try:
        manifest = Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise RefusedError(_explain(where, text, error)) from error
    expected = Expected(
        described=manifest.index,
        num_steps=[run.num_steps for run in manifest.trajectories],
        pieces=manifest.pieces,
        codec=manifest.codec,
        shard_bytes=[shard.bytes for shard in manifest.shards],
    )
    return manifest, load_index(storage, expected)


def save_manifest(storage: Storage, manifest: Manifest, index: Index) -> None:
    """Write the index, then the manifest: only now is the destination a dataset."""
    storage.put(INDEX_NAME, encode_index(index))
    storage.put(MANIFEST_NAME, manifest.model_dump_json().encode())


def shards_of(storage: Storage, manifest: Manifest) -> Storage:
    """The folder that the paths of shards are relative to: the dataset's own, or the source that it refers to.

    Raises RefusedError for a manifest in an object store that points at files of this machine, which it cannot know.
    """
    if manifest.reference is None:
        return storage
    source = Storage(manifest.reference.url, storage.retries, storage.faults)
    if source.is_local and not storage.is_local:
        raise RefusedError(
            f"{storage.locate(MANIFEST_NAME)}: reference.url is {source.url}, a folder of this machine, to which a "
            "dataset in an object store cannot refer; make the reference again where its source is, or convert"
        )
    return source


def _explain(where: str, text: bytes, error: ValidationError) -> str:
    """One message: file, key, what is wrong, for the first few errors."""
    first, *_ = error.errors(include_url=False)
    if first["type"] == "json_invalid":
        return f"{where}: is no JSON ({first['ctx']['error']}); {CURE}"
    faults = faults_of(error, json.loads(text), Manifest)
    lines = [f"{where}: {fault}" for fault in faults[:MAX_FAULTS]]
    more = [f"… and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
    return "\n".join(lines + more) + f"; {CURE}"
