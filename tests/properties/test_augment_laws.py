"""Symmetries of windows: the laws of their group, and the physics that they must keep, against plain loops."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.contract.fields import Boundary, DatasetSpec, Field
from trainer.config.schema import AugmentConfig
from trainer.data.augment import Augmenter, Turn, Values, rolled_axes, turns_of

PERIODIC = (Boundary.PERIODIC, Boundary.PERIODIC)
FIELDS = (Field(name="height"), Field(name="slope", rank=1), Field(name="bend", rank=2))
CONSTANTS = (Field(name="depth"), Field(name="wind", rank=1))


def spec_of(*resolution: int, spacings: tuple[float, ...] = (), fields: tuple[Field, ...] = FIELDS) -> DatasetSpec:
    spacing = spacings or (0.5,) * len(resolution)
    return DatasetSpec(
        name="waves",
        grid_type="cartesian",
        spatial_dims=("x", "y", "z")[: len(resolution)],
        resolution=resolution,
        boundaries=(PERIODIC,) * len(resolution),
        fields=fields,
        constant_fields=CONSTANTS,
        coordinates=tuple(tuple(by * point for point in range(n)) for by, n in zip(spacing, resolution, strict=True)),
    )


def augmenter(spec: DatasetSpec, *, kind: str = "all", pseudo: tuple[str, ...] = ()) -> Augmenter:
    axes = range(len(spec.resolution))
    return Augmenter(
        spec, turns=turns_of(spec, kind=kind, axes=axes), rolled=rolled_axes(spec, axes=axes), pseudo=pseudo, seed=0
    )


SQUARE, CUBE = spec_of(5, 5), spec_of(3, 3, 3)
GROUPS = {spec: turns_of(spec, kind="all", axes=range(len(spec.resolution))) for spec in (SQUARE, CUBE)}
specs = st.sampled_from([SQUARE, CUBE])


def random_window(spec: DatasetSpec, seed: int = 0) -> Values:
    num_channels = len(spec.channels + spec.constant_channels)
    shape = (2, num_channels, *spec.resolution)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def moved(spec: DatasetSpec, window: Values, turn: Turn, shift: tuple[int, ...] = (), *, pseudo: str = "") -> Values:
    out = np.full_like(window, np.nan)
    shift = shift or (0,) * len(spec.resolution)
    augmenter(spec, pseudo=(pseudo,)).apply(window, out, turn=turn, shift=shift)
    return out


def by_loops(spec: DatasetSpec, window: Values, turn: Turn, shift: tuple[int, ...]) -> Values:
    """R as a matrix: new values at R x are the old ones at x, components contracted with R once for each rank."""
    size = len(spec.resolution)
    matrix = np.zeros((size, size))
    for axis, old_axis in enumerate(turn.axes):
        matrix[axis, old_axis] = -1 if turn.reverses[axis] else 1
    out = np.empty_like(window)
    for point in np.ndindex(*spec.resolution):
        image = []
        for axis, old_axis in enumerate(turn.axes):
            along = spec.resolution[old_axis] - 1 - point[old_axis] if turn.reverses[axis] else point[old_axis]
            image.append((along + shift[axis]) % spec.resolution[axis])
        first = 0
        for field in spec.fields + spec.constant_fields:
            count = size**field.rank
            for frame in range(len(window)):
                old = window[(frame, slice(first, first + count), *point)].reshape((size,) * field.rank)
                new = old.copy() if field.rank == 0 else matrix @ old if field.rank == 1 else matrix @ old @ matrix.T
                out[(frame, slice(first, first + count), *image)] = new.reshape(-1)
            first += count
    return out


@given(spec=specs, data=st.data())
def test_windows_move_as_plain_loops_move_them(spec: DatasetSpec, data: st.DataObject) -> None:
    turn = data.draw(st.sampled_from(GROUPS[spec]))
    shift = tuple(data.draw(st.integers(0, size - 1)) for size in spec.resolution)
    window = random_window(spec)
    window[(1, slice(None), *(0,) * len(spec.resolution))] = np.nan  # values that are not finite move with the others
    np.testing.assert_array_equal(moved(spec, window, turn, shift), by_loops(spec, window, turn, shift))


@given(spec=specs, data=st.data())
def test_one_turn_after_another_is_a_turn_of_the_group(spec: DatasetSpec, data: st.DataObject) -> None:
    first, second = (data.draw(st.sampled_from(GROUPS[spec])) for _ in range(2))
    assert second.after(first) in GROUPS[spec]
    window = random_window(spec)
    twice = moved(spec, moved(spec, window, first, pseudo="bend"), second, pseudo="bend")
    np.testing.assert_array_equal(twice, moved(spec, window, second.after(first), pseudo="bend"))
    assert second.after(first).of_sides(SIDES[: len(spec.resolution)]) == second.of_sides(
        first.of_sides(SIDES[: len(spec.resolution)])
    )


SIDES = ((Boundary.WALL, Boundary.OPEN), PERIODIC, (Boundary.OPEN, Boundary.OPEN))


@pytest.mark.parametrize("kind", ["none", "flips", "rotations", "permutations", "all"])
@pytest.mark.parametrize("spec", [SQUARE, CUBE], ids=["square", "cube"])
def test_the_turns_of_a_kind_form_a_group(spec: DatasetSpec, kind: str) -> None:
    size = len(spec.resolution)
    turns = turns_of(spec, kind=kind, axes=range(size))
    expected = {"none": (1, 1), "flips": (4, 8), "rotations": (4, 24), "permutations": (2, 6), "all": (8, 48)}
    assert len(set(turns)) == len(turns) == expected[kind][size - 2]
    assert {second.after(first) for first in turns for second in turns} == set(turns)
    for turn in turns:
        assert sum(one.after(turn).is_identity for one in turns) == 1


def test_reflections_multiply_like_signs() -> None:
    for first, second in product(GROUPS[CUBE], repeat=2):
        assert second.after(first).is_reflection == (first.is_reflection != second.is_reflection)


def gradient(height: Values) -> Values:
    """(axis, *space) of a periodic field (*space), by central differences of unit spacing."""
    return np.stack([np.roll(height, -1, axis) - np.roll(height, 1, axis) for axis in range(height.ndim)])


def bend(height: Values) -> Values:
    return np.stack([gradient(slope) for slope in gradient(height)]).reshape(-1, *height.shape)


@given(spec=specs, seed=st.integers(0, 99), data=st.data())
@settings(max_examples=50)
def test_what_is_a_gradient_stays_a_gradient(spec: DatasetSpec, seed: int, data: st.DataObject) -> None:
    """Scalar, its slope and its second derivatives move together; rolled too. Exactly: differences only change sign."""
    turn = data.draw(st.sampled_from(GROUPS[spec]))
    shift = tuple(data.draw(st.integers(0, size - 1)) for size in spec.resolution)
    window = random_window(spec, seed)
    size = len(spec.resolution)
    for frame in window:
        frame[0] = np.random.default_rng(seed).integers(-1000, 1000, spec.resolution)
        frame[1 : 1 + size], frame[1 + size : 1 + size + size**2] = gradient(frame[0]), bend(frame[0])
    for frame in moved(spec, window, turn, shift):
        np.testing.assert_array_equal(frame[1 : 1 + size], gradient(frame[0]))
        np.testing.assert_array_equal(frame[1 + size : 1 + size + size**2], bend(frame[0]))


@given(seed=st.integers(0, 99), turn=st.sampled_from(GROUPS[SQUARE]))
def test_vorticity_is_of_the_flow_when_it_is_named_pseudo(seed: int, turn: Turn) -> None:
    spec = spec_of(5, 5, fields=(Field(name="vorticity"), Field(name="velocity", rank=1)))
    window = random_window(spec, seed)
    window[:, 1:3] = np.random.default_rng(seed).integers(-1000, 1000, (2, 2, 5, 5))
    for frame in window:
        frame[0] = gradient(frame[2])[0] - gradient(frame[1])[1]
    for frame in moved(spec, window, turn, pseudo="vorticity"):
        np.testing.assert_array_equal(frame[0], gradient(frame[2])[0] - gradient(frame[1])[1])
    if turn.is_reflection:
        true_scalar = moved(spec, window, turn)[0]
        assert not np.array_equal(true_scalar[0], gradient(true_scalar[2])[0] - gradient(true_scalar[1])[1])


@given(seed=st.integers(0, 99), turn=st.sampled_from(GROUPS[CUBE]))
@settings(max_examples=30)
def test_a_curl_stays_a_curl_when_it_is_named_pseudo(seed: int, turn: Turn) -> None:
    spec = spec_of(3, 3, 3, fields=(Field(name="curl", rank=1), Field(name="potential", rank=1)))
    window = random_window(spec, seed)
    window[:, 3:6] = np.random.default_rng(seed).integers(-1000, 1000, (2, 3, 3, 3, 3))
    for frame in window:
        frame[:3] = curl(frame[3:6])
    for frame in moved(spec, window, turn, pseudo="curl"):
        np.testing.assert_array_equal(frame[:3], curl(frame[3:6]))


def curl(potential: Values) -> Values:
    x, y, z = (gradient(component) for component in potential)
    return np.stack([z[1] - y[2], x[2] - z[0], y[0] - x[1]])


def test_axes_of_other_sizes_do_not_change_places() -> None:
    spec = spec_of(4, 6)
    assert {turn.axes for turn in turns_of(spec, kind="all", axes=(0, 1))} == {(0, 1)}
    assert len(turns_of(spec, kind="rotations", axes=(0, 1))) == 2  # none, and by 180 degrees


def test_axes_of_other_spacing_do_not_change_places() -> None:
    spec = spec_of(5, 5, spacings=(0.5, 0.25))
    assert len(turns_of(spec, kind="all", axes=(0, 1))) == 4


def test_axes_that_are_not_named_stay() -> None:
    turns = turns_of(CUBE, kind="all", axes=(0, 2))
    assert len(turns) == 8
    assert all(turn.axes[1] == 1 and not turn.reverses[1] for turn in turns)


def test_a_grid_that_is_denser_at_one_side_is_neither_reversed_nor_rolled() -> None:
    even = spec_of(5, 5)
    one_sided, symmetric = (0.0, 0.1, 0.3, 0.7, 1.0), (0.0, 0.2, 0.5, 0.8, 1.0)
    for coordinates, num_flips in ((one_sided, 2), (symmetric, 4)):
        spec = even.model_copy(update={"coordinates": (even.coordinates[0], coordinates)})
        assert len(turns_of(spec, kind="flips", axes=(0, 1))) == num_flips
        assert rolled_axes(spec, axes=(0, 1)) == [0]


def test_only_periodic_axes_roll() -> None:
    spec = spec_of(5, 5).model_copy(update={"boundaries": (PERIODIC, (Boundary.WALL, Boundary.WALL))})
    assert rolled_axes(spec, axes=(0, 1)) == [0]


def test_over_the_steps_every_turn_comes_and_windows_of_a_step_share_their_sides() -> None:
    spec = SQUARE.model_copy(update={"boundaries": SIDES[:2]})
    one = augmenter(spec)
    counts = dict.fromkeys(GROUPS[SQUARE], 0)
    for draw in range(200):
        for position in range(8):
            turn, shift = one.turn(draw, 8 * draw + position)
            counts[turn] += 1
            assert turn.of_sides(spec.boundaries) == one.sides(draw)
            assert shift[turn.axes.index(0)] == 0  # the axis between walls is not rolled
    assert min(counts.values()) > 0.6 * 200
    assert max(counts.values()) < 1.4 * 200


def test_nothing_moves_by_default() -> None:
    assert AugmentConfig() == AugmentConfig(turns="none", rolls=False)
