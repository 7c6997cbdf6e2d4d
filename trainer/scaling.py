"""From normalised fields back to the units of their source: one formula for batches, scores and exported models.

physical = fields * scale + shift; where a channel has a transform, that is the transform of the physical values.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

TransformKind = Literal["log", "asinh"]


@dataclass(frozen=True, slots=True)
class Transform:
    """Of one channel, before it is scaled: log(x / unit) of positive values, or asinh(x / unit), linear near zero."""

    channel: int
    name: str
    """Of the channel."""
    kind: TransformKind
    unit: float
    """In the units of the source."""

    def apply(self, values: Tensor) -> None:
        """In place, on values of the channel alone; float32 or float64."""
        values.div_(self.unit)
        if self.kind == "log":
            values.log_()
        else:
            values.asinh_()

    def invert(self, values: Tensor) -> Tensor:
        """Values of the channel alone."""
        return (values.exp() if self.kind == "log" else values.sinh()) * self.unit


def physical(fields: Tensor, scale: Tensor, shift: Tensor, *, transforms: Iterable[Transform] = ()) -> Tensor:
    """`fields` (batch, time, channel, *space) in the units of their source; scale and shift: (channel,) for all or
    (batch, channel)."""
    values = fields * _along(scale, fields) + _along(shift, fields)
    for transform in transforms:
        values[:, :, transform.channel] = transform.invert(values[:, :, transform.channel])
    return values


def _along(values: Tensor, fields: Tensor) -> Tensor:
    """(channel,) or (batch, channel), as it must stand to meet fields."""
    rows = values.shape[0] if values.ndim == 2 else 1
    return values.reshape(rows, 1, fields.shape[2], *(1,) * (fields.ndim - 3))
