"""Fourier modes of fields and the three bands of wavenumbers: what spectral scores and the spectral loss share.

Pure functions of fields (batch, time, channel, *space), differentiable.
"""

from math import log10, pi, prod, sqrt

import torch
from torch import Tensor

BANDS = ("low", "mid", "high")
"""Logarithmic between the longest wave and the corner of the grid's spectrum, as The Well's binned_spectral_mse."""


def band_energy(fields: Tensor) -> Tensor:
    """(batch, time, channel, band): mean square of each band's part of `fields`; they add up to the mean square."""
    band = band_of_mode(tuple(fields.shape[3:])).to(fields.device)
    power = mode_power(fields)
    energy = power.new_zeros((*power.shape[:3], len(BANDS)))
    return energy.index_add(-1, band, power)


def band_of_mode(space: tuple[int, ...]) -> Tensor:
    """(mode,): which band each Fourier mode of the grid is in."""
    low, high = log10(2 * pi / max(space)), log10(pi * sqrt(len(space)) + 1e-6)
    inner_edges = torch.logspace(low, high, len(BANDS) + 1, dtype=torch.float64)[1:-1]
    return torch.bucketize(wavenumber(space).flatten(), inner_edges, right=True)


def wavenumber(space: tuple[int, ...]) -> Tensor:
    """(*space): length of each mode's wave vector for unit grid spacing."""
    axes = [2 * pi * torch.fft.fftfreq(length, dtype=torch.float64) for length in space]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()


def mode_power(fields: Tensor) -> Tensor:
    """(batch, time, channel, mode): what each Fourier mode adds to the mean square."""
    space = tuple(fields.shape[3:])
    modes: Tensor = torch.fft.fftn(fields, dim=tuple(range(3, fields.ndim)))
    return (modes.abs().square() / prod(space) ** 2).flatten(3)
