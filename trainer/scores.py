"""Evaluation scores with The Well's definitions: pure functions that reduce the space dims only.

All take prediction and target (batch, time, channel, *space) and give (batch, time, channel, …). `valid`, of the same
shape, marks the values that count; None where all do.
"""

from math import log10, pi, prod, sqrt

import torch
from torch import Tensor

from trainer.masked import mean_over_space, variance_over_space

EPSILON = 1e-7
"""The Well's constant in the denominators of its relative scores."""
BANDS = ("low", "mid", "high")


def vrmse(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Root mean squared error over the target's spatial standard deviation (Bessel-corrected, as The Well computes it).

    Predicting the spatial mean scores 1.
    """
    variance = variance_over_space(target, valid, correction=1)
    return torch.sqrt(_mse(prediction, target, valid) / (variance + EPSILON))


def nrmse(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Root mean squared error over the target's root mean square."""
    return torch.sqrt(_mse(prediction, target, valid) / (mean_over_space(target.square(), valid) + EPSILON))


def spectral_error(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """(…, band): error energy over target energy at low, mid and high wavenumbers.

    Bands are logarithmic between the longest wave and the corner of the grid's spectrum, by index wavenumber
    (The Well's binned_spectral_mse, normalised). A spectrum needs the whole grid: where a value is not valid, the
    error is taken for zero.
    """
    space = tuple(target.shape[3:])
    band = _band_of_mode(space).to(target.device)
    apart = prediction - target
    difference = apart if valid is None else torch.where(valid, apart, 0)
    error, energy = (_band_energy(values, band) for values in (difference, target))
    return error / (energy + EPSILON)


def power_spectrum(fields: Tensor) -> Tensor:
    """(…, wavenumber): mean energy of the modes in each unit shell of the index wavenumber, up to Nyquist."""
    space = tuple(fields.shape[3:])
    shell = torch.round(_wavenumber(space) * max(space) / (2 * pi)).long().flatten()
    num_shells = max(space) // 2 + 1
    inside = shell < num_shells
    power = _mode_power(fields)
    counts = torch.bincount(shell[inside], minlength=num_shells).clamp(min=1)
    sums = power.new_zeros((*power.shape[:3], num_shells))
    sums.index_add_(-1, shell[inside].to(power.device), power[..., inside])
    return sums / counts.to(power.device)


def _mse(prediction: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
    return mean_over_space((prediction - target).square(), valid)


def _band_energy(fields: Tensor, band: Tensor) -> Tensor:
    """(…, band): mean square of the part of `fields` in each band; the bands add up to the mean square."""
    power = _mode_power(fields)
    energy = power.new_zeros((*power.shape[:3], len(BANDS)))
    energy.index_add_(-1, band, power)
    return energy


def _band_of_mode(space: tuple[int, ...]) -> Tensor:
    """(mode,): which band each Fourier mode of the grid is in."""
    low, high = log10(2 * pi / max(space)), log10(pi * sqrt(len(space)) + 1e-6)
    inner_edges = torch.logspace(low, high, len(BANDS) + 1, dtype=torch.float64)[1:-1]
    return torch.bucketize(_wavenumber(space).flatten(), inner_edges, right=True)


def _wavenumber(space: tuple[int, ...]) -> Tensor:
    """(*space): length of each mode's wave vector for unit grid spacing."""
    axes = [2 * pi * torch.fft.fftfreq(length, dtype=torch.float64) for length in space]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()


def _mode_power(fields: Tensor) -> Tensor:
    """(…, mode): what each Fourier mode adds to the mean square."""
    space = tuple(fields.shape[3:])
    modes: Tensor = torch.fft.fftn(fields, dim=tuple(range(3, fields.ndim)))
    return (modes.abs().square() / prod(space) ** 2).flatten(3)
