"""One window -> bytes by the manifest -> fields in the caller's buffer.

The records of a window that are neighbours come by one request. Those that are stored as a batch has them come straight
to their place, others by way of a thread's own memory. Those that a cache has are not asked for.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import numpy as np

from data_prep.contract.checksum import checksum
from data_prep.contract.errors import CutShortError, NotFoundError, StorageError
from data_prep.contract.pieces import Piece
from data_prep.contract.sample import decode_piece
from trainer.data.cache import Cache
from trainer.data.dataset import Dataset
from trainer.data.requests import LARGEST_GAP, Cost, Record, Request, plan_requests
from trainer.data.ring import PAGE_BYTES, Scratch
from trainer.data.whole_shards import keep_shard
from trainer.data.windows import Window
from trainer.errors import DataError, IntegrityError, RefusedError

Values = np.ndarray[Any, np.dtype[np.float32]]
OnFrame = Callable[[Values], None]
"""Told of a frame (channel, *space) that is whole, while it is in the processor's cache."""

Verification = Literal["always", "sample", "never"]
SAMPLED_SHARE = 1 / 16
"""Of the records, those that are checked where not all are."""

LOCAL_ATTEMPTS = 3
"""Tries of wrong bytes from a disk of this machine, without waiting; others are tried as often as storage says."""


class Shown(NamedTuple):
    """A piece of a frame or of the constants that a window shows something of."""

    number: int
    """Among the pieces of its record."""
    piece: Piece
    """Cropped as the window is."""
    span: slice | None
    """Its bytes in the record (channel, *space), where its values lie together there."""


class ShownPieces(NamedTuple):
    """All that a window reads of each frame, and once."""

    of_frame: tuple[Shown, ...]
    of_constants: tuple[Shown, ...]


class Target(NamedTuple):
    """One record of a window, and where its values go."""

    record: Record
    piece: Piece
    frame: Values
    """(channel, *space) of the frame or the constants that the record is a piece of."""
    place: memoryview | None
    """Its own bytes in the frame, where the payload need only be written to; None where it must be decoded."""
    on_frame: OnFrame | None
    """Where this record is all of a frame."""


Part = tuple[memoryview, Target | None]
"""Of a request's range: where its bytes go, and whose payload they are."""


