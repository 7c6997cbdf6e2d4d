"""crc32c, the checksum of records, shards and the index (and of zarr's own codec)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from fastcrc.crc32 import iscsi as checksum_of_bytes  # crc32c's other name

POLYNOMIAL = 0x82F63B78
"""Castagnoli's, the lowest power in the highest bit."""
JOIN_BYTES = 2**18
"""From here on to combine two checksums, some microseconds, costs less than to read so many bytes once more."""


def checksum(data: bytes | bytearray | memoryview | np.ndarray[Any, Any]) -> int:
    """crc32c of a contiguous buffer."""
    return checksum_of_bytes(data.reshape(-1).view(np.uint8).data if isinstance(data, np.ndarray) else data)


def checksum_and_extend(crc32c: int, data: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[int, int]:
    """(crc32c of `data`, of what `crc32c` covers followed by it), the second by arithmetic where that costs less."""
    alone = checksum(data)
    if len(data) < JOIN_BYTES:
        return alone, extend_checksum(crc32c, data.data)
    return alone, joined_checksum(crc32c, alone, len(data))


def joined_checksum(first: int, second: int, second_bytes: int) -> int:
    """crc32c of what `first` covers followed by what `second` covers, without reading either.

    As in zlib's `crc32_combine`: zeros that follow multiply the remainder by a power of x, modulo the polynomial.
    """
    return _product(_shift_by(second_bytes), first) ^ second


@lru_cache(maxsize=1024)
def _shift_by(num_bytes: int) -> int:
    """x to the 8 `num_bytes`, modulo the polynomial."""
    shift, power, count = 1 << 31, 1 << 23, num_bytes  # one, and x to the 8: the highest bit is x to the 0
    while count:
        if count & 1:
            shift = _product(shift, power)
        power, count = _product(power, power), count >> 1
    return shift


def _product(left: int, right: int) -> int:
    """Of two polynomials over GF(2), modulo that of crc32c; bits are reversed, as in its table-driven form."""
    product = 0
    while left:
        if left & 1 << 31:
            product ^= right
        left = left << 1 & 0xFFFFFFFF
        right = right >> 1 ^ (POLYNOMIAL if right & 1 else 0)
    return product


def checksum_of_records(crc32cs: Sequence[int]) -> int:
    """What stands for a file that is referred to: crc32c of its records' checksums, in the order of the index."""
    return checksum(np.asarray(crc32cs, "<u4"))


def extend_checksum(crc32c: int, data: bytes | memoryview) -> int:
    """crc32c of what `crc32c` covers followed by `data`."""
    return checksum_of_bytes(data, crc32c)
