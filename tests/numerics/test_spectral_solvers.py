"""Shear flow and reacting chemicals against exact solutions and conservation laws, and the Fourier tools below them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.simulate import gray_scott, shear_flow, spectral
from data_prep.simulate.case import generator_for

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
