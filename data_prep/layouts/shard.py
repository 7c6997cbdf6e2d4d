"""What all layouts have in common: a builder takes segments in order and gives the bytes of one shard."""

from dataclasses import dataclass
from typing import Protocol

from data_prep.contract.checksum import checksum
from data_prep.contract.manifest import Shard
from data_prep.contract.sample import FrameArray
from data_prep.planning.plan import Segment


@dataclass(frozen=True)
class Record:
    """One row of the index, but for the shard's number."""

    row: int
    offset: int
    bytes: int
    crc32c: int


@dataclass(frozen=True)
class BuiltShard:
    """A shard in memory and the records in it."""

    shard: Shard
    records: tuple[Record, ...]
    data: bytes | bytearray | memoryview | None
    """None for a file that is there already and referred to."""

    @staticmethod
    def of(path: str, data: bytes | bytearray | memoryview, records: list[Record]) -> "BuiltShard":
        """A shard that is to be stored at `path`."""
        return BuiltShard(Shard(path=path, bytes=len(data), crc32c=checksum(data)), tuple(records), data)


class ShardBuilder(Protocol):
    """Encodes the segments of one unit, in the order of the unit."""

    def place_of(self, segment: Segment) -> FrameArray | None:
        """(time, channel, *space): where in the shard the next segment's frames are best put by whoever reads them.

        None where they are stored otherwise than they are. `add` is then given this very array.
        """

    def add(self, segment: Segment, frames: FrameArray, *, constants: FrameArray | None) -> None:
        """`frames`: (time, channel, *space); `constants`: (constant channel, *space)."""

    def finish(self) -> BuiltShard:
        """The whole shard."""
