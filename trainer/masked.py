"""Means over space that count valid values alone: what losses and scores are made of.

`valid` is `Batch.valid`: (batch, time, channel, *space) bool, or None where every value is valid, at no cost then.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_over_space(values: Tensor, valid: Tensor | None) -> Tensor:
    """(batch, time, channel) of (batch, time, channel, *space); 0 for a frame without a valid value."""
    if valid is None:
        return values.flatten(3).mean(-1)
    total = torch.where(valid, values, 0).flatten(3).sum(-1)
    return total / valid.flatten(3).sum(-1).clamp(min=1)


def variance_over_space(values: Tensor, valid: Tensor | None, *, correction: int) -> Tensor:
    """(batch, time, channel): squared distances from the mean over their number less `correction`."""
    if valid is None:
        return values.flatten(3).var(-1, correction=correction)
    mean = mean_over_space(values, valid)
    apart = values - mean.view(*mean.shape, *(1,) * (values.ndim - 3))
    count = valid.flatten(3).sum(-1) - correction
    return torch.where(valid, apart, 0).square().flatten(3).sum(-1) / count.clamp(min=1)


def stood_for(valid: Tensor, strides: tuple[int, ...]) -> Tensor:
    """(batch, n, *latent_space) bool: the latents, but for the first of a window, whose own values are all valid.

    valid: (batch, 1 + s n, channel, *space); strides: (time, *space), of all levels together.
    """
    whole = valid[:, 1:].all(2)
    for dim, stride in enumerate(strides, start=1):
        padding = (0, 0) * (whole.ndim - 1 - dim) + (0, -whole.shape[dim] % stride)
        padded = F.pad(whole, padding, value=True)
        whole = padded.reshape(*padded.shape[:dim], -1, stride, *padded.shape[dim + 1 :]).all(dim + 1)
    return whole


def has_values(valid: Tensor | None) -> Tensor | None:
    """(batch, time, channel) bool: the frames that count at all; None where all do."""
    return None if valid is None else valid.flatten(3).any(-1)
