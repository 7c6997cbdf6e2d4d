"""Compressible Euler equations of an ideal gas, by shock-capturing finite volumes.

Owns the scheme and nothing else: no initial states, no files. It is written once for any number of axes; 2D and 3D
run the same lines. Van Leer's limited linear reconstruction of the primitive variables (MUSCL), the HLLC
approximate Riemann solver with Einfeldt's signal speeds, unsplit fluxes, and the two-stage strong-stability-preserving
Runge-Kutta method (Heun's). Conserved totals of a periodic box change by rounding only.

Arrays are `(2 + num_axes, *space)`: density, momentum (or velocity) by axis, total energy (or pressure).
Source: E. F. Toro, Riemann Solvers and Numerical Methods for Fluid Dynamics, 3rd edition, chapters 10, 13 and 14.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GHOST_CELLS = 2
COURANT_NUMBER = 0.8  # of the sum over axes of the signal speeds; unsplit MUSCL with Heun's method is stable up to 1
CAREFUL_COURANT_NUMBER = 0.4  # first-order HLLC keeps density and pressure positive below one half
MAX_STEPS_PER_FRAME = 200_000


@dataclass(frozen=True)
class Gas:
    """An ideal gas in a box: heat capacity ratio, cell widths by axis, and whether the box wraps around."""

    gamma: float
    spacing: tuple[float, ...]
    is_periodic: bool


class UnphysicalStateError(ArithmeticError):
    """Density or pressure fell to zero or below, or stopped being a number, even at first order."""


def pressure_of(state: Array, gamma: float) -> Array:
    """The pressure of conserved variables: `(gamma - 1) (energy - momentum² / (2 density))`."""
    kinetic = 0.5 * np.square(state[1:-1]).sum(axis=0) / state[0]
    pressure: Array = (gamma - 1.0) * (state[-1] - kinetic)
    return pressure


def primitive_of(state: Array, gamma: float) -> Array:
    """Density, velocity by axis and pressure of conserved variables."""
    primitive = np.empty_like(state)
    primitive[0] = state[0]
    np.divide(state[1:-1], state[0], out=primitive[1:-1])
    primitive[-1] = pressure_of(state, gamma)
    return primitive


def conserved_of(primitive: Array, gamma: float) -> Array:
    """Density, momentum by axis and total energy of primitive variables."""
    state = np.empty_like(primitive)
    state[0] = primitive[0]
    np.multiply(primitive[1:-1], primitive[0], out=state[1:-1])
    state[-1] = primitive[-1] / (gamma - 1.0) + 0.5 * (state[1:-1] * primitive[1:-1]).sum(axis=0)
    return state


def _with_ghosts(primitive: Array, axis: int, *, is_periodic: bool) -> Array:
    """The primitive variables with `axis` moved to array axis 1 and two ghost cells at each of its ends.

    The move makes every later slice of this direction contiguous, which halves the time of the last axis.
    """
    moved = np.moveaxis(primitive, axis + 1, 1)
    cells = moved.shape[1]
    padded = np.empty((moved.shape[0], cells + 2 * GHOST_CELLS, *moved.shape[2:]))
    padded[:, GHOST_CELLS:-GHOST_CELLS] = moved
    if is_periodic:
        padded[:, :GHOST_CELLS] = moved[:, -GHOST_CELLS:]
        padded[:, -GHOST_CELLS:] = moved[:, :GHOST_CELLS]
    else:
        padded[:, :GHOST_CELLS] = moved[:, :1]
        padded[:, -GHOST_CELLS:] = moved[:, -1:]
    return padded


def _face_values(padded: Array, *, first_order: bool) -> tuple[Array, Array]:
    """The values left and right of each face: limited linear reconstruction, or plain cell values."""
    left, right = padded[:, 1:-2], padded[:, 2:-1]
    if first_order:
        return left, right
    jump = padded[:, 1:] - padded[:, :-1]
    before, after = jump[:, :-1], jump[:, 1:]
    both = before + after
    half_slope = np.maximum(before * after, 0.0)  # van Leer: half the harmonic mean, zero at an extremum
    half_slope *= both
    both *= both
    both += 1e-30  # 0/0 where the field is flat
    half_slope /= both
    return left + half_slope[:, :-1], right - half_slope[:, 1:]


def _signal_speeds(left: Array, right: Array, normal: int, *, gamma: float) -> tuple[Array, Array]:
    """Bounds of the slowest and fastest wave between two states (Einfeldt 1988)."""
    root_left, root_right = np.sqrt(left[0]), np.sqrt(right[0])
    total = root_left + root_right
    square_left, square_right = gamma * left[-1] / left[0], gamma * right[-1] / right[0]
    change = right[normal] - left[normal]
    share = root_right / total
    mean_velocity = left[normal] + share * change
    mean_square = square_left + share * (square_right - square_left)
    mean_square += 0.5 * share * (1.0 - share) * (change * change)
    mean_sound = np.sqrt(mean_square)
    slowest = np.minimum(left[normal] - np.sqrt(square_left), mean_velocity - mean_sound)
    fastest = np.maximum(right[normal] + np.sqrt(square_right), mean_velocity + mean_sound)
    return slowest, fastest


def hllc_flux(left: Array, right: Array, normal: int, *, gamma: float) -> Array:
    """The HLLC flux of the conserved variables through faces whose normal velocity is component `normal`.

    `left`, `right`: primitive variables beside each face. The flux of the side that the contact wave moves away from
    is blended with the contact's pressure, so only one side's flux is computed (Toro, section 10.4).
    """
    slowest, fastest = _signal_speeds(left, right, normal, gamma=gamma)
    mass_left = left[0] * (left[normal] - slowest)
    mass_right = right[0] * (fastest - right[normal])
    mass = mass_left + mass_right
    contact = left[-1] - right[-1]
    contact += mass_left * left[normal]
    contact += mass_right * right[normal]
    contact /= mass
    contact_pressure = left[-1] + mass_left * (left[normal] - contact)
    np.maximum(contact_pressure, 0.0, out=contact_pressure)

    is_left = contact >= 0.0
    side = np.where(is_left, left, right)
    bound = np.where(is_left, np.minimum(slowest, 0.0), np.maximum(fastest, 0.0))
    span = contact - bound
    weight = contact / span
    pressure = side[-1]

    flux = np.empty_like(side)
    np.multiply(side[0], weight * (side[normal] - bound), out=flux[0])
    np.multiply(side[1:-1], flux[0], out=flux[1:-1])
    specific_kinetic = 0.5 * np.square(side[1:-1]).sum(axis=0)
    np.multiply(specific_kinetic, flux[0], out=flux[-1])
    flux[-1] += weight * pressure * ((side[normal] - bound) / (gamma - 1.0) + side[normal])
    push = weight * pressure
    contact_push = -bound / span * contact_pressure
    flux[normal] += push + contact_push
    flux[-1] += contact_push * contact
    return flux


def rate_of_change(primitive: Array, gas: Gas, *, first_order: bool) -> Array:
    """The time derivative of the conserved variables: minus the divergence of the fluxes."""
    rate = np.zeros_like(primitive)
    for axis, width in enumerate(gas.spacing):
        padded = _with_ghosts(primitive, axis, is_periodic=gas.is_periodic)
        left, right = _face_values(padded, first_order=first_order)
        flux = hllc_flux(left, right, 1 + axis, gamma=gas.gamma)
        difference = flux[:, 1:] - flux[:, :-1]
        difference /= width
        rate -= np.moveaxis(difference, 1, axis + 1)
    return rate


def stable_time_step(primitive: Array, gas: Gas, *, courant_number: float) -> float:
    """The longest step for which no signal crosses more than `courant_number` of a cell, summed over axes."""
    sound = np.sqrt(gas.gamma * primitive[-1] / primitive[0])
    crossing_rate = np.zeros_like(sound)
    for axis, width in enumerate(gas.spacing):
        crossing_rate += (np.abs(primitive[1 + axis]) + sound) / width
    return courant_number / float(crossing_rate.max())


def _is_physical(primitive: Array) -> bool:
    return bool(primitive[0].min() > 0.0) and bool(primitive[-1].min() > 0.0)


def _heun_step(state: Array, primitive: Array, gas: Gas, *, time_step: float, first_order: bool) -> Array | None:
    """One step, or None when a stage leaves the physical states."""
    predicted = state + time_step * rate_of_change(primitive, gas, first_order=first_order)
    predicted_primitive = primitive_of(predicted, gas.gamma)
    if not _is_physical(predicted_primitive):
        return None
    predicted += time_step * rate_of_change(predicted_primitive, gas, first_order=first_order)
    predicted += state
    predicted *= 0.5
    return predicted


def step(state: Array, gas: Gas, *, longest: float) -> tuple[Array, float]:
    """One stable step no longer than `longest`; the new state and the time that passed.

    A step that would leave the physical states (near a vacuum) is done again at first order and half the length.
    Raises UnphysicalStateError when that fails too, which means that `state` itself was unphysical.
    """
    primitive = primitive_of(state, gas.gamma)
    for first_order, courant_number in ((False, COURANT_NUMBER), (True, CAREFUL_COURANT_NUMBER)):
        stable = stable_time_step(primitive, gas, courant_number=courant_number)
        time_step = longest / np.ceil(longest / stable)  # equal steps: no sliver before a frame
        stepped = _heun_step(state, primitive, gas, time_step=time_step, first_order=first_order)
        if stepped is not None and _is_physical(primitive_of(stepped, gas.gamma)):
            return stepped, time_step
    raise UnphysicalStateError("the gas reached zero density or pressure at first order")


def advance(state: Array, gas: Gas, *, duration: float) -> Array:
    """The state `duration` later."""
    remaining = duration
    for _ in range(MAX_STEPS_PER_FRAME):
        if remaining <= 1e-12 * duration:
            return state
        state, passed = step(state, gas, longest=remaining)
        remaining -= passed
    raise UnphysicalStateError(f"{MAX_STEPS_PER_FRAME} steps did not span {duration}")


def frames(state: Array, gas: Gas, *, interval: float, num_frames: int) -> Iterator[Array]:
    """`num_frames` states, `interval` apart, the given one first."""
    yield state
    for _ in range(num_frames - 1):
        state = advance(state, gas, duration=interval)
        yield state
