"""Training losses: pure functions of a prediction and its target, per channel mask, differentiable."""

import torch
from torch import Tensor


def masked_mean(values: Tensor, is_target: Tensor) -> Tensor:
    """Mean of `values` (batch, time, channel) over the channels that `is_target` (channel,) marks."""
    weight = is_target.to(values.dtype)
    return (values * weight).sum() / (weight.sum() * values.shape[0] * values.shape[1])


def frame_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """(batch, time, channel): squared error averaged over space. Inputs: (batch, time, channel, *space)."""
    return (prediction - target).square().flatten(3).mean(-1)


def frame_vrmse(prediction: Tensor, target: Tensor, *, variance_floor: float) -> Tensor:
    """(batch, time, channel): root of MSE over the target's spatial variance, floored.

    With the floor (1e-2 of unit variance, LoLA) quiet frames do not rule the loss. The small constant under the root
    bounds the slope where the error vanishes.
    """
    variance = target.flatten(3).var(-1, unbiased=False)
    return torch.sqrt(frame_mse(prediction, target) / (variance + variance_floor) + 1e-8)
