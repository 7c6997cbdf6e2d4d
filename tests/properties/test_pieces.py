"""Cutting a record into tiles and putting it together again changes no bit, whatever the shapes."""

import math
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.contract.fields import Boundary, DatasetSpec, Field
from data_prep.contract.pieces import Piece, num_tiles, pieces_of, tile_of, tiles_of

OPEN = (Boundary.OPEN, Boundary.OPEN)


@st.composite
def shapes_and_tiles(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """((channel, *space), tile)."""
    space = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    return (draw(st.integers(1, 4)), *space), tuple(draw(st.integers(1, size)) for size in space)


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    """Every value another."""
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


@given(case=shapes_and_tiles())
def test_put_is_the_inverse_of_take(case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    shape, tile = case
    record, joined = numbered(shape), np.full(shape, -1, np.float32)
    for piece in tiles_of(shape, tile):
        piece.put(piece.take(record), joined)
    np.testing.assert_array_equal(joined, record)


@given(case=shapes_and_tiles())
def test_every_value_is_in_one_tile(case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    shape, tile = case
    pieces = tiles_of(shape, tile)
    assert len(pieces) == num_tiles(shape[1:], tile)
    stored = np.concatenate([piece.take(numbered(shape)).ravel() for piece in pieces])
    assert sorted(stored[~np.isnan(stored)].tolist()) == list(range(math.prod(shape)))


@given(case=shapes_and_tiles())
def test_tiles_are_of_one_shape_and_follow_each_other_as_chunks_of_an_array(
    case: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    shape, tile = case
    pieces = tiles_of(shape, tile)
    assert {piece.shape for piece in pieces} == {(shape[0], *tile)}
    corners = [tuple(part.start for part in piece.region) for piece in pieces]
    assert corners == sorted(corners)


@given(case=shapes_and_tiles(), is_channel_last=st.booleans(), data=st.data())
def test_cropped_pieces_put_the_values_of_a_crop(
    case: tuple[tuple[int, ...], tuple[int, ...]], is_channel_last: bool, data: st.DataObject
) -> None:
    shape, tile = case
    crop = tuple(data.draw(st.integers(1, size)) for size in shape[1:])
    corner = tuple(data.draw(st.integers(0, size - part)) for size, part in zip(shape[1:], crop, strict=True))
    record, joined = numbered(shape), np.full((shape[0], *crop), -1, np.float32)
    for piece in tiles_of(shape, tile):
        if is_channel_last:
            piece = replace(piece, shape=(*piece.shape[1:], piece.shape[0]), is_channel_last=True)
        if (shown := piece.cropped(corner, crop)) is not None:
            shown.put(piece.take(record), joined)
    inside = tuple(slice(first, first + part) for first, part in zip(corner, crop, strict=True))
    np.testing.assert_array_equal(joined, record[:, *inside])


def test_a_piece_that_repeats_along_an_axis_does_so_in_a_crop() -> None:
    piece = Piece((2, 1, 4), (slice(0, 2), slice(0, 6), slice(0, 4)))
    values, joined = numbered(piece.shape), np.full((2, 3, 2), -1, np.float32)
    shown = piece.cropped((3, 1), (3, 2))
    assert shown is not None
    shown.put(values, joined)
    np.testing.assert_array_equal(joined, np.broadcast_to(values[:, :, 1:3], (2, 3, 2)))


@given(case=shapes_and_tiles())
def test_a_place_that_takes_the_values_as_they_are_is_found_or_none(
    case: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    shape, tile = case
    record = numbered(shape)
    for piece in tiles_of(shape, tile):
        place = piece.in_place(record)
        if place is not None:
            np.testing.assert_array_equal(place, piece.take(record))
            assert np.shares_memory(place, record)
    (whole,) = tiles_of(shape, shape[1:])
    assert whole.in_place(record) is not None


@given(space=st.lists(st.integers(1, 300), min_size=1, max_size=3), channels=st.integers(1, 8), size=st.integers(1, 22))
def test_a_tile_keeps_to_its_bytes_and_is_not_small_without_need(space: list[int], channels: int, size: int) -> None:
    shape, max_bytes = (channels, *space), 2**size
    tile = tile_of(shape, max_bytes=max_bytes)
    tile_bytes = 4 * channels * math.prod(tile)
    assert tile_bytes <= max_bytes or math.prod(tile) == 1
    if tile != tuple(space):
        assert 2 * math.prod(length + 1 for length in tile) * 4 * channels > max_bytes
    # what lies beyond the edge is less than one point for each tile along an axis
    for length, points in zip(tile, space, strict=True):
        count = -(-points // length)
        assert count * length - points < count


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    tile=st.sampled_from([None, (2, 2), (1, 3)]),
    constants=st.booleans(),
)
def test_rows_follow_each_other_without_a_gap(
    lengths: list[int], tile: tuple[int, ...] | None, constants: bool
) -> None:
    spec = DatasetSpec(
        name="tiny",
        grid_type="cartesian",
        spatial_dims=("x", "y"),
        resolution=(2, 3),
        boundaries=(OPEN, OPEN),
        fields=(Field(name="u"),),
        constant_fields=(Field(name="depth"),) if constants else (),
        coordinates=((0.0, 1.0), (0.0, 1.0, 2.0)),
    )
    pieces, rows, first = pieces_of(spec, tile), [], 0
    for num_steps in lengths:
        rows += [row for step in range(num_steps) for row in pieces.frame_rows(first, step)]
        rows += pieces.constant_rows(first, num_steps)
        first += pieces.num_rows(num_steps)
    assert rows == list(range(first))
