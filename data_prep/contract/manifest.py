"""The manifest: the one file that makes a folder of shards a dataset.

Two files, written last: `index.npy` (one row for each stored piece: shard, offset, bytes, crc32c) and
`manifest.json` (everything else, the index's checksum included). A destination without a manifest is no dataset.
The manifest comes from elsewhere, so it is checked strictly and never trusted for a path or a size.
"""

import io
import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field as Bounds
from pydantic import ValidationError, model_validator

from data_prep.contract.checksum import checksum
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
from data_prep.contract.pieces import Pieces, num_tiles, pieces_of
from data_prep.contract.storage import Storage

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
INDEX_NAME = "index.npy"
INDEX_DTYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("bytes", "<u4"), ("crc32c", "<u4")])
"""One stored piece: the number of its shard in `Manifest.shards`, the range of its payload, its checksum."""
MAX_MANIFEST_BYTES = 2**28
"""No manifest of sense is larger: 100 000 trajectories of 100 steps take about 200 MB."""
CURE = "copy the dataset again from where it is whole, or convert its source again into an empty folder"
"""What a person does about a manifest or index that is not as it should be."""
MAX_PIECE_BYTES = 2**31 - 17
"""What blosc can hold in one buffer."""
MAX_FRAME_BYTES = 2**36
"""No frame of sense is larger: 1024 cubed with 16 channels."""
MAX_TILES = 2**16
"""Of one record."""
CODEC_OVERHEAD_BYTES = 16
"""How much longer than the plain values a payload may be: the header of a piece that does not compress."""


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
    shards: tuple[Shard, ...]
    trajectories: tuple[Trajectory, ...]
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


Index = np.ndarray[Any, np.dtype[np.void]]
"""(row,) of INDEX_DTYPE."""


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
        raise RefusedError(_explain(where, error)) from error
    return manifest, _load_index(storage, manifest)


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


def describe_index(index: Index) -> Shard:
    """What `Manifest.index` says of an index."""
    data = encode_index(index)
    return Shard(path=INDEX_NAME, bytes=len(data), crc32c=checksum(data))


def encode_index(index: Index) -> bytes:
    """The bytes of `index.npy`."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(index, INDEX_DTYPE), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _load_index(storage: Storage, manifest: Manifest) -> Index:
    where = storage.locate(manifest.index.path)
    try:
        data = storage.get(manifest.index.path, max_bytes=manifest.index.bytes)
    except NotFoundError as error:
        raise NotFoundError(f"{error}, though the manifest names it; {CURE}") from error
    if len(data) != manifest.index.bytes or checksum(data) != manifest.index.crc32c:
        raise RefusedError(
            f"{where}: {len(data)} bytes with crc32c {checksum(data):08x}, but the manifest says "
            f"{manifest.index.bytes} with {manifest.index.crc32c:08x}; it is not of this manifest, or damaged; {CURE}"
        )
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise RefusedError(f"{where}: no NumPy array file: {error}; {CURE}") from error
    rows = data[file.tell() :]
    expected = (manifest.num_rows,)
    if version != (1, 0) or dtype != INDEX_DTYPE or shape != expected or len(rows) != INDEX_DTYPE.itemsize * shape[0]:
        raise RefusedError(f"{where}: {shape} of {dtype}, expected {expected} of {INDEX_DTYPE}; {CURE}")
    index: Index = np.frombuffer(rows, INDEX_DTYPE)
    _check_rows(where, manifest, index)
    return index


def _check_rows(where: str, manifest: Manifest, index: Index) -> None:
    """Every row must point into its shard, at a payload that can be a piece of a record."""
    sizes = np.array([shard.bytes for shard in manifest.shards], np.uint64)
    shard_numbers = index["shard"].astype(np.int64)
    _refuse_row(where, shard_numbers >= len(sizes), f"points at a shard, but there are only {len(sizes)} shards")
    shard_bytes = sizes[shard_numbers]
    outside = (index["offset"] > shard_bytes) | (
        index["bytes"] > shard_bytes - np.minimum(index["offset"], shard_bytes)
    )
    _refuse_row(where, outside, "reaches beyond the end of its shard")
    largest = manifest.pieces.largest_bytes + CODEC_OVERHEAD_BYTES
    too_large = index["bytes"] > largest
    _refuse_row(where, too_large, f"has a payload of more than the {largest} bytes that a record can take")


def _refuse_row(where: str, wrong: np.ndarray[Any, np.dtype[np.bool_]], what: str) -> None:
    if wrong.any():
        raise RefusedError(f"{where}: row {int(np.argmax(wrong))} {what}; {CURE}")


def _explain(where: str, error: ValidationError) -> str:
    """One message: file, key, what is wrong, for the first few errors."""
    details = error.errors(include_url=False)
    lines = [f"{where}: {'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}" for item in details[:5]]
    more = [f"… and {len(details) - 5} more"] if len(details) > 5 else []
    return "\n".join(lines + more) + f"; {CURE}"
