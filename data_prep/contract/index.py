"""The byte index of a dataset, `index.npy`: one row for each stored piece, in the order of the records.

Comes from elsewhere, so that it is checked before any row of it is used: size, checksum, type, and that every row lies
inside its shard.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.contract.checksum import checksum
from data_prep.contract.entries import Codec, Shard
from data_prep.contract.errors import NotFoundError, RefusedError
from data_prep.contract.pieces import Pieces
from data_prep.contract.storage import Storage

INDEX_NAME = "index.npy"
INDEX_DTYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("bytes", "<u4"), ("crc32c", "<u4")])
"""One stored piece: the number of its shard in `Manifest.shards`, the range of its payload, its checksum."""
MAX_INDEX_BYTES = 2**32
"""No index of sense is larger: 200 million pieces."""
CURE = "copy the dataset again from where it is whole, or convert its source again into an empty folder"
"""What a person does about a manifest or index that is not as it should be."""
CODEC_OVERHEAD_BYTES = 16
"""How much longer than the plain values a payload may be: the header of a piece that does not compress."""
MOST_DECODED: dict[Codec, int] = {"none": 1, "blosc-lz4": 2**8, "blosc-zstd": 2**15}
"""Bytes that one stored byte can be decoded to, by the formats: a frame that is larger is none, whoever claims it."""

Index = np.ndarray[Any, np.dtype[np.void]]
"""(row,) of INDEX_DTYPE."""


@dataclass(frozen=True)
class Expected:
    """What a manifest says of its index."""

    described: Shard
    num_steps: Sequence[int]
    """Of each trajectory."""
    pieces: Pieces
    codec: Codec
    shard_bytes: Sequence[int]
    """Of each shard, in the order of their numbers."""

    @property
    def num_rows(self) -> int:
        return sum(map(self.pieces.num_rows, self.num_steps))

    def decoded_bytes(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Of the piece that each row stands for."""
        frame, constants = (
            np.array([piece.num_bytes for piece in pieces], np.int64)
            for pieces in (self.pieces.of_frame, self.pieces.of_constants)
        )
        return np.concatenate([part for steps in self.num_steps for part in (np.tile(frame, steps), constants)])


def describe_index(index: Index) -> Shard:
    """What `Manifest.index` says of an index."""
    data = encode_index(index)
    return Shard(path=INDEX_NAME, bytes=len(data), crc32c=checksum(data))


def encode_index(index: Index) -> bytes:
    """The bytes of `index.npy`."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(index, INDEX_DTYPE), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def load_index(storage: Storage, expected: Expected) -> Index:
    """Read and check it. Raises RefusedError that names the file and, where there is one, the row."""
    where = storage.locate(INDEX_NAME)
    try:
        data = storage.get(INDEX_NAME, max_bytes=min(expected.described.bytes, MAX_INDEX_BYTES))
    except NotFoundError as error:
        raise NotFoundError(f"{error}, though the manifest names it; {CURE}") from error
    if len(data) != expected.described.bytes or checksum(data) != expected.described.crc32c:
        raise RefusedError(
            f"{where}: {len(data)} bytes with crc32c {checksum(data):08x}, but the manifest says "
            f"{expected.described.bytes} with {expected.described.crc32c:08x}; it is not of this manifest, or damaged; "
            f"{CURE}"
        )
    index = _decode(where, data, num_rows=expected.num_rows)
    _check_rows(where, index, expected)
    return index


def _decode(where: str, data: bytes, *, num_rows: int) -> Index:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise RefusedError(f"{where}: no NumPy array file: {error}; {CURE}") from error
    rows = data[file.tell() :]
    expected = (num_rows,)
    if version != (1, 0) or dtype != INDEX_DTYPE or shape != expected or len(rows) != INDEX_DTYPE.itemsize * shape[0]:
        raise RefusedError(f"{where}: {shape} of {dtype}, expected {expected} of {INDEX_DTYPE}; {CURE}")
    index: Index = np.frombuffer(rows, INDEX_DTYPE)
    return index


def _check_rows(where: str, index: Index, expected: Expected) -> None:
    """Every row must point into its shard, at a payload that can be a piece of a record."""
    sizes = np.array(expected.shard_bytes, np.uint64)
    shard_numbers = index["shard"].astype(np.int64)
    _refuse_row(where, shard_numbers >= len(sizes), f"points at a shard, but there are only {len(sizes)} shards")
    shard_bytes = sizes[shard_numbers]
    outside = (index["offset"] > shard_bytes) | (
        index["bytes"] > shard_bytes - np.minimum(index["offset"], shard_bytes)
    )
    _refuse_row(where, outside, "reaches beyond the end of its shard")
    decoded, stored = expected.decoded_bytes(), index["bytes"].astype(np.int64)
    overhead = 0 if expected.codec == "none" else CODEC_OVERHEAD_BYTES
    _refuse_row(where, stored > decoded + overhead, "has a payload of more bytes than its record can take")
    too_small = stored * MOST_DECODED[expected.codec] < decoded
    _refuse_row(where, too_small, f"has a payload of too few bytes for its record, by the codec {expected.codec}")


def _refuse_row(where: str, wrong: np.ndarray[Any, np.dtype[np.bool_]], what: str) -> None:
    if wrong.any():
        raise RefusedError(f"{where}: row {int(np.argmax(wrong))} {what}; {CURE}")
