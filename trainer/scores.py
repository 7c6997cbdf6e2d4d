"""Evaluation scores with The Well's definitions: pure functions that reduce the space dims only.

All take prediction and target (batch, time, channel, *space) and give (batch, time, channel, …). `valid`, of the same
shape, marks the values that count; None where all do.
"""

from math import pi

import torch
from torch import Tensor

from trainer.masked import mean_over_space, variance_over_space
from trainer.spectrum import band_energy, mode_power, wavenumber

EPSILON = 1e-7
"""The Well's constant in the denominators of its relative scores."""


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
    apart = prediction - target
    error = band_energy(apart if valid is None else torch.where(valid, apart, 0))
    return error / (band_energy(target) + EPSILON)


def power_spectrum(fields: Tensor) -> Tensor:
    """(…, wavenumber): mean energy of the modes in each unit shell of the index wavenumber, up to Nyquist."""
    space = tuple(fields.shape[3:])
    shell = torch.round(wavenumber(space) * max(space) / (2 * pi)).long().flatten()
    num_shells = max(space) // 2 + 1
    inside = shell < num_shells
    power = mode_power(fields)
    counts = torch.bincount(shell[inside], minlength=num_shells).clamp(min=1)
    sums = power.new_zeros((*power.shape[:3], num_shells))
    sums.index_add_(-1, shell[inside].to(power.device), power[..., inside])
    return sums / counts.to(power.device)


def _mse(prediction: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
    return mean_over_space((prediction - target).square(), valid)
