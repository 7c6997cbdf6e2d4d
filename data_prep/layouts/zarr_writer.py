"""The layout `zarr`: zarr v3 with sharding, which plain zarr and xarray sessions open as it is.

One group for each split with the fused array `fields`: float32 (trajectory, time, channel, *space). An inner chunk is
one frame with all its channels, since windows of frames are what training reads, or one tile of a frame that outgrows
`Options.tile_bytes`; a shard holds whole trajectories.
Chunks end with their crc32c, shards with their index, both in zarr's own encoding. Chunks begin at round places, which
the specification leaves to us: so copies out of a file move whole lines of a cache. We assemble shards ourselves, since
a chunk costs zarr-python a quarter of a millisecond and we need the place of each one anyway; that zarr reads them,
and would have written the same chunks, is tested. Metadata is zarr-python's: `zarr_metadata`.
"""

import struct

import numpy as np

from data_prep.contract.checksum import checksum_and_extend, extend_checksum
from data_prep.contract.manifest import CODEC_OVERHEAD_BYTES, Shard
from data_prep.contract.sample import FrameArray, encode_frame
from data_prep.layouts.shard import BuiltShard, Record
from data_prep.planning.plan import Plan, Segment, Unit
from data_prep.sources.room import Room

CRC32C = struct.Struct("<I")
CHUNK_ALIGNMENT = 64
"""Bytes of which the place of each chunk in its shard is a multiple: a line of a processor's cache."""
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
        room_of_chunk = [_chunk_bytes(piece.num_bytes + CODEC_OVERHEAD_BYTES) for piece in self._pieces]
        self._room = room.take(num_records * sum(room_of_chunk) + self._index.nbytes + CRC32C.size)
        self._crc32c = 0

    def place_of(self, segment: Segment) -> FrameArray | None:
        """In the shard, with room for a checksum behind each frame, where chunks are plain and whole frames."""
        if self._plan.options.codec != "none" or len(self._pieces) > 1 or not segment.num_steps:
            return None
        shape, num_bytes = self._plan.spec.frame_shape, self._pieces[0].num_bytes
        chunk_bytes = _chunk_bytes(num_bytes)
        chunks = self._room[self._end : self._end + segment.num_steps * chunk_bytes].reshape(-1, chunk_bytes)
        return chunks[:, :num_bytes].view(np.float32).reshape(-1, *shape)

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
            offset, crc32c = self._end, self._write(payload, align=CHUNK_ALIGNMENT)
            self._index[*place, number] = (offset, len(payload) + CRC32C.size)
            self._records.append(Record(row=row, offset=offset, bytes=len(payload), crc32c=crc32c))

    def _write(self, payload: bytes | memoryview, *, align: int = 1) -> int:
        """Append a payload, unless it stands there already, and its checksum, which is given back; then zeros."""
        values, middle = np.frombuffer(payload, np.uint8), self._end + len(payload)
        place = self._room[self._end : middle]
        if values.ctypes.data != place.ctypes.data:
            place[:] = values
        crc32c, self._crc32c = checksum_and_extend(self._crc32c, place)
        ending = CRC32C.pack(crc32c) + bytes(-(middle + CRC32C.size) % align)
        self._room[middle : middle + len(ending)] = np.frombuffer(ending, np.uint8)
        self._crc32c = extend_checksum(self._crc32c, ending)
        self._end = middle + len(ending)
        return crc32c


def _chunk_bytes(payload_bytes: int) -> int:
    """What a chunk takes of its shard."""
    return -(-(payload_bytes + CRC32C.size) // CHUNK_ALIGNMENT) * CHUNK_ALIGNMENT
