"""Checksums of parts of a file, by which that of the whole is known though nobody reads it in order.

Each unit of a conversion tells those of what it reads; the first to read a file adds what no unit reads.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from data_prep.contract.checksum import joined_checksum


class Stretch(NamedTuple):
    """Bytes of a file that lie together."""

    offset: int
    bytes: int
    crc32c: int

    @property
    def stop(self) -> int:
        return self.offset + self.bytes


def joined(stretches: Iterable[Stretch]) -> list[Stretch]:
    """In order, neighbours made one."""
    result: list[Stretch] = []
    for stretch in sorted(stretches):
        if result and result[-1].stop == stretch.offset:
            first = result.pop()
            crc32c = joined_checksum(first.crc32c, stretch.crc32c, stretch.bytes)
            stretch = Stretch(first.offset, first.bytes + stretch.bytes, crc32c)
        result.append(stretch)
    return result


def whole(num_bytes: int, crc32c: int | None) -> tuple[Stretch, ...]:
    """A file whose checksum is known, or nothing."""
    return () if crc32c is None else (Stretch(0, num_bytes, crc32c),)


def gaps(covered: Iterable[tuple[int, int]], *, stop: int) -> Iterator[tuple[int, int]]:
    """(first byte, byte behind the last) of what lies between ranges, from the first byte on to `stop`."""
    end = 0
    for first, behind in sorted(covered):
        if first > end:
            yield end, first
        end = max(end, behind)
    if end < stop:
        yield end, stop
