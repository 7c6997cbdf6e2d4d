"""crc32c, the checksum of records, shards and the index (and of zarr's own codec)."""

from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np

BLOCK_BYTES = 2**17


def checksum(data: bytes | bytearray | memoryview | np.ndarray[Any, Any]) -> int:
    """crc32c of a contiguous buffer, about 10 GB/s or more on one core."""
    flat = data.reshape(-1).view(np.uint8) if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    return int(google_crc32c.value(flat))


def checksum_and_extend(crc32c: int, data: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[int, int]:
    """(crc32c of `data`, of what `crc32c` covers followed by it), block by block: the second finds it in the cache."""
    alone = 0
    for start in range(0, len(data), BLOCK_BYTES):
        block = data[start : start + BLOCK_BYTES]
        alone, crc32c = google_crc32c.extend(alone, block), google_crc32c.extend(crc32c, block)
    return int(alone), int(crc32c)


def checksum_of_records(crc32cs: Sequence[int]) -> int:
    """What stands for a file that is referred to: crc32c of its records' checksums, in the order of the index."""
    return checksum(np.asarray(crc32cs, "<u4"))


def extend_checksum(crc32c: int, data: bytes | memoryview) -> int:
    """crc32c of what `crc32c` covers followed by `data`."""
    return int(google_crc32c.extend(crc32c, np.frombuffer(data, np.uint8)))
