"""The layout `zarr`: zarr v3 with sharding, which plain zarr and xarray sessions open as it is.

One group for each split with the fused array `fields`: float32 (trajectory, time, channel, *space). An inner chunk is
one frame with all its channels, since windows of frames are what training reads, or one tile of a frame that outgrows
`Options.tile_bytes`; a shard holds whole trajectories.
Chunks end with their crc32c, shards with their index, both in zarr's own encoding. We assemble shards ourselves, since
a chunk costs zarr-python a quarter of a millisecond and we need the place of each one anyway; that zarr reads them,
and would have written the same chunks, is tested. Metadata is zarr-python's.
"""

import struct
import warnings
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from data_prep.contract.checksum import checksum_and_extend, extend_checksum
from data_prep.contract.errors import RefusedError
from data_prep.contract.manifest import CODEC_OVERHEAD_BYTES, SPLITS, Shard, Split
from data_prep.contract.sample import BLOSC_LEVELS, ITEM_BYTES, FrameArray, encode_frame
from data_prep.plan import Plan, Segment, Unit
from data_prep.room import Room
from data_prep.shard import BuiltShard, Record

CRC32C = struct.Struct("<I")
ABSENT = 2**64 - 1
"""Offset and length of a chunk that a shard does not have: steps beyond a trajectory's end."""


class ZarrShardBuilder:
    """Builds one shard of `fields` or `constant_fields`."""

    def __init__(self, plan: Plan, unit: Unit, room: Room) -> None:
        self._plan = plan
        self._unit = unit
        self._end = 0
        self._records: list[Record] = []
        self._position = {number: position for position, number in enumerate(plan.of_split(unit.split))}
        block = plan.frames_block(unit.split) if unit.kind == "frames" else plan.constants_block(unit.split)
        self._pieces = plan.pieces.of_frame if unit.kind == "frames" else plan.pieces.of_constants
        self._index = np.full((block.num_trajectories, block.num_steps, len(self._pieces), 2), ABSENT, "<u8")
        num_records = sum(segment.num_steps + segment.with_constants for segment in unit.segments)
        room_of_chunk = [piece.num_bytes + CODEC_OVERHEAD_BYTES + CRC32C.size for piece in self._pieces]
        self._room = room.take(num_records * sum(room_of_chunk) + self._index.nbytes + CRC32C.size)
        self._crc32c = 0

    def place_of(self, segment: Segment) -> FrameArray | None:
        """In the shard, with room for a checksum behind each frame, where chunks are plain and whole frames."""
        if self._plan.options.codec != "none" or len(self._pieces) > 1 or not segment.num_steps:
            return None
        shape, chunk_bytes = self._plan.spec.frame_shape, self._pieces[0].num_bytes + CRC32C.size
        chunks = self._room[self._end : self._end + segment.num_steps * chunk_bytes].reshape(-1, chunk_bytes)
        return chunks[:, : -CRC32C.size].view(np.float32).reshape(-1, *shape)

    def add(self, segment: Segment, frames: FrameArray, *, constants: FrameArray | None) -> None:
        """Append the segment's chunks."""
        trajectory = self._position[segment.trajectory] - self._unit.first_trajectory
        if constants is not None:
            self._append(constants, rows=self._plan.constant_rows(segment.trajectory), place=(trajectory, 0))
        for step, frame in enumerate(frames, start=segment.start):
            rows = self._plan.frame_rows(segment.trajectory, step)
            self._append(frame, rows=rows, place=(trajectory, step - self._unit.first_step))

    def finish(self) -> BuiltShard:
        """The chunks and, behind them, the shard's own index."""
        self._write(self._index.tobytes())
        shard = Shard(path=self._unit.path, bytes=self._end, crc32c=self._crc32c)
        return BuiltShard(shard, tuple(self._records), self._room[: self._end].data)

    def _append(self, record: FrameArray, *, rows: range, place: tuple[int, int]) -> None:
        for number, (row, piece) in enumerate(zip(rows, self._pieces, strict=True)):
            payload = encode_frame(piece.take(record), self._plan.options.codec, self._plan.shuffle)
            offset, crc32c = self._end, self._write(payload)
            self._index[*place, number] = (offset, len(payload) + CRC32C.size)
            self._records.append(Record(row=row, offset=offset, bytes=len(payload), crc32c=crc32c))

    def _write(self, payload: bytes | memoryview) -> int:
        """Append a payload, unless it stands there already, and its checksum, which is given back."""
        values, middle = np.frombuffer(payload, np.uint8), self._end + len(payload)
        place = self._room[self._end : middle]
        if not np.may_share_memory(values, place):
            place[:] = values
        crc32c, self._crc32c = checksum_and_extend(self._crc32c, place)
        ending = CRC32C.pack(crc32c)
        self._room[middle : middle + len(ending)] = np.frombuffer(ending, np.uint8)
        self._crc32c = extend_checksum(self._crc32c, ending)
        self._end = middle + len(ending)
        return crc32c


