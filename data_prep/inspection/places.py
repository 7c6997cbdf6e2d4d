"""Where the records of a shard lie according to the layout's own structures, not to our index.

`verify` compares the two: then what a plain zarr or webdataset session reads is what the trainer reads.
"""

import io
import math
import struct
import tarfile
from typing import Any

import numpy as np

from data_prep.contract.checksum import checksum
from data_prep.contract.errors import IntegrityError
from data_prep.contract.manifest import Manifest
from data_prep.contract.plain_json import parsed
from data_prep.sources.origin import Origin

Places = dict[int, tuple[int, int]]
"""Row of the index -> (offset, bytes) of its payload."""

_ABSENT = 2**64 - 1
_ENTRY_BYTES = 16
_CRC32C = struct.Struct("<I")


def zarr_places(manifest: Manifest, path: str, data: bytes, *, block: tuple[int, int]) -> Places:
    """By the index at the end of a zarr shard. `block`: (trajectories, steps) of a shard of this array."""
    split, array, _, *position = path.split("/")
    is_constant, pieces = array == "constant_fields", manifest.pieces
    table = _zarr_table(data, (*block, len(pieces.of_constants if is_constant else pieces.of_frame)))
    first_trajectory = int(position[0]) * block[0]
    first_step = 0 if is_constant else int(position[1]) * block[1]
    members = [run for run in manifest.trajectories if run.split == split]
    places: Places = {}
    for trajectory, step, piece in np.argwhere(table[..., 0] != _ABSENT).tolist():
        number, frame = first_trajectory + trajectory, first_step + step
        if number >= len(members) or frame >= (1 if is_constant else members[number].num_steps):
            raise IntegrityError(f"holds a chunk at {(number, frame)}, where the manifest has no frame")
        offset, length = table[trajectory, step, piece].tolist()
        run = members[number]
        first, steps = run.first_record, run.num_steps
        rows = pieces.constant_rows(first, steps) if is_constant else pieces.frame_rows(first, frame)
        places[rows[piece]] = (offset, length - _CRC32C.size)
    return places


def _zarr_table(data: bytes, counts: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """(trajectory, step, piece, 2): offset and length of each chunk."""
    num_chunks = math.prod(counts)
    table_bytes = num_chunks * _ENTRY_BYTES
    if len(data) < table_bytes + _CRC32C.size:
        raise IntegrityError(f"has {len(data)} bytes, too few for the index of {num_chunks} chunks at its end")
    text = data[-table_bytes - _CRC32C.size : -_CRC32C.size]
    if checksum(text) != _CRC32C.unpack(data[-_CRC32C.size :])[0]:
        raise IntegrityError("the index at its end is damaged")
    return np.frombuffer(text, "<u8").reshape(*counts, 2)


def zarr_block(array_metadata: bytes) -> tuple[int, int]:
    """(trajectories, steps) of one shard, by the array's `zarr.json`; constant fields have one step."""
    metadata = parsed(array_metadata)
    shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    return int(shape[0]), int(shape[1]) if "time" in metadata["dimension_names"] else 1


def tar_places(manifest: Manifest, data: bytes) -> Places:
    """By the members of a tar."""
    runs = {run.source: run for run in manifest.trajectories}
    places: Places = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            members = {member.name: member for member in tar}
    except tarfile.TarError as error:
        raise IntegrityError(f"is no readable tar: {error}") from error
    for name, member in members.items():
        if not name.endswith(".json"):
            continue
        key = name.removesuffix(".json")
        facts = parsed(data[member.offset_data : member.offset_data + member.size])
        run = runs[facts["trajectory"]]
        first_row = run.first_record + facts["first_frame"]
        places |= _array_places(data, members[f"{key}.fields.npy"], first_row, count=len(facts["times"]))
        if facts["first_frame"] == 0 and f"{key}.constants.npy" in members:
            row = run.first_record + run.num_steps
            places |= _array_places(data, members[f"{key}.constants.npy"], row, count=1)
    return places


def _array_places(data: bytes, member: tarfile.TarInfo, first_row: int, *, count: int) -> Places:
    stream = io.BytesIO(data[member.offset_data : member.offset_data + 2**16])
    np.lib.format.read_magic(stream)
    np.lib.format.read_array_header_1_0(stream)
    length = (member.size - stream.tell()) // count
    first = member.offset_data + stream.tell()
    return {first_row + number: (first + number * length, length) for number in range(count)}


def file_places(manifest: Manifest, origin: Origin, path: str) -> Places:
    """By the headers of a source file that is referred to."""
    places: Places = {}
    for run in manifest.trajectories:
        file, _, number = run.source.rpartition("#")
        if origin.shard_path(file) != path or file not in origin.files:
            continue
        where, pieces, first = origin.files[file], manifest.pieces, run.first_record
        for step in range(run.num_steps):
            for row, piece, field in zip(pieces.frame_rows(first, step), pieces.of_frame, where.fields, strict=True):
                places[row] = (field.offset_of(int(number), step), piece.num_bytes)
        rows = pieces.constant_rows(first, run.num_steps)
        for row, piece, field in zip(rows, pieces.of_constants, where.constant_fields, strict=True):
            places[row] = (field.offset_of(int(number), 0), piece.num_bytes)
    return places


def layout_places(manifest: Manifest, path: str, data: bytes, *, blocks: dict[str, tuple[int, int]]) -> Places:
    """By whatever the layout is. `blocks`: of each zarr array, by its path. Raises IntegrityError."""
    try:
        if manifest.layout == "webdataset":
            return tar_places(manifest, data)
        return zarr_places(manifest, path, data, block=blocks[array_of(path)])
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise IntegrityError(
            f"is no {manifest.layout} shard of this dataset: {type(error).__name__}: {error}"
        ) from error


def array_of(path: str) -> str:
    """`train/fields/c/0/0` -> `train/fields`."""
    return path.partition("/c/")[0]
