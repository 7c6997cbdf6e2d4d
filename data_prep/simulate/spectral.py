"""Fourier tools of the two periodic 2D solvers: wavenumbers, a filter, a time step, and coarser grids.

Spectra are those of `numpy.fft.rfft2` over the last two axes. Rates of change are split in a diagonal linear part,
which is integrated exactly, and the rest, which takes fourth-order Runge-Kutta (the integrating factor method:
A.-K. Kassam and L. N. Trefethen, SIAM J. Sci. Comput. 26 (2005), section 2).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Spectrum = NDArray[np.complex128]


@dataclass(frozen=True)
class Waves:
    """Wavenumbers of a periodic box, shaped to multiply a spectrum.

    `along_x`, `along_y`: zero at the Nyquist mode, whose derivative a real field cannot hold. `squared`: the symbol
    of minus the Laplacian, Nyquist kept.
    """

    along_x: Array
    along_y: Array
    squared: Array


def waves_of(shape: tuple[int, ...], lengths: tuple[float, ...]) -> Waves:
    """Wavenumbers of a grid of `shape` points over a box of `lengths`."""
    along_x: Array = 2.0 * np.pi * np.fft.fftfreq(shape[0], d=lengths[0] / shape[0])[:, None].astype(np.float64)
    along_y: Array = 2.0 * np.pi * np.fft.rfftfreq(shape[1], d=lengths[1] / shape[1])[None, :].astype(np.float64)
    squared = np.asarray(along_x**2 + along_y**2)
    if shape[0] % 2 == 0:
        along_x[shape[0] // 2] = 0.0
    if shape[1] % 2 == 0:
        along_y[:, -1] = 0.0
    return Waves(along_x=along_x, along_y=along_y, squared=squared)


def smoothing_filter(shape: tuple[int, ...], *, cutoff: float) -> Array:
    """A factor for spectra: one for long waves, falling steeply to zero at `cutoff` of each axis' largest wavenumber.

    It takes out what aliases and what an unresolved cascade piles up at the shortest waves, and leaves the rest
    (T. Y. Hou and R. Li, J. Comput. Phys. 226 (2007), with their constants 36 and 36).
    """
    share_x = np.abs(np.fft.fftfreq(shape[0]))[:, None] / (0.5 * cutoff)
    share_y = np.fft.rfftfreq(shape[1])[None, :] / (0.5 * cutoff)
    factor = np.exp(-36.0 * share_x**36) * np.exp(-36.0 * share_y**36)
    factor[(share_x > 1.0) | (share_y > 1.0)] = 0.0
    return np.asarray(factor)


def integrating_factor_step(
    spectra: Spectrum, rest: Callable[[Spectrum], Spectrum], *, linear: Array, time_step: float
) -> Spectrum:
    """The spectra `time_step` later, under `d(spectra)/dt = linear * spectra + rest(spectra)`."""
    half = np.exp(0.5 * time_step * linear)
    whole = half * half
    first = rest(spectra)
    second = rest(half * (spectra + 0.5 * time_step * first))
    third = rest(half * spectra + 0.5 * time_step * second)
    fourth = rest(whole * spectra + time_step * half * third)
    slope = whole * first + 2.0 * half * (second + third) + fourth
    return np.asarray(whole * spectra + (time_step / 6.0) * slope)


def to_grid(spectra: Spectrum, solved: tuple[int, ...], wanted: tuple[int, ...]) -> Array:
    """Fields on a grid of `wanted` points from the spectra of a grid of `solved` points, as fine or finer.

    Waves that the coarser grid cannot hold are left out; means stay.
    """
    if solved == wanted:
        return np.fft.irfft2(spectra, s=wanted)
    kept_x, kept_y = (points // 2 for points in wanted)
    coarse = np.zeros((*spectra.shape[:-2], wanted[0], wanted[1] // 2 + 1), dtype=np.complex128)
    coarse[..., :kept_x, :kept_y] = spectra[..., :kept_x, :kept_y]
    coarse[..., 1 - kept_x :, :kept_y] = spectra[..., 1 - kept_x :, :kept_y]
    scale = (wanted[0] * wanted[1]) / (solved[0] * solved[1])
    return np.fft.irfft2(coarse * scale, s=wanted)
