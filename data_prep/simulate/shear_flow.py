"""The system `shear_flow`: layers of fluid that slide past each other, roll up, and carry a tracer.

Incompressible Navier-Stokes in two periodic dimensions (x of length 1 along the flow, y of length 2 across it), solved
for vorticity and tracer in Fourier space. `Rayleigh` is The Well's name for what is the Reynolds number.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.simulate.case import Case, Coordinates, ParameterSet, System, Trajectory
from data_prep.simulate.spectral import (
    Array,
    Spectrum,
    Waves,
    integrating_factor_step,
    smoothing_filter,
    to_grid,
    waves_of,
)

LENGTHS = (1.0, 2.0)
COURANT_NUMBER = 0.7
DEALIASING_CUTOFF = 2.0 / 3.0
REYNOLDS = (1e4, 5e4, 1e5, 5e5)
SCHMIDT = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Flow:
    """The equations on one grid. `linear`: (2, *spectrum) decay rates of vorticity and tracer."""

    shape: tuple[int, ...]
    waves: Waves
    linear: Array
    filter: Array


def flow_on(shape: tuple[int, ...], *, viscosity: float, diffusivity: float) -> Flow:
    """The equations on a grid of `shape` points, in units of the velocity jump and the x length."""
    waves = waves_of(shape, LENGTHS)
    linear = -np.stack([viscosity * waves.squared, diffusivity * waves.squared])
    return Flow(shape=shape, waves=waves, linear=linear, filter=smoothing_filter(shape, cutoff=DEALIASING_CUTOFF))


def velocity_spectra(vorticity: Spectrum, waves: Waves) -> Spectrum:
    """The divergence-free velocity `(2, *spectrum)` of a vorticity, of mean zero."""
    squared = np.where(waves.squared == 0.0, 1.0, waves.squared)
    stream = vorticity / squared
    return np.stack([1j * waves.along_y * stream, -1j * waves.along_x * stream])


def vorticity_of(velocity: Spectrum, waves: Waves) -> Spectrum:
    """The vorticity of velocity spectra `(2, *spectrum)`."""
    return np.asarray(1j * (waves.along_x * velocity[1] - waves.along_y * velocity[0]))


def transport(spectra: Spectrum, flow: Flow) -> Spectrum:
    """Minus the divergence of what the flow carries: vorticity and tracer. In flux form, so that means stay."""
    velocity = np.fft.irfft2(velocity_spectra(spectra[0], flow.waves), s=flow.shape)
    carried = np.fft.irfft2(spectra, s=flow.shape)
    flux_x, flux_y = np.fft.rfft2(velocity[0] * carried), np.fft.rfft2(velocity[1] * carried)
    divergence = 1j * (flow.waves.along_x * flux_x + flow.waves.along_y * flux_y)
    return np.asarray(-flow.filter * divergence)


def pressure_spectrum(velocity: Spectrum, flow: Flow) -> Spectrum:
    """The pressure of mean zero that keeps the velocity free of divergence."""
    u, v = np.fft.irfft2(velocity, s=flow.shape)
    x, y = flow.waves.along_x, flow.waves.along_y
    stress = x * x * np.fft.rfft2(u * u) + 2.0 * x * y * np.fft.rfft2(u * v) + y * y * np.fft.rfft2(v * v)
    squared = np.where(flow.waves.squared == 0.0, 1.0, flow.waves.squared)
    return np.asarray(-flow.filter * stress / squared)


def num_steps_within(spectra: Spectrum, flow: Flow, *, duration: float) -> int:
    """Steps that `duration` must be cut in so that the fluid crosses less than `COURANT_NUMBER` of a cell in each."""
    velocity = np.abs(np.fft.irfft2(velocity_spectra(spectra[0], flow.waves), s=flow.shape))
    crossing_rate = velocity[0] * flow.shape[0] / LENGTHS[0] + velocity[1] * flow.shape[1] / LENGTHS[1]
    return max(1, int(np.ceil(duration * crossing_rate.max() / COURANT_NUMBER)))


def advance(spectra: Spectrum, flow: Flow, *, duration: float) -> Spectrum:
    """Vorticity and tracer spectra `duration` later."""
    num_steps = num_steps_within(spectra, flow, duration=duration)
    for _ in range(num_steps):
        spectra = integrating_factor_step(
            spectra, lambda now: transport(now, flow), linear=flow.linear, time_step=duration / num_steps
        )
        spectra = flow.filter * spectra
    return spectra


@dataclass(frozen=True)
class Layers:
    """Where the flow turns round, and how it is pushed there.

    `half_width`: of each edge, where the velocity is a hyperbolic tangent; `num_waves`: of the push, along x.
    """

    num_edges: int
    half_width: float
    num_waves: int
    offset: float
    amplitude: float
    phases: Array


def random_layers(generator: np.random.Generator) -> Layers:
    """Two or four edges at even distances, pushed by waves that are long enough to grow.

    A hyperbolic tangent layer is unstable to waves of wavenumber below 1 / half_width (A. Michalke, J. Fluid Mech. 19
    (1964)); we stay below 0.8 of that.
    """
    num_edges = 2 * int(generator.integers(1, 3))
    half_width = float(np.exp(generator.uniform(np.log(0.05), np.log(0.1))))
    most_waves = int(0.8 / half_width / (2.0 * np.pi / LENGTHS[0]))
    return Layers(
        num_edges=num_edges,
        half_width=half_width,
        num_waves=int(generator.integers(1, most_waves + 1)),
        offset=generator.uniform(0.0, LENGTHS[1]),
        amplitude=generator.uniform(0.05, 0.2),
        phases=generator.uniform(0.0, 2.0 * np.pi, num_edges),
    )


def velocity_of(layers: Layers, coordinates: Coordinates) -> Array:
    """Velocity `(2, *space)` along x and y: the layers and the push, not yet free of divergence.

    The edges are repeated in the neighbouring periods, so that the sum is smooth where the box wraps.
    """
    x, y = coordinates[0][:, None], coordinates[1][None, :]
    stream, push = np.zeros((x.size, y.size)), np.zeros((x.size, y.size))
    for edge in range(-layers.num_edges, 2 * layers.num_edges):
        distance = (y - layers.offset - LENGTHS[1] * edge / layers.num_edges) / layers.half_width
        stream += (-0.5 if edge % 2 else 0.5) * np.tanh(distance)
        wave = np.sin(2.0 * np.pi * layers.num_waves * x / LENGTHS[0] + layers.phases[edge % layers.num_edges])
        push += layers.amplitude * wave * np.exp(-(distance**2))
    return np.stack([stream - stream.mean(), push])


def grid_points(resolution: tuple[int, ...]) -> Coordinates:
    """Points of the periodic box: x from 0, y from -1."""
    return tuple(
        low + length * np.arange(points) / points
        for low, length, points in zip((0.0, -1.0), LENGTHS, resolution, strict=True)
    )


def simulate_shear(case: Case, generator: np.random.Generator) -> Trajectory:
    """Tracer, pressure and velocity of one trajectory."""
    solved, wanted = case.solved_resolution, case.resolution
    viscosity = 1.0 / case.parameters["Rayleigh"]
    flow = flow_on(solved, viscosity=viscosity, diffusivity=viscosity / case.parameters["Schmidt"])
    layers = np.fft.rfft2(velocity_of(random_layers(generator), grid_points(solved)))
    spectra = flow.filter * np.stack([vorticity_of(layers, flow.waves), layers[0]])
    frames = []
    for frame in range(case.num_frames):
        if frame:
            spectra = advance(spectra, flow, duration=case.frame_interval)
        velocity = velocity_spectra(spectra[0], flow.waves)
        known = np.concatenate([spectra[1:], pressure_spectrum(velocity, flow)[None], velocity])
        frames.append(to_grid(known, solved, wanted))
    tracer, pressure, *velocities = np.stack(frames, axis=1)
    return {"tracer": tracer, "pressure": pressure, "velocity": np.stack(velocities, axis=-1)}


SHEAR_FLOW = System(
    name="shear_flow",
    about="incompressible shear layers with a tracer, 2D, periodic",
    axes=("x", "y"),
    boundary="PERIODIC",
    scalar_fields=("tracer", "pressure"),
    vector_fields=("velocity",),
    parameter_sets=tuple(
        ParameterSet(
            f"Reynolds_{reynolds:.0e}_Schmidt_{schmidt:g}".replace("e+0", "e"),
            {"Rayleigh": reynolds, "Schmidt": schmidt},
        )
        for reynolds in REYNOLDS
        for schmidt in SCHMIDT
    ),
    frame_interval=0.1,
    default_resolution=(64, 128),
    coordinates=grid_points,
    simulate=simulate_shear,
)
