"""Re-reads one shard of a prepared dataset: its bytes, where its records lie, and what they hold."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from data_prep.contract.checksum import checksum, checksum_of_records
from data_prep.contract.errors import IntegrityError, NotFoundError, RefusedError
from data_prep.contract.index import MOST_DECODED
from data_prep.contract.manifest import INDEX_NAME, Index, Manifest, Shard
from data_prep.contract.pieces import Piece, Pieces
from data_prep.contract.sample import FrameArray, decode_piece
from data_prep.contract.storage import Storage
from data_prep.inspection.places import Places, file_places, layout_places
from data_prep.inspection.recount import Recount
from data_prep.numbers.rounding import round_channels
from data_prep.sources.origin import Origin
from data_prep.sources.protocol import Reader, SourceTrajectory

Fetch = Callable[[int, int], bytes]
"""(offset, length) -> bytes of a shard."""


@dataclass(frozen=True)
class Place:
    """A record as a person calls it."""

    trajectory: int
    frame: int | None
    """None for the constant record."""


@dataclass(frozen=True)
class ShardChecker:
    """All that checking a shard needs."""

    manifest: Manifest
    index: Index
    blocks: dict[str, tuple[int, int]]
    """Shape of a shard for each fused zarr array."""
    origin: Origin | None
    """Where the files say that the values lie, of a reference."""
    reader: Reader | None
    """Of the source, where values are compared with it; `runs` are its trajectories."""
    runs: tuple[SourceTrajectory, ...]
    recount: Recount | None
    """Told of every record that is whole."""

    def check(self, stored: Storage, shard: Shard, rows: list[int]) -> Iterator[str]:
        """What is wrong with one shard, or with a file that is referred to. `rows`: its own, of the index."""
        return (self._check_file if self.manifest.reference else self._check_shard)(stored, shard, rows)

    @cached_property
    def _pieces(self) -> Pieces:
        return self.manifest.pieces

    @cached_property
    def _first_records(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.array([run.first_record for run in self.manifest.trajectories], np.int64)

    @cached_property
    def _room(self) -> FrameArray:
        """For one decoded piece."""
        return np.empty(self._pieces.largest_bytes // 4, np.float32)

    def _check_shard(self, destination: Storage, shard: Shard, rows: list[int]) -> Iterator[str]:
        try:
            data = destination.get(shard.path, max_bytes=shard.bytes)
        except NotFoundError:
            yield f"{shard.path}: is missing"
            return
        except RefusedError as error:
            yield f"{shard.path}: {error}"
            return
        found = checksum(data)
        if len(data) != shard.bytes:
            yield f"{shard.path}: has {len(data)} bytes, but the manifest says {shard.bytes}"
        elif found != shard.crc32c:
            yield f"{shard.path}: crc32c {found:08x}, but the manifest says {shard.crc32c:08x}"
        if rows:
            try:
                theirs = layout_places(self.manifest, shard.path, data, blocks=self.blocks)
            except IntegrityError as error:
                yield f"{shard.path}: {error}"
            else:
                yield from self._check_places(shard, theirs, rows)
            yield from self._check_records(
                shard, lambda offset, length: data[offset : offset + length], rows, num_bytes=len(data)
            )

    def _check_file(self, source: Storage, shard: Shard, rows: list[int]) -> Iterator[str]:
        """It may be larger than memory, so records are read alone."""
        try:
            found = source.size(shard.path)
        except NotFoundError:
            yield f"{shard.path}: is missing in {source.url}"
            return
        if found != shard.bytes:
            yield f"{shard.path}: has {found} bytes, but the manifest says {shard.bytes}"
        if checksum_of_records(self.index["crc32c"][rows].tolist()) != shard.crc32c:
            yield f"{shard.path}: the checksums in {INDEX_NAME} are not those that the manifest says"
        if self.origin is not None:
            yield from self._check_places(shard, file_places(self.manifest, self.origin, shard.path), rows)
        yield from self._check_records(
            shard,
            lambda offset, length: source.get_range(shard.path, offset=offset, length=length),
            rows,
            num_bytes=found,
        )

    def _check_places(self, shard: Shard, theirs: Places, rows: list[int]) -> Iterator[str]:
        ours = {row: (int(self.index["offset"][row]), int(self.index["bytes"][row])) for row in rows}
        if theirs != ours:
            row = min(row for row in ours.keys() | theirs.keys() if ours.get(row) != theirs.get(row))
            yield (
                f"{shard.path}: {self._name(row)} lies at {theirs.get(row)} by the {self.manifest.layout} layout, "
                f"at {ours.get(row)} by {INDEX_NAME}"
            )

    def _check_records(self, shard: Shard, fetch: Fetch, rows: list[int], *, num_bytes: int) -> Iterator[str]:
        """`num_bytes`: of the shard as it is, in which there is no room for a record that only the manifest claims."""
        for place, members in groupby(rows, key=self._place):
            spec, pieces = self.manifest.dataset, self._pieces_of(place)
            if sum(piece.num_bytes for piece in pieces) > num_bytes * MOST_DECODED[self.manifest.codec]:
                yield f"{shard.path}: {self._name_of(place)} cannot be in a shard of {num_bytes} bytes"
                continue
            stored: FrameArray = np.empty(spec.constant_shape if place.frame is None else spec.frame_shape, np.float32)
            sound: list[Piece] = []
            for row in members:
                try:
                    sound.append(self._decode(fetch, row, record=stored))
                except IntegrityError as error:
                    yield f"{shard.path}: {self._name(row)} {error}"
            self._count(place, stored, sound)
            yield from self._check_values(place, stored, sound)

    def _count(self, place: Place, stored: FrameArray, sound: list[Piece]) -> None:
        """Hand on a record that could be decoded as a whole."""
        if self.recount is None or len(sound) != len(self._pieces_of(place)):
            return
        if place.frame is None:
            self.recount.add_constants(place.trajectory, stored)
        else:
            self.recount.add_frame(place.trajectory, place.frame, stored)

    def _decode(self, fetch: Fetch, row: int, *, record: FrameArray) -> Piece:
        """Decode one row to its place in `record`. Raises IntegrityError."""
        payload = fetch(int(self.index["offset"][row]), int(self.index["bytes"][row]))
        if checksum(payload) != self.index["crc32c"][row]:
            raise IntegrityError(f"is damaged (its crc32c is not the one in {INDEX_NAME})")
        piece = self._piece(row)
        try:
            decode_piece(payload, self.manifest.codec, piece, record=record, room=self._room)
        except IntegrityError as error:
            raise IntegrityError(f"cannot be decoded: {error}") from error
        return piece

    def _check_values(self, place: Place, stored: FrameArray, sound: list[Piece]) -> Iterator[str]:
        """Against the source, rounded as the manifest says, as far as the pieces could be decoded."""
        if self.reader is None or not sound:
            return
        original: FrameArray = np.empty_like(stored)
        if place.frame is None:
            self.reader.read_constants(self.runs[place.trajectory], out=original)
        else:
            self.reader.read_frames(self.runs[place.trajectory], place.frame, out=original[np.newaxis])
        of_frame, of_constants = self.manifest.kept_bits
        original = round_channels(original[np.newaxis], of_constants if place.frame is None else of_frame)[0]
        differs = np.zeros(stored.shape, bool)
        for piece in sound:
            region = piece.region
            differs[region] = stored.view(np.uint32)[region] != original.view(np.uint32)[region]
        if differs.any():
            spec = self.manifest.dataset
            channels = spec.constant_channels if place.frame is None else spec.channels
            first = np.argwhere(differs)[0].tolist()
            yield (
                f"{self._name_of(place)}: {int(differs.sum())} values differ from the source, the first in "
                f"`{channels[first[0]]}` at {tuple(first[1:])}: {stored[tuple(first)]!r}, source "
                f"{original[tuple(first)]!r}"
            )

    def _place(self, row: int) -> Place:
        trajectory = int(np.searchsorted(self._first_records, row, side="right")) - 1
        run = self.manifest.trajectories[trajectory]
        frame = (row - run.first_record) // len(self._pieces.of_frame)
        return Place(trajectory, frame if frame < run.num_steps else None)

    def _pieces_of(self, place: Place) -> tuple[Piece, ...]:
        return self._pieces.of_constants if place.frame is None else self._pieces.of_frame

    def _piece(self, row: int) -> Piece:
        """The part of its record that a row stands for."""
        place = self._place(row)
        pieces, number = self._pieces_and_number(place, row)
        return pieces[number]

    def _pieces_and_number(self, place: Place, row: int) -> tuple[tuple[Piece, ...], int]:
        run = self.manifest.trajectories[place.trajectory]
        if place.frame is None:
            return self._pieces.of_constants, row - self._pieces.constant_rows(run.first_record, run.num_steps).start
        return self._pieces.of_frame, row - self._pieces.frame_rows(run.first_record, place.frame).start

    def _name(self, row: int) -> str:
        """As a person calls it: `train/a.hdf5#3 frame 7`, and the tile or the field where there are several."""
        place = self._place(row)
        pieces, number = self._pieces_and_number(place, row)
        if len(pieces) == 1:
            return self._name_of(place)
        spec = self.manifest.dataset
        fields = spec.constant_fields if place.frame is None else spec.fields
        return f"{self._name_of(place)} {f'`{fields[number].name}`' if self.manifest.reference else f'tile {number}'}"

    def _name_of(self, place: Place) -> str:
        run = self.manifest.trajectories[place.trajectory]
        return f"{run.source} {'constants' if place.frame is None else f'frame {place.frame}'}"
