"""Where records lie, and the fewest ranges that bring them. Pure.

A zarr shard and a tar are the same thing here: an object in which records lie at known places.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LARGEST_GAP = 128 * 1024
"""Bytes between two records that cost less to read than another request does (tar headers, short strides)."""

LARGEST_REQUEST = 64 * 2**20
"""Bytes beyond which records are not joined, so that a thread's memory is bounded by this or by one record."""


@dataclass(frozen=True, slots=True)
class Record:
    """Where one stored piece lies, as a row of the index says it."""

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
    requests: list[Request] = []
    for number in sorted(numbers, key=lambda number: (records[number].shard, records[number].offset)):
        record = records[number]
        joined = _join(requests[-1], record, number) if requests else None
        if joined:
            requests[-1] = joined
        else:
            requests.append(Request(record.shard, record.offset, record.num_bytes, (number,)))
    return requests


def _join(request: Request, record: Record, number: int) -> Request | None:
    """The request widened to bring this record too, which begins no earlier; None where that would not pay."""
    gap = record.offset - (request.offset + request.num_bytes)
    num_bytes = request.num_bytes + gap + record.num_bytes
    if record.shard != request.shard or not 0 <= gap <= LARGEST_GAP or num_bytes > LARGEST_REQUEST:
        return None
    return Request(request.shard, request.offset, num_bytes, (*request.records, number))
