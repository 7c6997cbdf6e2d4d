"""One stored piece of a record <-> bytes, exactly.

The values are float32, little-endian, (channel, *space) in C order: a frame or a constant record, or a tile of one.
Their payload is what `INDEX_DTYPE` points at and what `checksum` covers. A blosc payload is byte for byte what zarr's
own blosc codec writes for the same chunk, so that zarr readers understand our shards.
"""

import math
import struct
from typing import Literal

import numpy as np
from numcodecs import blosc

from data_prep.contract.checksum import checksum
from data_prep.contract.errors import IntegrityError
from data_prep.contract.manifest import Codec
from data_prep.contract.pieces import FrameArray, Piece

__all__ = ["FrameArray", "Shuffle", "checksum", "decode_frame", "decode_piece", "encode_frame"]

BLOSC_LEVELS: dict[Codec, tuple[Literal["lz4", "zstd"], int]] = {"blosc-lz4": ("lz4", 5), "blosc-zstd": ("zstd", 3)}
"""Compressor and level of each codec but `none`; both shuffle first.

lz4 decodes several times faster, zstd stores a few percent less: `python -m tests.benchmarks.test_codec_rates`.
"""

Shuffle = Literal["shuffle", "bitshuffle"]
"""Of bytes, or of bits, which pays where values are rounded. As zarr calls them; a payload's header tells."""
_SHUFFLES: dict[Shuffle, int] = {"shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}

ITEM_BYTES = 4
_HEADER = struct.Struct("<BBBBIII")
"""Blosc 1 header: version, codec version, flags, item bytes, decoded bytes, block bytes, payload bytes."""

# Blosc's thread pool writes blocks in the order in which they finish; a payload must depend on its frame alone.
# zarr sets the same switch to the same value when it is imported.
blosc.use_threads = False


def encode_frame(frame: FrameArray, codec: Codec, shuffle: Shuffle = "shuffle") -> bytes | memoryview:
    """The payload of one piece, which may share the memory of `frame`: (channel, *space) in C order."""
    assert _is_plain(frame), "encode_frame takes C-ordered float32"
    if codec == "none":
        return frame.reshape(-1).view(np.uint8).data
    compressor, level = BLOSC_LEVELS[codec]
    return bytes(blosc.Blosc(compressor, level, _SHUFFLES[shuffle], typesize=ITEM_BYTES).encode(frame))


def decode_frame(payload: bytes | memoryview, codec: Codec, *, out: FrameArray) -> None:
    """Decode one piece straight into `out`: (channel, *space), C order, any offset in a larger batch.

    Sizes are checked against `out` before a byte is decoded. The caller has checked the checksum.
    Raises IntegrityError when the payload is not a record of this size.
    """
    assert _is_plain(out), "decode_frame fills C-ordered float32"
    if codec == "none":
        _expect("payload", found=len(payload), expected=out.nbytes)
        out.reshape(-1)[:] = np.frombuffer(payload, np.float32)
        return
    decoded_bytes, payload_bytes = _blosc_sizes(payload)
    _expect("blosc payload", found=len(payload), expected=payload_bytes)
    _expect("decoded record", found=decoded_bytes, expected=out.nbytes)
    try:
        blosc.Blosc().decode(payload, out=out)
    except RuntimeError as error:
        raise IntegrityError(f"a record of {payload_bytes} bytes does not decode: {error}") from error


def decode_piece(
    payload: bytes | memoryview, codec: Codec, piece: Piece, *, record: FrameArray, room: FrameArray
) -> None:
    """Decode one piece to its place in `record`, by way of `room` where its values do not lie together there.

    `room`: (values,), at least as many as the largest piece has. Raises IntegrityError as `decode_frame` does.
    """
    in_place = piece.in_place(record)
    if in_place is not None:
        decode_frame(payload, codec, out=in_place)
        return
    values = room[: math.prod(piece.shape)].reshape(piece.shape)
    decode_frame(payload, codec, out=values)
    piece.put(values, record)


def _is_plain(array: FrameArray) -> bool:
    return array.dtype == np.float32 and bool(array.flags.c_contiguous)


def _blosc_sizes(payload: bytes | memoryview) -> tuple[int, int]:
    if len(payload) < _HEADER.size:
        raise IntegrityError(f"a blosc payload has {len(payload)} bytes, but its header alone takes {_HEADER.size}")
    version, _, _, item_bytes, decoded_bytes, _, payload_bytes = _HEADER.unpack_from(payload)
    if version != 2 or item_bytes != ITEM_BYTES:
        raise IntegrityError(f"blosc header says format {version}, {item_bytes}-byte items; expected 2 and 4")
    return decoded_bytes, payload_bytes


def _expect(what: str, *, found: int, expected: int) -> None:
    if found != expected:
        raise IntegrityError(f"{what} has {found} bytes, expected {expected}")
