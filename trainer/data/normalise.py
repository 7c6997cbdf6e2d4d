"""Fields to numbers near one, and back: an affine map for each channel, from the statistics of the train split.

normalised = (x - shift) / scale, in place; `Batch.physical` inverts it. A scale is never so small that it would
only blow up rounding noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data_prep.contract.manifest import Moments

Kind = Literal["standard", "rms", "window_rms"]
Values = np.ndarray[Any, np.dtype[np.float32]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

NOISE_FLOOR = 1e-6
"""Smallest scale, relative to the channel's rms: below it lies what float32 cannot tell apart."""

QUIET_FLOOR = 1e-2
"""Smallest scale of `window_rms`, relative to the channel's rms over the train split: a window that begins at rest
must not make giants of the frames that follow."""


@dataclass(frozen=True)
class Normaliser:
    """The map of one dataset's channels."""

    scale: Values
    """(channel,) in the units of the source."""
    shift: Values
    """(channel,) in the units of the source."""
    quiet_scale: Values | None = None
    """(channel,) where the scale is the window's own, the least that it may be."""

    def apply(self, fields: Values, valid: Mask | None = None) -> tuple[Values, Values]:
        """Normalise one window (time, channel, *space) in place; gives its scale and shift, each (channel,).

        `valid`, of the same shape, marks the values that are finite: the others count for nothing and become 0.
        """
        if valid is not None:
            fields[~valid] = 0  # before any arithmetic, which would complain
        scale = self.scale
        if self.quiet_scale is not None:
            scale = np.maximum(_rms(fields[0], None if valid is None else valid[0]), self.quiet_scale)
        along = (-1, *(1,) * (fields.ndim - 2))
        if self.shift.any():
            np.subtract(fields, self.shift.reshape(along), out=fields)
        np.multiply(fields, (1 / scale).reshape(along), out=fields)
        if valid is not None:
            fields[~valid] = 0
        return scale, self.shift


def normaliser(kind: Kind, *, channels: Sequence[str], statistics: Mapping[str, Moments]) -> Normaliser:
    """The map that `DataConfig.normalisation` names, for these channels."""
    moments = [statistics[channel] for channel in channels]
    rms = np.array([_floored(moment.rms, moment) for moment in moments])
    no_shift = np.zeros(len(moments), np.float32)
    if kind == "standard":
        std = np.array([_floored(moment.std, moment) for moment in moments])
        mean = np.array([moment.mean for moment in moments])
        return Normaliser(scale=std.astype(np.float32), shift=mean.astype(np.float32))
    quiet_scale = (QUIET_FLOOR * rms).astype(np.float32) if kind == "window_rms" else None
    return Normaliser(scale=rms.astype(np.float32), shift=no_shift, quiet_scale=quiet_scale)


def _floored(value: float, moment: Moments) -> float:
    """`value`, at least what float32 can tell from noise; 1 for a channel that is zero everywhere."""
    smallest = max(NOISE_FLOOR * moment.rms, float(np.finfo(np.float32).tiny))
    return max(value, smallest) if moment.rms > 0 else 1.0


def _rms(frame: Values, valid: Mask | None) -> Values:
    """(channel,) of one frame (channel, *space), in float64 on the way; values that are not valid are zeros."""
    flat = frame.reshape(len(frame), -1)
    mean = np.mean(np.square(flat, dtype=np.float64), axis=1)
    if valid is not None:
        mean *= flat.shape[1] / np.maximum(1, valid.reshape(len(frame), -1).sum(axis=1))
    rms: Values = np.sqrt(mean).astype(np.float32)
    return rms
