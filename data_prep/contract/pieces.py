"""How records are cut into what is stored: pieces, each a row of the index. Pure; used by whoever writes or reads one.

A record is a frame with all its channels, or a trajectory's constants: float32 (channel, *space). Nearly always it is
stored whole, as one piece. A frame that outgrows what is good to fetch and decode at once is cut into tiles in space.
In a dataset that is not converted but referred to, each field is a piece, as it lies in the source's files.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from data_prep.contract.fields import DatasetSpec, Field

FrameArray = np.ndarray[Any, np.dtype[np.float32]]
"""float32, C order, native little-endian."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """A part of a record that is stored by itself."""

    shape: Shape
    """Of the stored values."""
    region: tuple[slice, ...]
    """Where they belong in the record: (channel, *space)."""
    is_channel_last: bool = False
    """Whether they are stored as (*space, channel). An axis of space may have length 1: its values repeat along it."""
    skipped: Shape = ()
    """(channel, *space): so many of the stored values lie before the region, where the record is a crop."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the decoded values."""
        return 4 * math.prod(self.shape)

    def in_place(self, record: FrameArray) -> FrameArray | None:
        """The part of the record that holds just these values in their order; None where there is no such part."""
        part = record[self.region]
        if part.shape != self.channel_first or not part.flags.c_contiguous or self.is_channel_last:
            return None
        return part

    def span(self, record_shape: Shape) -> slice | None:
        """The bytes that `in_place` takes of a record of this shape."""
        record = np.empty(record_shape, np.float32)  # nothing of it is touched
        part = self.in_place(record)
        if part is None:
            return None
        start = sum(here.start * stride for here, stride in zip(self.region, record.strides, strict=True))
        return slice(start, start + part.nbytes)

    def take(self, record: FrameArray) -> FrameArray:
        """The values to store, in C order; NaN beyond the edge of the record."""
        part = record[self.region]
        if part.shape != self.channel_first:
            values: FrameArray = np.full(self.channel_first, np.nan, np.float32)
            both = tuple(slice(min(lengths)) for lengths in zip(part.shape, values.shape, strict=True))
            values[both] = part[both]
            part = values
        return np.ascontiguousarray(np.moveaxis(part, 0, -1) if self.is_channel_last else part)

    def put(self, values: FrameArray, record: FrameArray) -> None:
        """Copy stored values to their place. The inverse of `take`."""
        part = record[self.region]
        first = np.moveaxis(values, -1, 0) if self.is_channel_last else values
        skipped = self.skipped or (0,) * part.ndim
        part[...] = first[tuple(slice(start, start + size) for start, size in zip(skipped, part.shape, strict=True))]

    def cropped(self, corner: Shape, space: Shape) -> "Piece | None":
        """The piece for a record that shows `space` points from `corner` on alone; None where it has none of them."""
        region, skipped = [self.region[0]], [0]
        for here, stored, first, size in zip(self.region[1:], self.channel_first[1:], corner, space, strict=True):
            start, stop = max(here.start, first), min(here.stop, first + size)
            if start >= stop:
                return None
            region.append(slice(start - first, stop - first))
            skipped.append(start - here.start if stored > 1 else 0)
        return replace(self, region=tuple(region), skipped=tuple(skipped))

    @property
    def channel_first(self) -> Shape:
        """The stored shape as (channel, *space)."""
        return (self.shape[-1], *self.shape[:-1]) if self.is_channel_last else self.shape


@dataclass(frozen=True)
class Pieces:
    """The pieces of every frame and every constant record of a dataset.

    The index has one row for each: those of a trajectory's first frame, of its second, …, then of its constants.
    """

    of_frame: tuple[Piece, ...]
    of_constants: tuple[Piece, ...]
    """None where the dataset has no constant fields."""

    def num_rows(self, num_steps: int) -> int:
        """Rows of a trajectory."""
        return num_steps * len(self.of_frame) + len(self.of_constants)

    def frame_rows(self, first_row: int, step: int) -> range:
        """Rows of one frame of the trajectory whose rows begin at `first_row`."""
        first = first_row + step * len(self.of_frame)
        return range(first, first + len(self.of_frame))

    def constant_rows(self, first_row: int, num_steps: int) -> range:
        """Rows of the constants of the trajectory whose rows begin at `first_row`."""
        first = first_row + num_steps * len(self.of_frame)
        return range(first, first + len(self.of_constants))

    @property
    def largest_bytes(self) -> int:
        """Bytes of the largest decoded piece."""
        return max(piece.num_bytes for piece in self.of_frame + self.of_constants)


def tile_of(record_shape: Shape, *, max_bytes: int) -> Shape:
    """The space that a tile spans, so that with all its channels it has at most `max_bytes` or one point.

    The longest side is halved until the tile is small enough: nearly cubes, a power of two to each side, and at most
    a few points of the last tile lie beyond the edge.
    """
    num_channels, *space = record_shape
    parts = [1] * len(space)
    tile = list(space)
    while 4 * num_channels * math.prod(tile) > max_bytes and max(tile) > 1:
        longest = tile.index(max(tile))
        parts[longest] *= 2
        tile[longest] = -(-space[longest] // parts[longest])
    return tuple(tile)


Kept = Mapping[str, tuple[bool, ...]]
"""By field, the axes of space along which it is stored in full; of fields that are not stored so along all."""


def pieces_of(spec: DatasetSpec, tile: Shape | None, kept: Kept | None = None) -> Pieces:
    """The pieces of a dataset's records: whole ones; or tiles of this space; or fields, where `kept` is given."""
    if kept is not None:
        return Pieces(fields_of(spec, spec.fields, kept), fields_of(spec, spec.constant_fields, kept))
    tile = tile or spec.resolution
    constants = tiles_of(spec.constant_shape, tile) if spec.constant_fields else ()
    return Pieces(tiles_of(spec.frame_shape, tile), constants)


def tiles_of(record_shape: Shape, tile: Shape) -> tuple[Piece, ...]:
    """The tiles of a record in C order, the order of zarr's chunks."""
    num_channels, *space = record_shape
    return tuple(
        Piece((num_channels, *tile), (slice(0, num_channels), *region)) for region in product(*_stretches(space, tile))
    )


def fields_of(spec: DatasetSpec, fields: tuple[Field, ...], kept: Kept) -> tuple[Piece, ...]:
    """The fields of a record as The Well's files have them: (*space, component), a scalar without the last axis."""
    pieces: list[Piece] = []
    first = 0
    for field in fields:
        num_components = len(spec.spatial_dims) ** field.rank
        flags = kept.get(field.name, (True,) * len(spec.resolution))
        space = tuple(size if is_full else 1 for size, is_full in zip(spec.resolution, flags, strict=True))
        shape = (*space, num_components) if num_components > 1 else (1, *space)
        region = (slice(first, first + num_components), *(slice(0, size) for size in spec.resolution))
        pieces.append(Piece(shape, region, is_channel_last=num_components > 1))
        first += num_components
    return tuple(pieces)


def num_tiles(space: Shape, tile: Shape) -> int:
    """How many there are, without making them."""
    return math.prod(-(-size // length) for size, length in zip(space, tile, strict=True))


def _stretches(space: list[int], tile: Shape) -> Iterator[list[slice]]:
    """For each axis."""
    for size, length in zip(space, tile, strict=True):
        yield [slice(start, min(start + length, size)) for start in range(0, size, length)]
