"""Re-reads a prepared dataset: every shard against its checksum, every record against the index and, if wanted, every
value against the source, bit by bit."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from data_prep.contract.checksum import checksum, checksum_of_records
from data_prep.contract.errors import IntegrityError, NotFoundError, RefusedError
from data_prep.contract.manifest import INDEX_NAME, MANIFEST_NAME, Index, Manifest, Shard, load_manifest, shards_of
from data_prep.contract.pieces import Piece, Pieces
from data_prep.contract.sample import FrameArray, decode_piece
from data_prep.contract.storage import Storage
from data_prep.not_finite import PartialSource
from data_prep.origin import Origin
from data_prep.places import Places, array_of, file_places, layout_places, zarr_block
from data_prep.rounding import round_channels
from data_prep.source import Reader, Source, SourceTrajectory
from data_prep.well import open_well

Advance = Callable[[int], None]
Fetch = Callable[[int, int], bytes]
"""(offset, length) -> bytes of a shard."""


@dataclass(frozen=True)
class Report:
    """What was looked at and what is wrong with it."""

    num_shards: int
    """Objects with records, as `convert` counts them."""
    num_metadata: int
    """Objects without: zarr's own descriptions."""
    num_records: int
    differences: tuple[str, ...]
    unexpected: tuple[str, ...]
    """Objects at the destination that the manifest does not know; no fault."""


@dataclass(frozen=True)
class _Place:
    """A record as a person calls it."""

    trajectory: int
    frame: int | None
    """None for the constant record."""