def metadata_objects(plan: Plan) -> dict[str, bytes]:
    """Everything but the shards, by path: zarr's metadata, and small arrays by which the groups explain themselves."""
    objects: dict[str, Any] = {}
    store = MemoryStore(store_dict=objects)
    facts = plan.spec.model_dump(mode="json", exclude={"coordinates"})
    facts |= {"channels": plan.spec.channels, "constant_channels": plan.spec.constant_channels}
    if plan.options.kept_bits:
        facts["kept_bits"] = plan.options.kept_bits
    root = zarr.create_group(store, zarr_format=3, attributes=facts)
    for split in SPLITS:
        if plan.of_split(split):
            _describe_split(root.create_group(split, attributes=facts), plan, split)
            _consolidate(store, split)
    _consolidate(store, "")
    return {path: value.to_bytes() for path, value in sorted(objects.items())}


def _consolidate(store: MemoryStore, path: str) -> None:
    """One request for all metadata instead of one for each array."""
    with warnings.catch_warnings():
        # consolidated metadata is not in the core specification yet; readers that do not know it ignore it
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(store, path=path)


def _describe_split(group: zarr.Group, plan: Plan, split: Split) -> None:
    spec, runs = plan.spec, [plan.trajectories[number] for number in plan.of_split(split)]
    group.attrs["trajectories"] = [run.name for run in runs]
    longest = max(run.num_steps for run in runs)
    block = plan.frames_block(split)
    tile = plan.tile or spec.resolution
    # a shard spans whole tiles, be it that the last ones reach beyond the edge
    space = tuple(-(-size // length) * length for size, length in zip(spec.resolution, tile, strict=True))
    channels, constants = len(spec.channels), len(spec.constant_channels)
    _create_fused(
        group,
        "fields",
        shape=(len(runs), longest, *spec.frame_shape),
        chunks=(1, 1, channels, *tile),
        shards=(block.num_trajectories, block.num_steps, channels, *space),
        names=("trajectory", "time", "channel", *spec.spatial_dims),
        codecs=_codecs(plan),
    )
    if spec.constant_fields:
        _create_fused(
            group,
            "constant_fields",
            shape=(len(runs), *spec.constant_shape),
            chunks=(1, constants, *tile),
            shards=(plan.constants_block(split).num_trajectories, constants, *space),
            names=("trajectory", "constant_channel", *spec.spatial_dims),
            codecs=_codecs(plan),
        )
    _add_small(group, "num_steps", np.array([run.num_steps for run in runs], np.int64), names=("trajectory",))
    _add_small(group, "times", _padded([run.times for run in runs], longest), names=("trajectory", "time"))
    for dim, coordinates in zip(spec.spatial_dims, spec.coordinates, strict=True):
        _add_small(group, dim, np.array(coordinates, np.float64), names=(dim,))
    for name in spec.scalars:
        _add_scalar(group, f"scalar_{name}", [run.scalars[name] for run in runs], longest)


def _create_fused(
    group: zarr.Group,
    name: str,
    *,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...],
    names: tuple[str, ...],
    codecs: list[BloscCodec | Crc32cCodec],
) -> None:
    group.create_array(
        name,
        shape=shape,
        dtype="float32",
        chunks=chunks,
        shards=shards,
        fill_value=float("nan"),
        compressors=codecs,
        dimension_names=names,
    )


def _codecs(plan: Plan) -> list[BloscCodec | Crc32cCodec]:
    if plan.options.codec == "none":
        return [Crc32cCodec()]
    compressor, level = BLOSC_LEVELS[plan.options.codec]
    return [BloscCodec(typesize=ITEM_BYTES, cname=compressor, clevel=level, shuffle=plan.shuffle), Crc32cCodec()]


def _add_scalar(group: zarr.Group, name: str, values: list[float | tuple[float, ...]], longest: int) -> None:
    rows = [value for value in values if isinstance(value, tuple)]
    if rows:
        full = [value if isinstance(value, tuple) else (value,) * longest for value in values]
        _add_small(group, name, _padded(full, longest), names=("trajectory", "time"))
    else:
        _add_small(group, name, np.array(values, np.float64), names=("trajectory",))


def _add_small(group: zarr.Group, name: str, values: np.ndarray[Any, Any], *, names: tuple[str, ...]) -> None:
    if name in group:
        raise RefusedError(
            f"`{name}` names two arrays of the zarr group {group.path}; rename the axis or the parameter"
        )
    fill_value = float("nan") if values.dtype.kind == "f" else 0
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        compressors=None,
        fill_value=fill_value,
        dimension_names=names,
    )
    array[...] = values


def _padded(rows: list[tuple[float, ...]], length: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(row, length), NaN behind the end of a short row."""
    full = np.full((len(rows), length), np.nan)
    for number, row in enumerate(rows):
        full[number, : len(row)] = row
    return full
