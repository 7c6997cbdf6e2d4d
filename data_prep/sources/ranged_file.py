"""A file in object storage as a seekable Python file that reads few, large ranges: what HDF5 reads through.

HDF5 asks for its own structure in hundreds of small reads, which come from whole blocks that are kept; and for values,
whose places are known beforehand: `expect` fetches them side by side, in large requests, each byte once. Measured
against the usual block and read-ahead caches in tests/benchmarks/test_read_amplification.py.
"""

import io
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from data_prep.contract.storage import Storage

BLOCK_BYTES = 2**20
"""What is fetched for a small read that nobody announced."""
MAX_BLOCKS = 16
LARGEST_GAP = 2**18
"""Bytes between two expected ranges that cost less to read than another request does."""
REQUEST_BYTES = 2**23
MAX_REQUESTS = 8
"""In flight at once."""

Range = tuple[int, int]
"""(first byte, byte behind the last)."""


@dataclass(frozen=True)
class _Piece:
    """Bytes that have been fetched."""

    start: int
    data: memoryview

    @property
    def stop(self) -> int:
        return self.start + len(self.data)

    def covers(self, start: int, stop: int) -> bool:
        return self.start <= start and stop <= self.stop

    def part(self, start: int, stop: int) -> memoryview:
        return self.data[start - self.start : stop - self.start]


class RangedFile(io.RawIOBase):
    """Read-only. Memory is bounded by what was expected last and by `MAX_BLOCKS` blocks. For one thread."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path = storage, path
        self._size = storage.size(path)
        self._position = 0
        self._expected: list[_Piece] = []
        self._blocks: OrderedDict[int, _Piece] = OrderedDict()

    def expect(self, ranges: Iterable[Range]) -> None:
        """Fetch these ranges now, and forget those expected before, but for what both have in common."""
        kept: list[_Piece] = []
        missing: list[Range] = []
        for start, stop in sorted(set(ranges)):
            known = next((piece for piece in self._expected if piece.covers(start, stop)), None)
            if known is None:
                missing.append((start, stop))
            elif known not in kept:
                kept.append(known)
        self._expected = kept  # before the rest is there, so that both are never held
        pieces = [_Piece(start, memoryview(bytearray(stop - start))) for start, stop in joined(missing)]
        requests = [(piece, start) for piece in pieces for start in range(piece.start, piece.stop, REQUEST_BYTES)]
        with ThreadPoolExecutor(min(MAX_REQUESTS, max(1, len(requests)))) as threads:
            for ended in [threads.submit(self._fill, piece, start) for piece, start in requests]:
                ended.result()
        self._expected = kept + pieces

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # h5py passes memoryviews
        """As much as there is: up to the end of the file."""
        view = memoryview(buffer).cast("B")
        stop = min(self._position + len(view), self._size)
        num_bytes = max(0, stop - self._position)
        filled = 0
        while filled < num_bytes:
            piece = self._piece_at(self._position, stop)
            part = piece.part(self._position, min(stop, piece.stop))
            view[filled : filled + len(part)] = part
            filled += len(part)
            self._position += len(part)
        return num_bytes

    def _piece_at(self, start: int, stop: int) -> _Piece:
        """Something that begins at or before `start` and ends behind it; fetched if need be."""
        for piece in self._expected:
            if piece.start <= start < piece.stop:
                return piece
        number = start // BLOCK_BYTES
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        if stop - start > BLOCK_BYTES:
            return self._fetch(start, stop)
        self._blocks[number] = self._fetch(number * BLOCK_BYTES, min((number + 1) * BLOCK_BYTES, self._size))
        if len(self._blocks) > MAX_BLOCKS:
            self._blocks.popitem(last=False)
        return self._blocks[number]

    def _fill(self, piece: _Piece, start: int) -> None:
        """Do one request of a piece."""
        out = piece.part(start, min(start + REQUEST_BYTES, piece.stop))
        self._storage.read_into(self._path, out, offset=start)

    def _fetch(self, start: int, stop: int) -> _Piece:
        return _Piece(start, memoryview(self._storage.get_range(self._path, offset=start, length=stop - start)))


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Sorted ranges, with neighbours made one."""
    result: list[Range] = []
    for start, stop in ranges:
        if result and start <= result[-1][1] + LARGEST_GAP:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return result
