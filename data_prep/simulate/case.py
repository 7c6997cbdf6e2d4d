"""What a system of equations is to the rest of this room, and what one trajectory of it is asked to be.

The solvers fill a `System`; the corpus asks it for trajectories; the writer copies its description into the files.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

Coordinates = tuple[NDArray[np.float64], ...]
Trajectory = dict[str, NDArray[np.floating]]
"""Field name to values: `(frames, *space)` of a scalar field, `(frames, *space, axes)` of a vector field."""


@dataclass(frozen=True)
class ParameterSet:
    """The scalar parameters of one file, and the label that ends the file's name."""

    label: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """The numbers that a solver needs for one trajectory, beside its random generator.

    `refine`: how many times finer than `resolution` to solve, along each axis; the frames are averaged back.
    """

    resolution: tuple[int, ...]
    num_frames: int
    frame_interval: float
    refine: int
    parameters: Mapping[str, float]

    @property
    def solved_resolution(self) -> tuple[int, ...]:
        return tuple(points * self.refine for points in self.resolution)


@dataclass(frozen=True)
class System:
    """A system of equations with its parameter sets, as one dataset folder of The Well describes it.

    `coordinates` gives the grid of a resolution; `simulate` the frames of a case, from the given generator only.
    """

    name: str
    about: str
    axes: tuple[str, ...]
    boundary: Literal["OPEN", "PERIODIC"]
    scalar_fields: tuple[str, ...]
    vector_fields: tuple[str, ...]
    parameter_sets: tuple[ParameterSet, ...]
    frame_interval: float
    default_resolution: tuple[int, ...]
    coordinates: Callable[[tuple[int, ...]], Coordinates]
    simulate: Callable[[Case, np.random.Generator], Trajectory]

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(self.parameter_sets[0].values)

    @property
    def num_channels(self) -> int:
        return len(self.scalar_fields) + len(self.vector_fields) * len(self.axes)


def generator_for(system_name: str, split: Split, *, index: int, seed: int) -> np.random.Generator:
    """The random generator of one trajectory: a function of these four and nothing else."""
    system_number = zlib.crc32(system_name.encode())
    return np.random.default_rng(np.random.SeedSequence([seed, system_number, SPLITS.index(split), index]))
