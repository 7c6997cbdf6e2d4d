"""The solvers against exact solutions, conservation laws and symmetries. References are written in plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_prep.simulate import euler, gray_scott, shear_flow, spectral
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


# -- the gas


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


# -- Fourier tools


def test_the_integrating_factor_method_is_of_fourth_order() -> None:
    """Logistic growth with a decay rate: dy/dt = -y + 3 y - y², whose solution is known."""
    exact = 2.0 / (1.0 + (2.0 / 0.1 - 1.0) * math.exp(-2.0 * 2.0))

    def error(num_steps: int) -> float:
        value = np.array([0.1 + 0.0j])
        for _ in range(num_steps):
            value = spectral.integrating_factor_step(
                value, lambda y: 3.0 * y - y * y, linear=np.array([-1.0]), time_step=2.0 / num_steps
            )
        return abs(float(value[0].real) - exact)

    assert math.log2(error(10) / error(20)) > 3.7


@settings(max_examples=20)
@given(st.integers(0, 3), st.integers(0, 3), st.floats(-2.0, 2.0), st.floats(-2.0, 2.0))
def test_a_coarser_grid_holds_the_same_long_waves(waves_x: int, waves_y: int, height: float, mean: float) -> None:
    def field(shape: tuple[int, int]) -> np.ndarray:
        x, y = (np.arange(points) / points for points in shape)
        return mean + height * np.cos(2.0 * np.pi * (waves_x * x[:, None] - waves_y * y[None, :]) + 0.3)

    coarse = spectral.to_grid(np.fft.rfft2(field((32, 24))), (32, 24), (16, 8))
    np.testing.assert_allclose(coarse, field((16, 8)), atol=1e-12)


# -- shear flow


def rolling_layers() -> tuple[shear_flow.Flow, np.ndarray]:
    layers = shear_flow.random_layers(generator_for("layers", "train", index=0, seed=3))
    flow = shear_flow.flow_on((32, 64), viscosity=1e-3, diffusivity=1e-3)
    velocity = np.fft.rfft2(shear_flow.velocity_of(layers, shear_flow.grid_points((32, 64))))
    return flow, flow.filter * np.stack([shear_flow.vorticity_of(velocity, flow.waves), velocity[0]])


def taylor_green(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vorticity, both velocities and pressure of a lattice of eddies that only decays."""
    x, y = (points.reshape(new) for points, new in zip(shear_flow.grid_points(shape), [(-1, 1), (1, -1)], strict=True))
    a, b = 2.0 * np.pi, np.pi
    vorticity = (a * a + b * b) * np.sin(a * x) * np.sin(b * y)
    u, v = b * np.sin(a * x) * np.cos(b * y), -a * np.cos(a * x) * np.sin(b * y)
    return vorticity, u, v, 0.25 * (b * b * np.cos(2 * a * x) + a * a * np.cos(2 * b * y))


def test_taylor_green_eddies_decay_as_they_must() -> None:
    vorticity, *_ = taylor_green((24, 32))
    flow = shear_flow.flow_on((24, 32), viscosity=0.01, diffusivity=0.01)
    spectra = np.fft.rfft2(np.stack([vorticity, 0.0 * vorticity]))
    later = np.fft.irfft2(shear_flow.advance(spectra, flow, duration=0.5), s=(24, 32))
    decay = math.exp(-0.01 * 5.0 * math.pi**2 * 0.5)
    np.testing.assert_allclose(later[0], decay * vorticity, atol=1e-10)


def test_velocity_and_pressure_of_taylor_green_eddies_are_the_exact_ones() -> None:
    vorticity, u, v, pressure = taylor_green((24, 32))
    flow = shear_flow.flow_on((24, 32), viscosity=0.01, diffusivity=0.01)
    velocity = shear_flow.velocity_spectra(np.fft.rfft2(vorticity), flow.waves)
    found = np.fft.irfft2(velocity, s=(24, 32))
    np.testing.assert_allclose(found, [u, v], atol=1e-12)
    found_pressure = np.fft.irfft2(shear_flow.pressure_spectrum(velocity, flow), s=(24, 32))
    np.testing.assert_allclose(found_pressure, pressure, atol=1e-10)


def test_shear_flow_keeps_the_mean_tracer_and_the_momentum() -> None:
    flow, spectra = rolling_layers()
    spectra[1, 0, 0] = 5.0
    later = shear_flow.advance(spectra, flow, duration=1.0)
    velocity = shear_flow.velocity_spectra(later[0], flow.waves)
    assert abs(later[1, 0, 0] - 5.0) < 1e-10
    assert np.abs(velocity[:, 0, 0]).max() == 0.0


def test_shear_flow_loses_kinetic_energy_and_tracer_variance_and_never_gains() -> None:
    flow, spectra = rolling_layers()
    energies, variances = [], []
    for _ in range(10):
        velocity = np.fft.irfft2(shear_flow.velocity_spectra(spectra[0], flow.waves), s=flow.shape)
        energies.append(float(np.square(velocity).sum()))
        variances.append(float(np.fft.irfft2(spectra[1], s=flow.shape).var()))
        spectra = shear_flow.advance(spectra, flow, duration=0.3)
    assert (np.diff(energies) < 0.0).all()
    assert (np.diff(variances) < 0.0).all()


