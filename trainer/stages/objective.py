"""What both stages share: the loss of a predicted batch, and the metrics that come with it."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from trainer.batch import Batch
from trainer.interfaces import StepOutput
from trainer.losses import frame_mse, frame_spectral, frame_vrmse, masked_mean
from trainer.masked import has_values


@dataclass(frozen=True, slots=True)
class LossWeights:
    """How much each term counts; the field loss is their weighted sum."""

    mse: float
    vrmse: float
    variance_floor: float
    spectral: float = 0.0


def field_loss(prediction: Tensor, batch: Batch, *, weights: LossWeights, first_frame: int = 0) -> dict[str, Tensor]:
    """`loss`, `mse`, `vrmse` and, where it has a weight, `spectral` (scalars) of the frames from `first_frame` on, over
    valid values of target channels.

    prediction: (batch, time, channel, *space), normalised.
    """
    predicted, target = prediction[:, first_frame:], batch.fields[:, first_frame:]
    valid = None if batch.valid is None else batch.valid[:, first_frame:]
    mean = partial(masked_mean, is_target=batch.is_target, is_counted=has_values(valid))
    mse = mean(frame_mse(predicted, target, valid))
    vrmse = mean(frame_vrmse(predicted, target, valid, variance_floor=weights.variance_floor))
    terms = {"loss": weights.mse * mse + weights.vrmse * vrmse, "mse": mse, "vrmse": vrmse}
    if weights.spectral:
        spectral = mean(frame_spectral(predicted, target, valid, variance_floor=weights.variance_floor))
        terms |= {"loss": terms["loss"] + weights.spectral * spectral, "spectral": spectral}
    return terms


def step_output(terms: dict[str, Tensor], batch: Batch) -> StepOutput:
    """Terms (means over the micro-batch, `loss` among them) as sums and counts of windows."""
    count = torch.tensor(float(batch.num_windows), device=batch.fields.device)
    return StepOutput(
        loss=terms["loss"],
        sums={name: value.detach() * count for name, value in terms.items()},
        counts=dict.fromkeys(terms, count),
    )
