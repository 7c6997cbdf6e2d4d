"""Training losses: pure functions of a prediction and its target, over valid values of target channels alone."""

import torch
from torch import Tensor

from trainer.masked import mean_over_space, variance_over_space
from trainer.spectrum import band_energy


def masked_mean(values: Tensor, is_target: Tensor, is_counted: Tensor | None = None) -> Tensor:
    """Mean of `values` (batch, time, channel) over the channels that `is_target` (channel,) marks.

    `is_counted` (batch, time, channel): the frames that have a valid value; then the mean over windows of the mean of
    each, which is 0 where none has: so it is the same however windows are spread over micro-batches and ranks.
    """
    weight = is_target.to(values.dtype)
    if is_counted is None:
        return (values * weight).sum() / (weight.sum() * values.shape[0] * values.shape[1])
    return mean_of_windows(values, weight * is_counted)


def mean_of_windows(values: Tensor, weight: Tensor) -> Tensor:
    """Mean over windows of the weighted mean of each; `values` and `weight` are (batch, …)."""
    totals, weights = (values * weight).flatten(1).sum(1), weight.flatten(1).sum(1)
    return (totals / weights.clamp(min=1)).mean()


def frame_mse(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """(batch, time, channel): squared error averaged over space. Inputs: (batch, time, channel, *space)."""
    return mean_over_space((prediction - target).square(), valid)


def frame_vrmse(prediction: Tensor, target: Tensor, valid: Tensor | None = None, *, variance_floor: float) -> Tensor:
    """(batch, time, channel): root of MSE over the target's spatial variance, floored.

    With the floor (1e-2 of unit variance, LoLA) quiet frames do not rule the loss. The small constant under the root
    bounds the slope where the error vanishes.
    """
    variance = variance_over_space(target, valid, correction=0)
    return torch.sqrt(frame_mse(prediction, target, valid) / (variance + variance_floor) + 1e-8)


def frame_spectral(prediction: Tensor, target: Tensor, valid: Tensor | None = None, *, variance_floor: float) -> Tensor:
    """(batch, time, channel): root of error energy over the target's energy, floored, mean over bands of wavenumbers.

    Where `frame_vrmse` is ruled by the band that holds most energy, here each band counts alike. A spectrum needs the
    whole grid: where a value is not valid, the error is taken for zero.
    """
    apart = (prediction - target).float()
    error = band_energy(apart if valid is None else torch.where(valid, apart, 0))
    return torch.sqrt(error / (band_energy(target.float()) + variance_floor) + 1e-8).mean(-1)
