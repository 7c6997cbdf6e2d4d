"""Where records lie, and the fewest ranges that bring them. Pure.

A zarr shard and a tar are the same thing here: an object in which records lie at known places.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

LARGEST_GAP = 128 * 1024
"""Bytes between two records that cost less to read than another request does (tar headers, short strides)."""

LARGEST_REQUEST = 64 * 2**20
"""Bytes beyond which records are not joined, so that a thread's memory is bounded by this or by one record."""


class Record(NamedTuple):
    """Where one stored piece lies, as a row of the index says it. They sort as they lie."""

    shard: int
    offset: int
    num_bytes: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class Request:
    """One range of one shard, and the records that come by it."""

    shard: int
    offset: int
    num_bytes: int
    records: tuple[int, ...]
    """Their numbers in the list that was planned, in the order in which they lie: none overlaps the one before."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What reading took."""

    windows: int = 0
    bytes_read: int = 0
    requests: int = 0
    """Of whole ranges; those that storage repeats by itself are counted among its faults."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.windows + other.windows,
            self.bytes_read + other.bytes_read,
            self.requests + other.requests,
        )


def plan_requests(records: Sequence[Record], wanted: Iterable[int] | None = None) -> list[Request]:
    """The fewest ranges that bring these records, or the `wanted` of them, without wide gaps or growing too large."""
    numbers = range(len(records)) if wanted is None else wanted
    groups: list[list[int]] = []
    shard = start = end = -1
    for number in sorted(numbers, key=records.__getitem__):
        record = records[number]
        last = record.offset + record.num_bytes
        if record.shard == shard and 0 <= record.offset - end <= LARGEST_GAP and last - start <= LARGEST_REQUEST:
            groups[-1].append(number)
        else:
            groups.append([number])
            shard, start = record.shard, record.offset
        end = last
    return [_request(records, group) for group in groups]


def _request(records: Sequence[Record], group: Sequence[int]) -> Request:
    """For neighbours, in the order in which they lie."""
    first, last = records[group[0]], records[group[-1]]
    return Request(first.shard, first.offset, last.offset + last.num_bytes - first.offset, tuple(group))