def test_the_velocity_of_shear_flow_is_free_of_divergence() -> None:
    flow, spectra = rolling_layers()
    velocity = shear_flow.velocity_spectra(shear_flow.advance(spectra, flow, duration=0.5)[0], flow.waves)
    divergence = flow.waves.along_x * velocity[0] + flow.waves.along_y * velocity[1]
    assert np.abs(divergence).max() < 1e-12 * np.abs(spectra).max()


@pytest.mark.parametrize("index", range(8))
def test_every_random_layer_rolls_up(index: int) -> None:
    """Velocity across the layers grows from the push: an unstable wave was drawn."""
    layers = shear_flow.random_layers(generator_for("layers", "train", index=index, seed=0))
    flow = shear_flow.flow_on((32, 64), viscosity=1e-4, diffusivity=1e-4)
    velocity = np.fft.rfft2(shear_flow.velocity_of(layers, shear_flow.grid_points((32, 64))))
    spectra = np.stack([shear_flow.vorticity_of(velocity, flow.waves), velocity[0]])

    def across(now: np.ndarray) -> float:
        return float(np.fft.irfft2(shear_flow.velocity_spectra(now[0], flow.waves)[1], s=flow.shape).std())

    assert across(shear_flow.advance(spectra, flow, duration=1.5)) > 1.2 * across(spectra)


# -- reacting chemicals


def drops(shape: tuple[int, int]) -> np.ndarray:
    generator = generator_for("drops", "train", index=0, seed=1)
    b = 0.4 * gray_scott.random_drops(generator, gray_scott.grid_points(shape), lengths=(0.5, 0.5))
    return np.stack([1.0 - b, b])


def test_without_feed_and_kill_the_sum_of_the_chemicals_stays() -> None:
    fields = drops((32, 32))
    reaction = gray_scott.reaction_on((32, 32), (0.5, 0.5), feed=0.0, kill=0.0)
    later = np.fft.irfft2(gray_scott.advance(np.fft.rfft2(fields), reaction, duration=50.0), s=(32, 32))
    assert np.abs(later[1] - fields[1]).max() > 0.1
    assert abs(later.sum() - fields.sum()) < 1e-10 * fields.sum()


def test_without_the_other_chemical_nothing_reacts_and_both_means_stay() -> None:
    fields = drops((32, 32))
    fields[1] = 0.0
    reaction = gray_scott.reaction_on((32, 32), (0.5, 0.5), feed=0.0, kill=0.0)
    later = np.fft.irfft2(gray_scott.advance(np.fft.rfft2(fields), reaction, duration=50.0), s=(32, 32))
    np.testing.assert_allclose(later.mean(axis=(1, 2)), fields.mean(axis=(1, 2)), atol=1e-13)


def test_one_wave_of_a_chemical_diffuses_at_its_rate() -> None:
    x = np.arange(32) / 32
    wave = np.cos(2.0 * np.pi * x)[:, None] + np.zeros((32, 32))
    reaction = gray_scott.reaction_on((32, 32), (0.5, 0.5), feed=0.0, kill=0.0)
    later = np.fft.irfft2(
        gray_scott.advance(np.fft.rfft2(np.stack([1.0 + wave, 0.0 * wave])), reaction, duration=30.0), s=(32, 32)
    )
    decay = math.exp(-gray_scott.DIFFUSIVITY_A * (4.0 * math.pi) ** 2 * 30.0)
    np.testing.assert_allclose(later[0], 1.0 + decay * wave, atol=1e-12)


def test_an_even_mixture_follows_the_rate_equations() -> None:
    feed, kill, a, b = 0.03, 0.06, 0.6, 0.3
    reaction = gray_scott.reaction_on((8, 8), (0.125, 0.125), feed=feed, kill=kill)
    spectra = np.fft.rfft2(np.stack([np.full((8, 8), a), np.full((8, 8), b)]))
    later = np.fft.irfft2(gray_scott.advance(spectra, reaction, duration=20.0), s=(8, 8))
    for _ in range(20_000):  # Euler's midpoint rule in steps of 0.001
        middle_a = a + 0.0005 * (-a * b * b + feed * (1.0 - a))
        middle_b = b + 0.0005 * (a * b * b - (feed + kill) * b)
        a += 0.001 * (-middle_a * middle_b**2 + feed * (1.0 - middle_a))
        b += 0.001 * (middle_a * middle_b**2 - (feed + kill) * middle_b)
    np.testing.assert_allclose(later[:, 3, 5], [a, b], atol=1e-5)


@pytest.mark.parametrize("pattern", gray_scott.PATTERNS)
def test_only_the_bubbles_have_a_uniform_rich_state(pattern: str) -> None:
    assert gray_scott.has_rich_state(*gray_scott.PATTERNS[pattern]) == (pattern == "bubbles")
