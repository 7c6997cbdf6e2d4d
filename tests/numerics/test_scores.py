"""Scores against plain loops and against The Well's stated semantics."""

import math

import numpy as np
import pytest
import torch

from trainer.scores import nrmse, power_spectrum, spectral_error, vrmse
from trainer.spectrum import BANDS


def fields(*space: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 4, *space, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("space", [(6, 5), (3, 4, 5)])
def test_vrmse_is_the_root_of_mse_over_the_bessel_corrected_variance(space: tuple[int, ...]) -> None:
    prediction, target = fields(*space), fields(*space, seed=1)
    for index in np.ndindex(2, 3, 4):
        x, y = prediction[index].flatten().tolist(), target[index].flatten().tolist()
        mean = sum(y) / len(y)
        variance = sum((value - mean) ** 2 for value in y) / (len(y) - 1)
        mse = sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / len(y)
        assert vrmse(prediction, target)[index].item() == pytest.approx(math.sqrt(mse / (variance + 1e-7)), rel=1e-12)


def test_vrmse_of_a_constant_target_is_bounded_by_the_wells_epsilon() -> None:
    target = torch.ones(1, 1, 1, 8, 8, dtype=torch.float64)
    assert vrmse(target + 1e-3, target).item() == pytest.approx(3.1623, rel=1e-4)


def test_nrmse_divides_by_the_mean_square() -> None:
    target = torch.full((1, 1, 1, 4, 4), 2.0, dtype=torch.float64)
    assert nrmse(target + 1.0, target).item() == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("space", [(16, 16), (16, 8), (8, 6, 10)])
def test_band_errors_add_up_to_the_mean_squared_error(space: tuple[int, ...]) -> None:
    prediction, target = fields(*space), fields(*space, seed=1)
    zero = torch.zeros_like(target)
    energy = spectral_error(prediction - target + zero, zero) * 1e-7  # a zero target leaves the epsilon below
    mse = (prediction - target).square().flatten(3).mean(-1)
    torch.testing.assert_close(energy.sum(-1), mse, rtol=1e-9, atol=0)


def test_a_wave_counts_in_the_band_of_its_wavenumber() -> None:
    # edges for 64 points in 2D: 2π/64, then two inner ones a third of the way each in the logarithm
    low, high = math.log10(2 * math.pi / 64), math.log10(math.pi * math.sqrt(2) + 1e-6)
    edges = [10 ** (low + (high - low) * third / 3) for third in (1, 2)]
    x = torch.arange(64, dtype=torch.float64)
    for cycles in (1, 3, 5, 12, 30):
        wave = torch.cos(2 * math.pi * cycles * x / 64)[None, None, None, :, None].expand(1, 1, 1, 64, 64)
        found = BANDS[int(spectral_error(2 * wave, wave)[0, 0, 0].argmax())]
        wavenumber = 2 * math.pi * cycles / 64
        assert found == BANDS[sum(wavenumber >= edge for edge in edges)]


def test_power_spectrum_of_one_wave_has_one_peak_with_its_energy() -> None:
    x = torch.arange(32, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * 5 * x / 32)[None, None, None, :, None].expand(1, 1, 1, 32, 32)
    spectrum = power_spectrum(wave)[0, 0, 0]
    assert spectrum.argmax().item() == 5
    shell = sum(round(math.hypot(i, j)) == 5 for i in range(-16, 16) for j in range(-16, 16))
    assert (spectrum[5] * shell).item() == pytest.approx(0.5, rel=1e-9)  # mean square of a cosine
