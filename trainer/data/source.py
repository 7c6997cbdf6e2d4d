"""One window -> bytes by the manifest -> fields in the caller's buffer.

A zarr shard and a tar are the same thing here: an object in which records lie at known places. The records of a
window that are neighbours come by one request. Every byte is checked against the manifest before it is used.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.contract.checksum import checksum
from data_prep.contract.errors import NotFoundError, StorageError
from data_prep.contract.pieces import Piece
from data_prep.contract.sample import decode_piece
from trainer.data.dataset import Dataset
from trainer.data.ring import Scratch
from trainer.data.windows import Window
from trainer.errors import DataError, IntegrityError, RefusedError

Values = np.ndarray[Any, np.dtype[np.float32]]

LARGEST_GAP = 128 * 1024
"""Bytes between two records that cost less to read than another request does (tar headers, short strides)."""

LARGEST_REQUEST = 64 * 2**20
"""Bytes beyond which records are not joined, so that a thread's memory is bounded by this or by one record."""

LOCAL_ATTEMPTS = 3
"""Tries of wrong bytes from a disk of this machine, without waiting; others are tried as often as storage says."""


@dataclass(frozen=True, slots=True)
class Record:
    """Where one stored piece lies, as a row of the index says it."""

    shard: int
    offset: int
    num_bytes: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class Target:
    """Where the values of one record go."""

    piece: Piece
    frame: Values
    """(channel, *space) of the frame or the constants that the record is a piece of."""


@dataclass(frozen=True, slots=True)
class Request:
    """One range of one shard, and the records that come by it."""

    shard: int
    offset: int
    num_bytes: int
    records: tuple[int, ...]
    """Their numbers in the list that was planned."""


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


class Source:
    """Reads windows of so many frames. Holds no state that a read changes, so threads may share it."""

    def __init__(self, dataset: Dataset, *, frames: int, verify: bool = True) -> None:
        self.dataset = dataset
        self.frames = frames
        self._verify = verify
        self._pieces = dataset.manifest.pieces

    @property
    def decoded_bytes(self) -> int:
        """Of one window."""
        return 4 * math.prod(self.dataset.window_shape(self.frames))

    def read(self, window: Window, *, out: Values, scratch: Scratch) -> Cost:
        """Decode a window into `out` (time, channel, *space), in the units of the source; `scratch` takes the bytes.

        Raises RefusedError for a missing shard, IntegrityError for bytes that are not what the manifest says, and
        DataError when storage fails for good; each names dataset, shard and window.
        """
        records, targets = self.records(window), self._targets(out)
        cost, room_bytes = Cost(windows=1), self._pieces.largest_bytes
        for request in plan_requests(records):
            memory = scratch.view(room_bytes + request.num_bytes)
            room, data = np.frombuffer(memory[:room_bytes], np.float32), memory[room_bytes:]
            cost += self._fulfil(request, window, data=data, room=room, records=records, targets=targets)
        num_fields = len(self.dataset.manifest.dataset.channels)
        out[1:, num_fields:] = out[0, num_fields:]
        return cost

    def records(self, window: Window) -> list[Record]:
        """Of the window's frames, then of its constants. Reads nothing."""
        trajectory, pieces = self.dataset.trajectories[window.trajectory], self._pieces
        first = trajectory.first_record
        steps = (window.start + number * window.stride for number in range(self.frames))
        rows = [row for step in steps for row in pieces.frame_rows(first, step)]
        rows += pieces.constant_rows(first, trajectory.num_steps)
        return [Record(*row) for row in self.dataset.index[rows].tolist()]

    def _targets(self, out: Values) -> list[Target]:
        """Where each record goes."""
        num_fields, pieces = len(self.dataset.manifest.dataset.channels), self._pieces
        targets = [Target(piece, frame[:num_fields]) for frame in out for piece in pieces.of_frame]
        return targets + [Target(piece, out[0, num_fields:]) for piece in pieces.of_constants]

    def _fulfil(
        self,
        request: Request,
        window: Window,
        *,
        data: memoryview,
        room: Values,
        records: Sequence[Record],
        targets: Sequence[Target],
    ) -> Cost:
        """Fetch one range into `data` and decode what lies in it, again from the start when bytes are wrong."""
        path = self.dataset.manifest.shards[request.shard].path
        storage = self.dataset.shards
        attempts = LOCAL_ATTEMPTS if storage.is_local else storage.retries.attempts
        for attempt in range(1, attempts + 1):
            try:
                storage.read_into(path, data, offset=request.offset)
                self._decode(data, request, room=room, records=records, targets=targets)
            except IntegrityError as error:
                storage.faults.add("wrong_bytes")
                if attempt == attempts:
                    raise IntegrityError(self._explain(window, path, error)) from error
            except NotFoundError as error:
                raise NotFoundError(self._explain(window, path, error)) from error
            except RefusedError as error:
                raise RefusedError(self._explain(window, path, error)) from error
            except StorageError as error:
                raise DataError(self._explain(window, path, error)) from error
            else:
                return Cost(bytes_read=attempt * request.num_bytes, requests=attempt)
            if not storage.is_local:
                time.sleep(storage.retries.delay(attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def _decode(
        self,
        data: memoryview,
        request: Request,
        *,
        room: Values,
        records: Sequence[Record],
        targets: Sequence[Target],
    ) -> None:
        for number in request.records:
            record = records[number]
            start = record.offset - request.offset
            payload = data[start : start + record.num_bytes]
            if self._verify and (found := checksum(payload)) != record.crc32c:
                place = f"bytes {record.offset} to {record.offset + record.num_bytes}"
                raise IntegrityError(f"{place}: crc32c {found:08x}, but the manifest says {record.crc32c:08x}")
            target, codec = targets[number], self.dataset.manifest.codec
            decode_piece(payload, codec, target.piece, record=target.frame, room=room)

    def _explain(self, window: Window, path: str, error: Exception) -> str:
        trajectory = self.dataset.trajectories[window.trajectory]
        return (
            f"dataset {self.dataset.name}, shard {self.dataset.shards.locate(path)}, window of {self.frames} "
            f"frames from frame {window.start} of {trajectory.source}: {error}; "
            f"run `python -m data_prep verify {self.dataset.storage.url}`"
        )


def plan_requests(records: Sequence[Record]) -> list[Request]:
    """The fewest ranges that bring these records, without wide gaps and without growing too large."""
    requests: list[Request] = []
    for number in sorted(range(len(records)), key=lambda number: (records[number].shard, records[number].offset)):
        record = records[number]
        joined = _join(requests[-1], record, number) if requests else None
        if joined:
            requests[-1] = joined
        else:
            requests.append(Request(record.shard, record.offset, record.num_bytes, (number,)))
    return requests


def _join(request: Request, record: Record, number: int) -> Request | None:
    """The request widened to bring this record too, which begins no earlier; None where that would not pay."""
    end = request.offset + request.num_bytes
    num_bytes = max(end, record.offset + record.num_bytes) - request.offset
    if record.shard != request.shard or record.offset > end + LARGEST_GAP or num_bytes > LARGEST_REQUEST:
        return None
    return Request(request.shard, request.offset, num_bytes, (*request.records, number))
