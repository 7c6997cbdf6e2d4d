"""The gas solver against exact solutions, conservation laws and symmetries. References are written in plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_prep.simulate import euler
from data_prep.simulate.case import generator_for
from data_prep.simulate.quadrants import block_average, cell_centres, random_blocks

GAMMA = 1.4


def gas_of(state: np.ndarray, *, is_periodic: bool, gamma: float = GAMMA) -> euler.Gas:
    return euler.Gas(gamma, spacing=tuple(1.0 / cells for cells in state.shape[1:]), is_periodic=is_periodic)


def blocks(
    resolution: tuple[int, ...], *, is_periodic: bool = True, gamma: float = GAMMA, index: int = 0
) -> np.ndarray:
    generator = generator_for("blocks", "train", index=index, seed=7)
    return random_blocks(generator, cell_centres(resolution), gamma=gamma, is_periodic=is_periodic)


@pytest.mark.parametrize("resolution", [(24, 20), (12, 10, 8)])
def test_a_periodic_box_of_gas_keeps_mass_momentum_and_energy_to_rounding(resolution: tuple[int, ...]) -> None:
    state = blocks(resolution)
    later = euler.advance(state, gas_of(state, is_periodic=True), duration=0.2)
    axes = tuple(range(1, state.ndim))
    scale = np.abs(state).sum(axis=axes)
    assert np.abs(later - state).max() > 0.1
    np.testing.assert_array_less(np.abs((later - state).sum(axis=axes)) / scale, 1e-13)


@pytest.mark.parametrize("gamma", [1.13, 1.4, 1.76])
def test_density_and_pressure_stay_positive_through_strong_shocks(gamma: float) -> None:
    state = euler.primitive_of(blocks((32, 32), gamma=gamma), gamma)
    state[1:-1] *= 8.0  # blocks fly apart at several times the speed of sound and leave near vacuums
    state = euler.conserved_of(state, gamma)
    later = euler.advance(state, gas_of(state, is_periodic=True, gamma=gamma), duration=0.15)
    primitive = euler.primitive_of(later, gamma)
    assert primitive[0].min() > 0.0
    assert primitive[-1].min() > 0.0


def test_a_step_that_would_leave_the_physical_states_is_taken_at_first_order(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []
    rate_of_change = euler.rate_of_change

    def watched(primitive: np.ndarray, gas: euler.Gas, *, first_order: bool) -> np.ndarray:
        orders.append(first_order)
        return rate_of_change(primitive, gas, first_order=first_order)

    monkeypatch.setattr(euler, "rate_of_change", watched)
    generator = np.random.default_rng(0)
    primitive = np.exp(generator.uniform(-4.0, 4.0, (3, 64)))
    primitive[1] = generator.normal(0.0, 30.0, 64)  # neighbouring cells apart by many times the speed of sound
    state, gas = euler.conserved_of(primitive, GAMMA), gas_of(primitive, is_periodic=True)
    for _ in range(10):
        state, _ = euler.step(state, gas, longest=1.0)
    assert euler.primitive_of(state, GAMMA)[[0, -1]].min() > 0.0
    assert any(orders)


def test_a_state_without_pressure_is_told() -> None:
    state = np.ones((4, 8, 8))
    state[-1] = 0.1  # less than the kinetic energy
    with pytest.raises(euler.UnphysicalStateError, match="first order"), np.errstate(invalid="ignore"):
        euler.advance(state, gas_of(state, is_periodic=True), duration=0.1)


def exact_sod_density(position_over_time: float) -> float:
    """Density of Sod's problem (1, 0, 1 | 0.125, 0, 0.1) by bisection of the pressure between (Toro, chapter 4)."""

    def speed_change(pressure: float, density: float, side_pressure: float) -> float:
        if pressure > side_pressure:  # a shock
            a, b = 2.0 / ((GAMMA + 1.0) * density), (GAMMA - 1.0) / (GAMMA + 1.0) * side_pressure
            return (pressure - side_pressure) * math.sqrt(a / (pressure + b))
        sound = math.sqrt(GAMMA * side_pressure / density)
        power = (GAMMA - 1.0) / (2.0 * GAMMA)
        return 2.0 * sound / (GAMMA - 1.0) * ((pressure / side_pressure) ** power - 1.0)

    low, high = 0.1, 1.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        if speed_change(middle, 1.0, 1.0) + speed_change(middle, 0.125, 0.1) < 0.0:
            low = middle
        else:
            high = middle
    pressure, speed = low, speed_change(low, 0.125, 0.1)
    ratio, small = pressure / 0.1, (GAMMA - 1.0) / (GAMMA + 1.0)
    shock_speed = math.sqrt(GAMMA * 0.1 / 0.125) * math.sqrt(
        (GAMMA + 1.0) / (2.0 * GAMMA) * ratio + (GAMMA - 1.0) / (2.0 * GAMMA)
    )
    left_sound = math.sqrt(GAMMA)
    tail = speed - left_sound * pressure ** ((GAMMA - 1.0) / (2.0 * GAMMA))
    if position_over_time < -left_sound:
        return 1.0
    if position_over_time < tail:
        inside = 2.0 / (GAMMA + 1.0) - small / left_sound * position_over_time
        return inside ** (2.0 / (GAMMA - 1.0))
    if position_over_time < speed:
        return pressure ** (1.0 / GAMMA)
    if position_over_time < shock_speed:
        return 0.125 * (ratio + small) / (small * ratio + 1.0)
    return 0.125