def verify(destination: Storage, *, source: Source | None, shard_path: str | None, advance: Advance) -> Report:
    """Look at everything (or one shard) and list what is wrong."""
    manifest, index = load_manifest(destination)
    source = PartialSource(source, manifest.provenance.left_out) if source else None
    shards = _chosen(destination, manifest, shard_path)
    differences = list(_compare_facts(manifest, source)) if source else []
    rows_of = _rows_by_shard(manifest, index)
    num_records = 0
    blocks = _zarr_blocks(destination, manifest, differences)
    origin = _origin(manifest, differences)
    stored = shards_of(destination, manifest)
    # facts that differ have been reported; then comparing values record by record would only repeat them
    with source.reader() if source and not differences else nullcontext() as reader:
        runs = source.trajectories if source else ()
        first_records = np.array([run.first_record for run in manifest.trajectories], np.int64)
        room = np.empty(manifest.pieces.largest_bytes // 4, np.float32)
        checker = _Checker(manifest, manifest.pieces, index, blocks, reader, runs, first_records, room)
        for number in shards:
            shard = manifest.shards[number]
            if manifest.reference:
                differences += checker.check_file(stored, shard, rows_of[number], origin)
            else:
                differences += checker.check(stored, shard, rows_of[number])
            num_records += len(rows_of[number])
            advance(shard.bytes)
    unexpected = () if shard_path else _unexpected(destination, manifest)
    num_shards = sum(bool(rows_of[number]) for number in shards)
    return Report(num_shards, len(shards) - num_shards, num_records, tuple(differences), unexpected)


@dataclass(frozen=True)
class _Checker:
    manifest: Manifest
    pieces: Pieces
    index: Index
    blocks: dict[str, tuple[int, int]]
    reader: Reader | None
    runs: tuple[SourceTrajectory, ...]
    first_records: np.ndarray[Any, np.dtype[np.int64]]
    room: FrameArray
    """For one decoded piece."""

    def check(self, destination: Storage, shard: Shard, rows: list[int]) -> Iterator[str]:
        """What is wrong with one shard."""
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
            yield from self._check_records(shard, lambda offset, length: data[offset : offset + length], rows)

    def check_file(self, source: Storage, shard: Shard, rows: list[int], origin: Origin | None) -> Iterator[str]:
        """What is wrong with one file that is referred to. It may be larger than memory, so records are read alone."""
        try:
            found = source.size(shard.path)
        except NotFoundError:
            yield f"{shard.path}: is missing in {source.url}"
            return
        if found != shard.bytes:
            yield f"{shard.path}: has {found} bytes, but the manifest says {shard.bytes}"
        if checksum_of_records(self.index["crc32c"][rows].tolist()) != shard.crc32c:
            yield f"{shard.path}: the checksums in {INDEX_NAME} are not those that the manifest says"
        if origin is not None:
            yield from self._check_places(shard, file_places(self.manifest, origin, shard.path), rows)
        yield from self._check_records(
            shard, lambda offset, length: source.get_range(shard.path, offset=offset, length=length), rows
        )

    def _check_places(self, shard: Shard, theirs: Places, rows: list[int]) -> Iterator[str]:
        ours = {row: (int(self.index["offset"][row]), int(self.index["bytes"][row])) for row in rows}
        if theirs != ours:
            row = min(row for row in ours.keys() | theirs.keys() if ours.get(row) != theirs.get(row))
            yield (
                f"{shard.path}: {self._name(row)} lies at {theirs.get(row)} by the {self.manifest.layout} layout, "
                f"at {ours.get(row)} by {INDEX_NAME}"
            )

    def _check_records(self, shard: Shard, fetch: Fetch, rows: list[int]) -> Iterator[str]:
        for place, members in groupby(rows, key=self._place):
            spec = self.manifest.dataset
            stored: FrameArray = np.empty(spec.constant_shape if place.frame is None else spec.frame_shape, np.float32)
            sound: list[Piece] = []
            for row in members:
                try:
                    sound.append(self._decode(fetch, row, record=stored))
                except IntegrityError as error:
                    yield f"{shard.path}: {self._name(row)} {error}"
            yield from self._check_values(place, stored, sound)

    def _decode(self, fetch: Fetch, row: int, *, record: FrameArray) -> Piece:
        """Decode one row to its place in `record`. Raises IntegrityError."""
        payload = fetch(int(self.index["offset"][row]), int(self.index["bytes"][row]))
        if checksum(payload) != self.index["crc32c"][row]:
            raise IntegrityError(f"is damaged (its crc32c is not the one in {INDEX_NAME})")
        piece = self._piece(row)
        try:
            decode_piece(payload, self.manifest.codec, piece, record=record, room=self.room)
        except IntegrityError as error:
            raise IntegrityError(f"cannot be decoded: {error}") from error
        return piece

    def _check_values(self, place: _Place, stored: FrameArray, sound: list[Piece]) -> Iterator[str]:
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

    def _place(self, row: int) -> _Place:
        trajectory = int(np.searchsorted(self.first_records, row, side="right")) - 1
        run = self.manifest.trajectories[trajectory]
        frame = (row - run.first_record) // len(self.pieces.of_frame)
        return _Place(trajectory, frame if frame < run.num_steps else None)

    def _piece(self, row: int) -> Piece:
        """The part of its record that a row stands for."""
        place = self._place(row)
        pieces, number = self._pieces_and_number(place, row)
        return pieces[number]

    def _pieces_and_number(self, place: _Place, row: int) -> tuple[tuple[Piece, ...], int]:
        run = self.manifest.trajectories[place.trajectory]
        if place.frame is None:
            return self.pieces.of_constants, row - self.pieces.constant_rows(run.first_record, run.num_steps).start
        return self.pieces.of_frame, row - self.pieces.frame_rows(run.first_record, place.frame).start

    def _name(self, row: int) -> str:
        """As a person calls it: `train/a.hdf5#3 frame 7`, and the tile or the field where there are several."""
        place = self._place(row)
        pieces, number = self._pieces_and_number(place, row)
        if len(pieces) == 1:
            return self._name_of(place)
        spec = self.manifest.dataset
        fields = spec.constant_fields if place.frame is None else spec.fields
        return f"{self._name_of(place)} {f'`{fields[number].name}`' if self.manifest.reference else f'tile {number}'}"

    def _name_of(self, place: _Place) -> str:
        run = self.manifest.trajectories[place.trajectory]
        return f"{run.source} {'constants' if place.frame is None else f'frame {place.frame}'}"


def _chosen(destination: Storage, manifest: Manifest, shard_path: str | None) -> list[int]:
    chosen = [number for number, shard in enumerate(manifest.shards) if shard_path in (None, shard.path)]
    if not chosen:
        raise RefusedError(
            f"{destination.locate(MANIFEST_NAME)}: lists no shard `{shard_path}`; "
            f"it has {len(manifest.shards)}, the first is `{manifest.shards[0].path}`"
        )
    return chosen


def _rows_by_shard(manifest: Manifest, index: Index) -> list[list[int]]:
    """Rows of each shard, ascending, so that the source is read in order."""
    order = np.argsort(index["shard"], kind="stable")
    edges = np.searchsorted(index["shard"][order], np.arange(len(manifest.shards) + 1))
    return [order[edges[number] : edges[number + 1]].tolist() for number in range(len(manifest.shards))]


def _zarr_blocks(destination: Storage, manifest: Manifest, differences: list[str]) -> dict[str, tuple[int, int]]:
    """Shape of a shard for each fused zarr array."""
    if manifest.layout != "zarr":
        return {}
    blocks = {}
    sizes = {shard.path: shard.bytes for shard in manifest.shards}
    for array in sorted({array_of(path) for path in sizes if "fields/c/" in path}):
        path = f"{array}/zarr.json"
        try:
            blocks[array] = zarr_block(destination.get(path, max_bytes=sizes.get(path, 0)))
        except (RefusedError, ValueError, KeyError, TypeError) as error:
            differences.append(f"{path}: cannot be used: {error}")
    return blocks


def _origin(manifest: Manifest, differences: list[str]) -> Origin | None:
    """Where the source's own files say that the values lie; None where nothing refers to them, or they do not say."""
    if manifest.reference is None:
        return None
    try:
        origin = open_well(manifest.reference.url).origin()
    except RefusedError as error:
        differences.append(f"{MANIFEST_NAME}: reference.url: {error}")
        return None
    if origin.reference.kept != manifest.reference.kept:
        differences.append(
            f"{MANIFEST_NAME}: reference.kept is {manifest.reference.kept}, but in the files {origin.reference.kept}"
        )
    return origin


def _compare_facts(manifest: Manifest, source: Source) -> Iterator[str]:
    """What the manifest says of the source, against the source's headers."""
    for key, stored in manifest.dataset.__dict__.items():
        found = source.spec.__dict__[key]
        if stored != found and key != "name":  # a renamed folder is still the same data
            yield f"{MANIFEST_NAME}: dataset.{key} is {str(stored)[:100]}, but the source has {str(found)[:100]}"
    stored_names = [run.source for run in manifest.trajectories]
    found_names = [run.name for run in source.trajectories]
    if stored_names != found_names:
        missing = sorted(set(found_names) - set(stored_names)) or sorted(set(stored_names) - set(found_names))
        yield f"{MANIFEST_NAME}: trajectories differ from the source's, for example `{(missing or found_names)[0]}`"
        return
    for run, original in zip(manifest.trajectories, source.trajectories, strict=True):
        if run.times != original.times or run.scalars != original.scalars:
            yield f"{MANIFEST_NAME}: times or scalars of {run.source} differ from the source's"


def _unexpected(destination: Storage, manifest: Manifest) -> tuple[str, ...]:
    shards = () if manifest.reference else manifest.shards
    known = {MANIFEST_NAME, INDEX_NAME, *(shard.path for shard in shards)}
    return tuple(path for path in destination.list() if path not in known)
