"""Symmetries of the physics: a window as it would be with its axes turned, reversed or moved.

Axes of space change places and directions, and vectors and tensors turn with them; what a mirror shows with the other
sign (`pseudo`: vorticity, magnetic field) takes it. A window may also be rolled along axes that are periodic. What a
window gets is drawn by its place in the global order: the same for any number of ranks and threads, and another one in
each epoch.

A turn is offered only where the grid stays as it is: axes that change places have equal sizes and spacing, and one that
is reversed is so dense at one side as at the other. What lies at the sides turns along. As all windows of a batch have
the same sides, those are drawn for a whole step, and for each window one of the turns that lead to them: over all steps
every turn is equally likely.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np

from data_prep.contract.fields import Boundary, DatasetSpec
from trainer.config.schema import AugmentConfig
from trainer.data.dataset import Dataset
from trainer.data.ring import Scratch
from trainer.errors import RefusedError
from trainer.permutation import keyed_hash

Values = np.ndarray[Any, np.dtype[np.float32]]
Sides = tuple[tuple[Boundary, Boundary], ...]

SIDES, TURN, ROLL = 101, 102, 103
"""First words of the hash keys: unlike those of the order, which is of the same seed."""

SAME_SPACING = 1e-4
"""Largest difference of spacings that count as equal, relative to the mean one: sources have float32 coordinates."""


@dataclass(frozen=True)
class Turn:
    """A signed permutation of the axes of space: new axis i is old axis `axes[i]`, reversed where `reverses[i]`."""

    axes: tuple[int, ...]
    reverses: tuple[bool, ...]

    @property
    def is_identity(self) -> bool:
        return self.axes == tuple(range(len(self.axes))) and not any(self.reverses)

    @property
    def is_reflection(self) -> bool:
        """Whether it makes a left hand of a right one: its determinant is -1."""
        num_inversions = sum(a > b for place, a in enumerate(self.axes) for b in self.axes[place + 1 :])
        return (num_inversions + sum(self.reverses)) % 2 == 1

    def after(self, first: "Turn") -> "Turn":
        """The one turn that does what `first` and then this one do."""
        return Turn(
            tuple(first.axes[axis] for axis in self.axes),
            tuple(first.reverses[axis] != reverse for axis, reverse in zip(self.axes, self.reverses, strict=True)),
        )

    def of_sides(self, sides: Sides) -> Sides:
        """(low, high) side of each axis, turned."""
        return tuple(
            (sides[axis][1], sides[axis][0]) if reverse else sides[axis]
            for axis, reverse in zip(self.axes, self.reverses, strict=True)
        )

    def of_component(self, component: Sequence[int], *, is_pseudo: bool) -> tuple[tuple[int, ...], int]:
        """The old component (an axis for each rank of the field) that becomes this one, and the sign that it takes."""
        num_minus = sum(self.reverses[axis] for axis in component) + (is_pseudo and self.is_reflection)
        return tuple(self.axes[axis] for axis in component), -1 if num_minus % 2 else 1

    def of_space(self, values: Values) -> Values:
        """A view of `values` (…, *space), turned."""
        first = values.ndim - len(self.axes)
        turned = values.transpose(*range(first), *(first + axis for axis in self.axes))
        return np.flip(turned, tuple(first + axis for axis, reverse in enumerate(self.reverses) if reverse))


Shift = tuple[int, ...]
"""Points along each new axis by which a window is rolled."""


class Augmenter:
    """What becomes of the windows of one dataset."""

    def __init__(
        self, spec: DatasetSpec, *, turns: Sequence[Turn], rolled: Sequence[int], pseudo: Sequence[str], seed: int
    ) -> None:
        """`turns` form a group; `rolled` are axes; `pseudo` are names of fields that a mirror gives the other sign."""
        self._spec, self._seed, self._rolled = spec, seed, tuple(rolled)
        by_sides: dict[Sides, list[Turn]] = defaultdict(list)
        for turn in turns:
            by_sides[turn.of_sides(spec.boundaries)].append(turn)
        self._by_sides = tuple(by_sides.items())
        self._sources = {turn: tuple(_sources(spec, turn, pseudo)) for turn in turns}

    def __str__(self) -> str:
        rolled = ", ".join(self._spec.spatial_dims[axis] for axis in self._rolled) or "no axis"
        return f"seen under {len(self._sources)} turns, rolled along {rolled}"

    def sides(self, draw: int) -> Sides:
        """What lies at the sides of every window of the step with this draw."""
        return self._of_step(draw)[0]

    def turn(self, draw: int, position: int) -> tuple[Turn, Shift]:
        """What the window at this position of the global order gets, in the step with this draw."""
        _, turns = self._of_step(draw)
        turn = turns[keyed_hash(TURN, self._seed, position) % len(turns)]
        shift = [0] * len(turn.axes)
        for axis, old_axis in enumerate(turn.axes):
            if old_axis in self._rolled:
                size = self._spec.resolution[old_axis]
                shift[axis] = keyed_hash(ROLL, self._seed, position, old_axis) % size
        return turn, tuple(shift)

    def move(self, window: Values, *, draw: int, position: int, scratch: Scratch) -> None:
        """Turn and roll the window (time, channel, *space) at a position of the order; `scratch` takes a copy of it."""
        turn, shift = self.turn(draw, position)
        if turn.is_identity and not any(shift):
            return
        before = np.frombuffer(scratch.view(window.nbytes), np.float32).reshape(window.shape)
        np.copyto(before, window)
        self.apply(before, window, turn=turn, shift=shift)

    def apply(self, values: Values, out: Values, *, turn: Turn, shift: Shift) -> None:
        """Write the window `values` (time, channel, *space), turned and then rolled, into `out`: other memory."""
        for channel, (source, sign) in enumerate(self._sources[turn]):
            turned = turn.of_space(values[:, source])
            for there, here in _rolled_blocks(shift, out.shape[2:]):
                np.multiply(turned[here], np.float32(sign), out=out[:, channel][there])

    def _of_step(self, draw: int) -> tuple[Sides, list[Turn]]:
        return self._by_sides[keyed_hash(SIDES, self._seed, draw) % len(self._by_sides)]


def augmenters(sections: Sequence[AugmentConfig], datasets: Sequence[Dataset], *, seed: int) -> list[Augmenter | None]:
    """For each dataset, None where its section moves nothing.

    Raises RefusedError for axes that a dataset does not have, fields that none has, and turns of a curved grid.
    """
    known = {field.name for one in datasets for field in (*one.shown.fields, *one.shown.constant_fields)}
    for section in sections:
        if unknown := sorted(set(section.pseudo) - known):
            raise RefusedError(
                f"data.augment.pseudo: no dataset has a field {', '.join(unknown)}; "
                f"they have {', '.join(sorted(known))}"
            )
    return [_augmenter(section, dataset, seed=seed) for section, dataset in zip(sections, datasets, strict=True)]


def _augmenter(section: AugmentConfig, dataset: Dataset, *, seed: int) -> Augmenter | None:
    spec, whole = dataset.shown, dataset.manifest.dataset
    if section.turns == "none" and not section.rolls:
        return None
    names = spec.spatial_dims if section.axes is None else section.axes
    if unknown := [name for name in names if name not in spec.spatial_dims]:
        raise RefusedError(
            f"{dataset.storage.url}: data.augment.axes names {', '.join(unknown)}, but the axes of dataset {spec.name} "
            f"are {', '.join(spec.spatial_dims)}; give it an `augment` of its own in data.datasets"
        )
    if section.turns != "none" and spec.grid_type != "cartesian":
        raise RefusedError(
            f"{dataset.storage.url}: data.augment.turns is {section.turns}, but the grid of dataset {spec.name} is "
            f"{spec.grid_type}, where axes are not alike; give it an `augment` with turns none in data.datasets"
        )
    axes = [spec.spatial_dims.index(name) for name in names]
    # where spacing varies, so does that of crops
    axes = [axis for axis in axes if spec.resolution[axis] == whole.resolution[axis] or _is_even(whole, axis)]
    return Augmenter(
        spec,
        turns=turns_of(spec, kind=section.turns, axes=axes),
        rolled=rolled_axes(spec, axes=axes) if section.rolls else (),
        pseudo=section.pseudo,
        seed=seed,
    )


def turns_of(spec: DatasetSpec, *, kind: str, axes: Sequence[int]) -> list[Turn]:
    """The group of turns of this kind (see `AugmentConfig.turns`) that move these axes alone and keep the grid."""
    size = len(spec.resolution)
    every = [
        Turn(order, reverses)
        for order in permutations(range(size))
        for reverses in product((False, True), repeat=size)
        if all((order[axis], reverses[axis]) == (axis, False) for axis in range(size) if axis not in axes)
    ]
    is_of: dict[str, Callable[[Turn], bool]] = {
        "none": lambda turn: turn.is_identity,
        "flips": lambda turn: turn.axes == tuple(range(size)),
        "rotations": lambda turn: not turn.is_reflection,
        "permutations": lambda turn: not any(turn.reverses),
        "all": lambda turn: True,
    }
    return [turn for turn in every if is_of[kind](turn) and _keeps_grid(spec, turn)]


def rolled_axes(spec: DatasetSpec, *, axes: Sequence[int]) -> list[int]:
    """Those of these axes that are periodic and evenly spaced."""
    return [axis for axis in axes if set(spec.boundaries[axis]) == {Boundary.PERIODIC} and _is_even(spec, axis)]


def _is_even(spec: DatasetSpec, axis: int) -> bool:
    return bool(np.allclose(_spacing(spec, axis), 1, rtol=0, atol=SAME_SPACING))


def _keeps_grid(spec: DatasetSpec, turn: Turn) -> bool:
    """Whether each new axis has the points of the old one in its place, but for where they begin."""
    for axis, (old_axis, reverse) in enumerate(zip(turn.axes, turn.reverses, strict=True)):
        if spec.resolution[axis] != spec.resolution[old_axis]:
            return False
        new, old = _spacing(spec, old_axis, unit=axis), _spacing(spec, axis)
        if not np.allclose(new[::-1] if reverse else new, old, rtol=0, atol=SAME_SPACING):
            return False
    return True


def _spacing(spec: DatasetSpec, axis: int, *, unit: int | None = None) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Distances between neighbours along an axis, over the mean one along the axis `unit` (or along itself)."""
    distances = np.abs(np.diff(spec.coordinates[axis]))
    of = distances if unit is None else np.abs(np.diff(spec.coordinates[unit]))
    return distances / (of.mean() if len(of) and of.mean() > 0 else 1.0)


def _sources(spec: DatasetSpec, turn: Turn, pseudo: Sequence[str]) -> Iterator[tuple[int, int]]:
    """For each channel of a window, the channel that becomes it, and its sign."""
    first = 0
    for field in spec.fields + spec.constant_fields:
        components = list(product(range(len(spec.spatial_dims)), repeat=field.rank))
        for component in components:
            source, sign = turn.of_component(component, is_pseudo=field.name in pseudo)
            yield first + components.index(source), sign
        first += len(components)


def _rolled_blocks(shift: Shift, space: Sequence[int]) -> Iterator[tuple[Any, Any]]:
    """(there, here), indices of (…, *space): what lies `here` moves `there`, until all of space has moved."""
    along = [
        [(slice(by, None), slice(0, size - by)), (slice(0, by), slice(size - by, None))] if by else [(slice(None),) * 2]
        for by, size in zip(shift, space, strict=True)
    ]
    for pairs in product(*along):
        there, here = zip(*pairs, strict=True)
        yield (..., *there), (..., *here)