def sod_tube(cells: int) -> np.ndarray:
    primitive = np.empty((3, cells))
    left = np.arange(cells) < cells // 2
    primitive[0], primitive[1], primitive[2] = np.where(left, 1.0, 0.125), 0.0, np.where(left, 1.0, 0.1)
    return euler.conserved_of(primitive, GAMMA)


def sod_error(cells: int) -> float:
    """Mean absolute error of the density at time 0.2."""
    state = sod_tube(cells)
    later = euler.advance(state, gas_of(state, is_periodic=False), duration=0.2)
    exact = [exact_sod_density(((cell + 0.5) / cells - 0.5) / 0.2) for cell in range(cells)]
    return float(np.abs(later[0] - exact).mean())


@pytest.mark.parametrize(("place", "density"), [(-2.0, 1.0), (0.5, 0.42632), (1.2, 0.26557), (1.8, 0.125)])
def test_the_exact_solution_has_the_published_densities(place: float, density: float) -> None:
    """Toro, table 4.2."""
    assert abs(exact_sod_density(place) - density) < 1e-5


def test_sods_shock_tube_is_within_its_bound_of_the_exact_solution() -> None:
    assert sod_error(200) < 4e-3  # a first-order scheme has 1e-2


def test_sods_shock_tube_converges_as_a_shock_does() -> None:
    assert sod_error(400) < 0.65 * sod_error(200)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_tube_along_any_axis_of_three_is_the_tube_of_one_dimension(axis: int) -> None:
    tube = sod_tube(32)
    along = np.zeros((5, 32, 4, 4))
    along[0], along[1], along[-1] = (tube[component][:, None, None] for component in range(3))
    state = np.moveaxis(along, 1, axis + 1).copy()
    state[[1, 1 + axis]] = state[[1 + axis, 1]]
    later = euler.advance(state, gas_of_tube(axis), duration=0.1)
    reference = euler.advance(tube, euler.Gas(GAMMA, spacing=(1 / 32,), is_periodic=False), duration=0.1)
    found = np.moveaxis(later, axis + 1, 1)[:, :, 1, 2]
    # the sides' sound waves shorten the steps, so the two differ as two step lengths do
    np.testing.assert_allclose(found[[0, 1 + axis, -1]], reference, atol=2e-2)


def gas_of_tube(axis: int) -> euler.Gas:
    spacing = [1e3, 1e3, 1e3]  # so wide across that only the signals along the tube limit the step
    spacing[axis] = 1 / 32
    return euler.Gas(GAMMA, spacing=tuple(spacing), is_periodic=False)


def entropy_wave_error(cells: int) -> float:
    """Mean absolute error of a density wave carried once through half the box, along the diagonal."""
    x, y = np.meshgrid(*cell_centres((cells, cells)), indexing="ij")

    def density(time: float) -> np.ndarray:
        return 1.0 + 0.2 * np.sin(2.0 * np.pi * (x + y - 2.0 * time))

    primitive = np.ones((4, cells, cells))
    primitive[0] = density(0.0)
    state = euler.conserved_of(primitive, GAMMA)
    later = euler.advance(state, gas_of(state, is_periodic=True), duration=0.1)
    return float(np.abs(later[0] - density(0.1)).mean())


