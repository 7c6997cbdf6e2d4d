"""The system `gray_scott_reaction_diffusion`: two chemicals that diffuse, react, and draw patterns.

    dA/dt = 2e-5 ∇²A - A B² + F (1 - A)        dB/dt = 1e-5 ∇²B + A B² - (F + k) B

Solved in Fourier space in a periodic square. The distance of grid points is that of The Well's data (a side of 2 at 128
points) at any resolution, because the patterns have a width of their own: fewer points show a smaller box, not a
coarser one.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.simulate.case import Case, Coordinates, ParameterSet, System, Trajectory
from data_prep.simulate.spectral import (
    Array,
    Spectrum,
    integrating_factor_step,
    smoothing_filter,
    to_grid,
    waves_of,
)

SPACING = 2.0 / 128.0
DIFFUSIVITY_A, DIFFUSIVITY_B = 2e-5, 1e-5
LONGEST_TIME_STEP = 1.0
PATTERNS = {
    "maze": (0.029, 0.057),
    "worms": (0.058, 0.065),
    "spirals": (0.018, 0.051),
    "spots": (0.030, 0.062),
    "gliders": (0.014, 0.054),
    "bubbles": (0.098, 0.057),
}
"""Names of well-known patterns to (F, k), the six of The Well."""


@dataclass(frozen=True)
class Reaction:
    """The equations on one grid. `linear`: (2, *spectrum) decay rates of A and B."""

    shape: tuple[int, ...]
    feed: float
    linear: Array
    filter: Array


def reaction_on(shape: tuple[int, ...], lengths: tuple[float, ...], *, feed: float, kill: float) -> Reaction:
    """The equations on a grid of `shape` points over a box of `lengths`."""
    squared = waves_of(shape, lengths).squared
    linear = -np.stack([DIFFUSIVITY_A * squared + feed, DIFFUSIVITY_B * squared + feed + kill])
    return Reaction(shape=shape, feed=feed, linear=linear, filter=smoothing_filter(shape, cutoff=1.0))


def reacted(spectra: Spectrum, reaction: Reaction) -> Spectrum:
    """What the reaction makes and the feed brings: everything but diffusion and decay."""
    a, b = np.fft.irfft2(spectra, s=reaction.shape)
    converted = reaction.filter * np.fft.rfft2(a * b * b)
    rate = np.stack([-converted, converted])
    rate[0, 0, 0] += reaction.feed * a.size
    return rate


def advance(spectra: Spectrum, reaction: Reaction, *, duration: float) -> Spectrum:
    """Spectra of A and B `duration` later."""
    num_steps = int(np.ceil(duration / LONGEST_TIME_STEP))
    for _ in range(num_steps):
        spectra = integrating_factor_step(
            spectra, lambda now: reacted(now, reaction), linear=reaction.linear, time_step=duration / num_steps
        )
    return spectra


def has_rich_state(feed: float, kill: float) -> bool:
    """Whether a uniform state with B in it exists beside the empty one (A = 1, B = 0)."""
    return feed > 4.0 * (feed + kill) ** 2


def random_drops(generator: np.random.Generator, coordinates: Coordinates, *, lengths: tuple[float, ...]) -> Array:
    """Round drops at random places, `(*space)`: one at their centres, falling to zero around them."""
    num_drops = int(generator.integers(10, 31))
    centres = generator.uniform(0.0, 1.0, (num_drops, 2)) * lengths
    radii = generator.uniform(0.02, 0.06, num_drops)
    drops = np.zeros(tuple(points.size for points in coordinates))
    for centre, radius in zip(centres, radii, strict=True):
        apart = [
            (points - points[0] - at + length / 2.0) % length - length / 2.0
            for points, at, length in zip(coordinates, centre, lengths, strict=True)
        ]
        distance_squared = apart[0][:, None] ** 2 + apart[1][None, :] ** 2
        drops = np.maximum(drops, np.exp(-distance_squared / (2.0 * radius**2)))
    return drops


def _lengths(resolution: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(points * SPACING for points in resolution)


def _points(resolution: tuple[int, ...], lengths: tuple[float, ...]) -> Coordinates:
    return tuple(
        length * (np.arange(points) / points - 0.5) for points, length in zip(resolution, lengths, strict=True)
    )


def grid_points(resolution: tuple[int, ...]) -> Coordinates:
    """Points of the periodic square, centred on zero."""
    return _points(resolution, _lengths(resolution))


def simulate_patterns(case: Case, generator: np.random.Generator) -> Trajectory:
    """A and B of one trajectory."""
    solved, lengths = case.solved_resolution, _lengths(case.resolution)
    feed, kill = case.parameters["F"], case.parameters["k"]
    reaction = reaction_on(solved, lengths, feed=feed, kill=kill)
    drops = random_drops(generator, _points(solved, lengths), lengths=lengths)
    mixed = 1.0 - drops if has_rich_state(feed, kill) else drops  # holes in the rich state, or drops in the empty one
    spectra = np.fft.rfft2(np.stack([1.0 - 0.5 * mixed, 0.4 * mixed]))
    frames = []
    for frame in range(case.num_frames):
        if frame:
            spectra = advance(spectra, reaction, duration=case.frame_interval)
        frames.append(to_grid(spectra, solved, case.resolution))
    a, b = np.stack(frames, axis=1)
    return {"A": a, "B": b}


GRAY_SCOTT = System(
    name="gray_scott_reaction_diffusion",
    about="two reacting chemicals that draw patterns, 2D, periodic",
    axes=("x", "y"),
    boundary="PERIODIC",
    scalar_fields=("A", "B"),
    vector_fields=(),
    parameter_sets=tuple(
        ParameterSet(f"{pattern}_F_{feed:.3f}_k_{kill:.3f}", {"F": feed, "k": kill})
        for pattern, (feed, kill) in PATTERNS.items()
    ),
    frame_interval=40.0,
    default_resolution=(64, 64),
    coordinates=grid_points,
    simulate=simulate_patterns,
)