class Source:
    """Reads windows of so many frames. Holds no state that a read changes, so threads may share it."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        frames: int,
        verify: Verification = "always",
        cache: Cache | None = None,
        whole_shards: bool = False,
    ) -> None:
        """With `whole_shards` a record that the cache has not brings all that lie in its shard."""
        self.dataset = dataset
        self.frames = frames
        self.cache = cache
        self._verify = verify
        self._whole_shards = whole_shards
        self._pieces = dataset.manifest.pieces
        self._largest_bytes = self._pieces.largest_bytes
        self._num_fields = len(dataset.manifest.dataset.channels)
        self._codec = dataset.manifest.codec

    @property
    def decoded_bytes(self) -> int:
        """Of one window."""
        return 4 * math.prod(self.dataset.window_shape(self.frames))

    def records(self, window: Window) -> list[Record]:
        """Of the window's frames, then of its constants. Reads nothing."""
        return self._records(window, self._shown(window.corner))

    def _records(self, window: Window, shown: ShownPieces) -> list[Record]:
        trajectory, pieces = self.dataset.trajectories[window.trajectory], self._pieces
        first, last = trajectory.first_record, window.start + (self.frames - 1) * window.stride
        of_frames = [pieces.frame_rows(first, step) for step in range(window.start, last + 1, window.stride)]
        rows = [of_frame[one.number] for of_frame in of_frames for one in shown.of_frame]
        rows += [pieces.constant_rows(first, trajectory.num_steps)[one.number] for one in shown.of_constants]
        return list(map(Record._make, self.dataset.index[rows].tolist()))

    def read(self, window: Window, *, out: Values, scratch: Scratch, on_frame: OnFrame | None = None) -> Cost:
        """Decode a window into `out` (time, channel, *space), in the units of the source; `scratch` takes the bytes.

        `on_frame` may change a frame in place; it is told of one again where its bytes had to be fetched again.
        Raises NotFoundError for bytes that are not there (a shard that is missing or ends too early), IntegrityError
        for bytes that are not what the manifest says, and DataError when storage fails for good; each names dataset,
        shard and window.
        """
        targets = self._targets(window, out, on_frame)
        missing = [number for number in range(len(targets)) if not self._take_kept(targets[number], scratch)]
        cost = Cost(windows=1)
        if self._whole_shards and self.cache is not None and missing:
            cost += self._keep_shards(self.cache, window, [targets[number].record for number in missing], scratch)
            missing = [number for number in missing if not self._take_kept(targets[number], scratch)]
        for request in plan_requests([target.record for target in targets], missing):
            cost += self._fulfil(request, window, [targets[number] for number in request.records], scratch)
        if self._pieces.of_constants:
            out[1:, self._num_fields :] = out[0, self._num_fields :]
        if on_frame is not None and targets[0].on_frame is None:
            for frame in out:
                on_frame(frame)
        return cost

    def _keep_shards(self, cache: Cache, window: Window, wanted: Sequence[Record], scratch: Scratch) -> Cost:
        """Fetch the shards that these records lie in, unless somebody else does."""
        cost = Cost()
        for shard in dict.fromkeys(record.shard for record in wanted):
            inside = [record for record in wanted if record.shard == shard]
            path = self.dataset.manifest.shards[shard].path
            with suppress(IntegrityError), self._explaining(window, path):  # one that ends early: told with its window
                cost += keep_shard(self.dataset, shard, cache=cache, wanted=inside, scratch=scratch)
        return cost

    def _targets(self, window: Window, out: Values, on_frame: OnFrame | None) -> list[Target]:
        """The window's records, and where each goes in `out`."""
        num_fields, shown = self._num_fields, self._shown(window.corner)
        on_record = on_frame if len(shown.of_frame) == 1 and not shown.of_constants else None
        frames = [(frame, frame.data.cast("B")) for frame in out[:, :num_fields]]
        places = [(one, *frame, on_record) for frame in frames for one in shown.of_frame]
        if shown.of_constants:
            constants = out[0, num_fields:]
            places += [(one, constants, constants.data.cast("B"), None) for one in shown.of_constants]
        return [
            Target(record, one.piece, frame, _place(record, one, memory), on_frame)
            for record, (one, frame, memory, on_frame) in zip(self._records(window, shown), places, strict=True)
        ]

    def _shown(self, corner: tuple[int, ...]) -> ShownPieces:
        """What a window with this corner reads."""
        return self._cut(corner) if corner else self._whole

    @cached_property
    def _whole(self) -> ShownPieces:
        return self._cut(())

    def _cut(self, corner: tuple[int, ...]) -> ShownPieces:
        pieces, shown, is_plain = self._pieces, self.dataset.shown, self._codec == "none"

        def of(record: Sequence[Piece], shape: tuple[int, ...]) -> tuple[Shown, ...]:
            cut = (piece.cropped(corner, shape[1:]) if corner else piece for piece in record)
            return tuple(
                Shown(number, piece, piece.span(shape) if is_plain else None)
                for number, piece in enumerate(cut)
                if piece is not None
            )

        return ShownPieces(of(pieces.of_frame, shown.frame_shape), of(pieces.of_constants, shown.constant_shape))

    def _take_kept(self, target: Target, scratch: Scratch) -> bool:
        """Whether the cache had the record, whole and right; then its values are in place."""
        if self.cache is None:
            return False
        [payload], _, room = self._prepare([target], scratch)
        record = target.record
        if not self.cache.read(self.dataset.record_name(record), payload, crc32c=record.crc32c):
            return False
        try:
            self._decode(target, payload, room)
        except IntegrityError:
            return False  # so it is fetched, and explained, like any other
        return True

    def _fulfil(self, request: Request, window: Window, targets: Sequence[Target], scratch: Scratch) -> Cost:
        """Fetch one range and decode what lies in it, again from the start when bytes are wrong."""
        payloads, gap, room = self._prepare(targets, scratch)
        parts = _with_gaps(request, targets, payloads, gap)
        path = self.dataset.manifest.shards[request.shard].path
        storage = self.dataset.shards
        attempts = LOCAL_ATTEMPTS if storage.is_local else storage.retries.attempts
        for attempt in range(1, attempts + 1):
            try:
                with self._explaining(window, path):
                    on_full = partial(self._receive, parts, room, attempt) if self._has_to_look(targets) else None
                    storage.read_into(path, *(part for part, _ in parts), offset=request.offset, on_full=on_full)
            except IntegrityError as error:
                storage.faults.add("wrong_bytes")
                if attempt == attempts:
                    kind = NotFoundError if isinstance(error, CutShortError) else IntegrityError
                    raise kind(self._explain(window, path, error)) from error
            else:
                return Cost(bytes_read=attempt * request.num_bytes, requests=attempt)
            if not storage.is_local:
                time.sleep(storage.retries.delay(attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def _has_to_look(self, targets: Sequence[Target]) -> bool:
        """Whether there is more to do than to put bytes where they belong."""
        if self._verify != "never" or self.cache is not None:
            return True
        return any(target.place is None or target.on_frame is not None for target in targets)

    def _receive(self, parts: Sequence[Part], room: Values, attempt: int, number: int) -> None:
        """Check, keep and decode what has come, record by record: its bytes are still in the processor's cache."""
        payload, target = parts[number]
        if target is None:
            return
        if self._is_due_for_check(attempt):
            _check(target.record, payload)
        if self.cache is not None:
            self.cache.put(self.dataset.record_name(target.record), payload)
        self._decode(target, payload, room)

    def _prepare(self, targets: Sequence[Target], scratch: Scratch) -> tuple[list[memoryview], memoryview, Values]:
        """Memory for each payload, for what lies between them, and for the values of one piece."""
        first = LARGEST_GAP + self._largest_bytes
        starts, end = [], first
        for target in targets:
            start = end + (target.record.offset - end) % PAGE_BYTES  # see Scratch
            starts.append(start)
            end = start + target.record.num_bytes if target.place is None else end
        memory = scratch.view(end)
        payloads = [
            memory[start : start + target.record.num_bytes] if target.place is None else target.place
            for target, start in zip(targets, starts, strict=True)
        ]
        return payloads, memory[:LARGEST_GAP], np.frombuffer(memory[LARGEST_GAP:first], np.float32)

    def _is_due_for_check(self, attempt: int) -> bool:
        """What is kept is checked, and so is everything that was wrong once."""
        if self._verify == "sample":
            return self.cache is not None or attempt > 1 or random.random() < SAMPLED_SHARE
        return self._verify == "always" or self.cache is not None

    def _decode(self, target: Target, payload: memoryview, room: Values) -> None:
        """Bring the values to their place."""
        if target.place is None:
            decode_piece(payload, self._codec, target.piece, record=target.frame, room=room)
        if target.on_frame is not None:
            target.on_frame(target.frame)

    @contextmanager
    def _explaining(self, window: Window, path: str) -> Iterator[None]:
        """What storage raises becomes an error that names the window."""
        try:
            yield
        except NotFoundError as error:
            raise NotFoundError(self._explain(window, path, error)) from error
        except RefusedError as error:
            raise RefusedError(self._explain(window, path, error)) from error
        except StorageError as error:
            raise DataError(self._explain(window, path, error)) from error

    def _explain(self, window: Window, path: str, error: Exception) -> str:
        trajectory = self.dataset.trajectories[window.trajectory]
        return (
            f"dataset {self.dataset.name}, shard {self.dataset.shards.locate(path)}, window of {self.frames} "
            f"frames from frame {window.start} of {trajectory.source}: {error}; "
            f"run `python -m data_prep verify {self.dataset.storage.url}`"
        )


def _place(record: Record, one: Shown, memory: memoryview) -> memoryview | None:
    """Where in the record's memory its payload need only be written to."""
    if one.span is None or one.span.stop - one.span.start != record.num_bytes:
        return None
    return memory[one.span]


def _check(record: Record, payload: memoryview) -> None:
    if (found := checksum(payload)) != record.crc32c:
        place = f"bytes {record.offset} to {record.offset + record.num_bytes}"
        raise IntegrityError(f"{place}: crc32c {found:08x}, but the manifest says {record.crc32c:08x}")


def _with_gaps(
    request: Request, targets: Sequence[Target], payloads: Sequence[memoryview], gap: memoryview
) -> list[Part]:
    """The memory that the request's range fills from its beginning to its end, and what arrives there."""
    parts: list[Part] = []
    end = request.offset
    for target, payload in zip(targets, payloads, strict=True):
        if target.record.offset > end:
            parts.append((gap[: target.record.offset - end], None))
        parts.append((payload, target))
        end = target.record.offset + target.record.num_bytes
    return parts