def test_a_smooth_wave_converges_at_second_order() -> None:
    coarse, fine = entropy_wave_error(24), entropy_wave_error(48)
    assert math.log2(coarse / fine) > 1.8


def test_the_mirror_image_of_a_gas_moves_as_the_mirror_image() -> None:
    state = blocks((16, 16))
    gas = gas_of(state, is_periodic=True)
    mirrored = state[:, ::-1].copy()
    mirrored[1] *= -1.0
    back = euler.advance(mirrored, gas, duration=0.05)[:, ::-1]
    back[1] *= -1.0
    np.testing.assert_allclose(back, euler.advance(state, gas, duration=0.05), rtol=1e-10, atol=1e-10)


def test_swapping_the_axes_of_a_gas_swaps_its_motion() -> None:
    state = blocks((16, 16))
    gas = gas_of(state, is_periodic=False)
    swapped = euler.advance(state[[0, 2, 1, 3]].swapaxes(1, 2), gas, duration=0.05)
    straight = euler.advance(state, gas, duration=0.05)
    np.testing.assert_allclose(swapped[[0, 2, 1, 3]].swapaxes(1, 2), straight, rtol=1e-10, atol=1e-10)


def test_a_gas_at_rest_with_a_jump_in_density_stays() -> None:
    primitive = np.ones((4, 16, 16))
    primitive[0, 5:11, 3:9] = 7.0
    primitive[1:3] = 0.0
    state = euler.conserved_of(primitive, GAMMA)
    later = euler.advance(state, gas_of(state, is_periodic=True), duration=0.1)
    np.testing.assert_allclose(later, state, rtol=0.0, atol=1e-13)


def test_an_even_wind_passes_open_sides_unchanged() -> None:
    primitive = np.ones((4, 8, 8)) * np.array([1.3, 0.7, -0.4, 0.9])[:, None, None]
    state = euler.conserved_of(primitive, GAMMA)
    later = euler.advance(state, gas_of(state, is_periodic=False), duration=0.3)
    np.testing.assert_allclose(later, state, rtol=1e-13)


def test_a_blast_leaves_through_open_sides() -> None:
    primitive = np.ones((4, 24, 24))
    primitive[1:3], primitive[-1, 10:14, 10:14] = 0.0, 20.0
    state = euler.conserved_of(primitive, GAMMA)
    later = euler.advance(state, gas_of(state, is_periodic=False), duration=0.5)
    assert later[-1].sum() < 0.95 * state[-1].sum()


positive = st.floats(0.01, 100.0)
speeds = st.floats(-10.0, 10.0)
cells_of_gas = st.tuples(positive, speeds, speeds, positive)


def column(values: tuple[float, ...]) -> np.ndarray:
    return np.array(values)[:, None]


@given(cells_of_gas)
def test_the_flux_between_equal_states_is_the_gas_own(cell: tuple[float, ...]) -> None:
    density, u, v, pressure = cell
    energy = pressure / (GAMMA - 1.0) + 0.5 * density * (u * u + v * v)
    own = np.array([density * u, density * u * u + pressure, density * u * v, (energy + pressure) * u])
    flux = euler.hllc_flux(column(cell), column(cell), 1, gamma=GAMMA)[:, 0]
    scale = (energy + pressure) * (1.0 + abs(u))
    np.testing.assert_allclose(flux, own, rtol=0.0, atol=1e-12 * scale)


@given(cells_of_gas, cells_of_gas)
def test_the_flux_seen_from_the_other_side_is_the_same_flow(left: tuple[float, ...], right: tuple[float, ...]) -> None:
    turn = np.array([1.0, -1.0, 1.0, 1.0])[:, None]
    flux = euler.hllc_flux(column(left), column(right), 1, gamma=GAMMA)
    seen = euler.hllc_flux(turn * column(right), turn * column(left), 1, gamma=GAMMA)
    np.testing.assert_allclose(-turn * seen, flux, rtol=1e-7, atol=1e-7)


@given(arrays(np.float64, (3, 8, 12), elements=st.floats(-1e3, 1e3)), st.sampled_from([1, 2, 4]))
def test_block_averages_keep_the_mean(state: np.ndarray, factor: int) -> None:
    coarse = block_average(state, factor)
    assert coarse.shape == (3, 8 // factor, 12 // factor)
    np.testing.assert_allclose(coarse.mean(axis=(1, 2)), state.mean(axis=(1, 2)), atol=1e-9)
