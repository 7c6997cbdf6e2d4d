"""The systems `euler_multi_quadrants_*`: an ideal gas that starts as random blocks at rest with themselves only.

The box is the unit square or cube. Random cuts along each axis make a grid of blocks; each block has one constant
density, velocity and pressure. Shocks, contacts and rarefactions start at every cut and meet.
"""

from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from data_prep.simulate.case import Case, Coordinates, ParameterSet, System, Trajectory
from data_prep.simulate.euler import Array, Gas, conserved_of, frames, pressure_of

BlockNumbers = list[NDArray[np.intp]]

GASES = {
    1.4: "Dry_air_20",
    1.22: "C2H6_15",
    1.76: "Ar_-180",
    1.13: "C3H8_16",
    1.3: "CO2_20",
    1.33: "H2O_20",
    1.365: "Dry_air_1000",
    1.404: "H2_100_Dry_air_-15",
    1.453: "H2_-76",
    1.597: "H2_-181",
}
"""Heat capacity ratio to gas and temperature in °C, as in The Well's file names; the first ones differ most."""

# Chosen so that the mean and spread of density, energy and pressure come near The Well's published statistics
# of the open dataset (density 0.90 and 0.65, energy 3.0 and 3.1, pressure 0.90 and 0.80).
DENSITY_RANGE = (0.3, 2.0)
PRESSURE_RANGE = (0.2, 2.8)
LARGEST_VELOCITY = 0.6
MOST_BLOCKS = {2: 5, 3: 3}
"""Blocks along one axis, at most, by number of axes."""


def _log_uniform(generator: np.random.Generator, bounds: tuple[float, float], shape: tuple[int, ...]) -> Array:
    low, high = np.log(bounds)
    return np.exp(generator.uniform(low, high, shape))


def _block_numbers(generator: np.random.Generator, coordinates: Coordinates, *, is_periodic: bool) -> BlockNumbers:
    """For each axis the number of the block that each grid point lies in.

    Along a periodic axis the whole pattern is shifted at random, so that no cut is tied to the origin.
    """
    numbers: BlockNumbers = []
    for points in coordinates:
        widths = generator.uniform(0.5, 1.5, generator.integers(2, MOST_BLOCKS[len(coordinates)] + 1))
        shift = generator.uniform() if is_periodic else 0.0
        cuts = np.cumsum(widths)[:-1] / widths.sum()
        numbers.append(np.searchsorted(cuts, (points + shift) % 1.0))
    return numbers


def random_blocks(
    generator: np.random.Generator, coordinates: Coordinates, *, gamma: float, is_periodic: bool
) -> Array:
    """Conserved variables `(2 + num_axes, *space)` of random blocks.

    The draws do not depend on the resolution: a finer grid shows the same blocks.
    """
    numbers = _block_numbers(generator, coordinates, is_periodic=is_periodic)
    num_axes = len(coordinates)
    blocks = (MOST_BLOCKS[num_axes],) * num_axes
    density = _log_uniform(generator, DENSITY_RANGE, blocks)
    velocity = generator.uniform(-LARGEST_VELOCITY, LARGEST_VELOCITY, (num_axes, *blocks))
    pressure = _log_uniform(generator, PRESSURE_RANGE, blocks)
    primitive = np.concatenate([density[None], velocity, pressure[None]])
    for axis, number in enumerate(numbers, start=1):
        primitive = primitive.take(number, axis=axis)
    return conserved_of(primitive, gamma)


def block_average(state: Array, factor: int) -> Array:
    """The mean over cubes of `factor` cells along each axis but the first: conserved totals stay."""
    for axis in range(1, state.ndim):
        split = (*state.shape[:axis], state.shape[axis] // factor, factor, *state.shape[axis + 1 :])
        state = state.reshape(split).mean(axis=axis + 1)
    return state


def cell_centres(resolution: tuple[int, ...]) -> Coordinates:
    """The centres of the cells of the unit box."""
    return tuple((np.arange(cells) + 0.5) / cells for cells in resolution)


def simulate_blocks(case: Case, generator: np.random.Generator, *, is_periodic: bool) -> Trajectory:
    """Energy, density, pressure and momentum of one trajectory, each frame averaged to the asked resolution."""
    gamma = case.parameters["gamma"]
    solved = case.solved_resolution
    gas = Gas(gamma, spacing=tuple(1.0 / cells for cells in solved), is_periodic=is_periodic)
    state = random_blocks(generator, cell_centres(solved), gamma=gamma, is_periodic=is_periodic)
    states = np.stack(
        [
            block_average(frame, case.refine)
            for frame in frames(state, gas, interval=case.frame_interval, num_frames=case.num_frames)
        ],
        axis=1,
    )
    return {
        "energy": states[-1],
        "density": states[0],
        "pressure": pressure_of(states, gamma),
        "momentum": np.moveaxis(states[1:-1], 0, -1),
    }


def _system(num_axes: int, boundary: str) -> System:
    is_periodic = boundary == "periodic"
    dimension = "" if num_axes == 2 else f"_{num_axes}d"
    return System(
        name=f"euler_multi_quadrants{dimension}_{boundary}BC",
        about=f"compressible gas from random blocks, {num_axes}D, {boundary} sides",
        axes=("x", "y", "z")[:num_axes],
        boundary="PERIODIC" if is_periodic else "OPEN",
        scalar_fields=("energy", "density", "pressure"),
        vector_fields=("momentum",),
        parameter_sets=tuple(ParameterSet(f"gamma_{gamma:g}_{gas}", {"gamma": gamma}) for gamma, gas in GASES.items()),
        frame_interval=0.015,
        default_resolution=(64, 64) if num_axes == 2 else (32, 32, 32),
        coordinates=cell_centres,
        simulate=partial(simulate_blocks, is_periodic=is_periodic),
    )


QUADRANTS = tuple(_system(*kind) for kind in product((2, 3), ("periodic", "open")))
