"""What the loader delivers and the stages consume: one micro-batch of windows of one dataset."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trainer.scaling import Transform, physical


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows of one dataset, normalised. All windows share channels, resolution and boundaries."""

    dataset: str
    channels: tuple[str, ...]
    """Component name of each channel: `density`, `momentum_x`, …"""
    fields: Tensor
    """(batch, time, channel, *space) float32, normalised: physical = fields * scale + shift, but for `transforms`."""
    scale: Tensor
    """(batch, channel) float32, in the units of the source; without one where a channel is transformed."""
    shift: Tensor
    """(batch, channel) float32, as the scale."""
    field_ids: Tensor
    """(channel,) int64: row of each channel in the model's field vocabulary."""
    is_target: Tensor
    """(channel,) bool: False for fields that do not change in time; they are inputs, never scored."""
    time_step: Tensor
    """(batch,) float32: mean time between frames, in the units of the source."""
    boundary: tuple[tuple[str, str], ...]
    """(low, high) side of each space axis: wall, open or periodic."""
    windows: tuple[int, ...]
    """Position of each window in the global order; names it in logs and errors."""
    draw: int
    """Random 63-bit integer, the same on every rank at this step: the source of all stochastic choices."""
    valid: Tensor | None = None
    """As `fields`, bool: False for values that are NaN or infinite in the source. There `fields` is 0; losses and
    scores count the others alone. None where every value is valid."""
    step: int = 0
    """Optimiser steps taken before this batch, in training: what a curriculum goes by."""
    transforms: tuple[Transform, ...] = ()
    """Of channels that are transformed before they are scaled."""
    scalars: Mapping[str, Tensor] = field(default_factory=dict)
    """Parameters of the simulations by name, each (batch,) float32, in the units of the source, at the first frame."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; asynchronous from pinned memory."""
        return replace(
            self,
            fields=self.fields.to(device, non_blocking=True),
            scale=self.scale.to(device, non_blocking=True),
            shift=self.shift.to(device, non_blocking=True),
            field_ids=self.field_ids.to(device, non_blocking=True),
            is_target=self.is_target.to(device, non_blocking=True),
            time_step=self.time_step.to(device, non_blocking=True),
            valid=None if self.valid is None else self.valid.to(device, non_blocking=True),
            scalars={name: value.to(device, non_blocking=True) for name, value in self.scalars.items()},
        )

    def physical(self, fields: Tensor) -> Tensor:
        """Normalised `fields` (batch, time, channel, *space) in the units of the source."""
        return physical(fields, self.scale, self.shift, transforms=self.transforms)

    @property
    def num_windows(self) -> int:
        return self.fields.shape[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of decoded field values."""
        return self.fields.numel() * self.fields.element_size()
