"""Dynamics: predict how fields go on by way of the tokeniser's latents, every latent position supervised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.interfaces import StepOutput, is_named
from trainer.losses import mean_of_windows
from trainer.masked import stood_for
from trainer.models.blocks import ProcessorBlock, ResidualBlock
from trainer.models.dynamics import DynamicsModel, Prediction
from trainer.models.flexible_conv import Stride, total_stride
from trainer.models.tokeniser import Tokeniser
from trainer.stages.objective import LossWeights, field_loss, step_output
from trainer.stages.tokeniser import latent_tokens

PROCESSOR = ("model.processor.*",)
FIELD_LAYERS = ("model.tokeniser.field_embedding.*", "model.tokeniser.field_readout.*")
TRAINABLE_PATTERNS = {"all": ("*",), "processor": PROCESSOR, "processor_and_fields": PROCESSOR + FIELD_LAYERS}
"""Names of the usual choices; the last is the reading of the paper's "mostly frozen" that new fields need."""

TIME_STEP = "time_step"
"""The condition that every dataset has: mean time between frames."""


@dataclass(frozen=True, slots=True)
class Curriculum:
    """How many latent steps training goes on from its own predictions."""

    free_steps: int = 1
    """In the end; 1 is teacher forcing."""
    grow_over: int = 0
    """Optimiser steps over which that number grows evenly from 1."""
    push_forward: bool = False
    """No gradient through predictions that are fed back (Brandstetter et al. 2022, arXiv 2202.03376)."""

    def free_steps_at(self, step: int) -> int:
        """After so many optimiser steps."""
        if step >= self.grow_over:
            return self.free_steps
        return 1 + (self.free_steps - 1) * step // self.grow_over


class DynamicsObjective(nn.Module):
    """The dynamics model with its loss: one forward for training, prediction and rollouts."""

    def __init__(
        self,
        model: DynamicsModel,
        *,
        strides: tuple[Stride, ...],
        weights: LossWeights,
        latent_weight: float,
        max_latents: int,
        conditions: tuple[str, ...] = (),
        curriculum: Curriculum = Curriculum(),
    ) -> None:
        """`max_latents`: how far back a rollout looks, in latent steps: as far as training showed it.
        `conditions`: names of what the processor is told of a trajectory, `time_step` or parameters."""
        super().__init__()
        self.model = model
        self.strides, self.weights, self.latent_weight = strides, weights, latent_weight
        self.max_latents, self.conditions, self.curriculum = max_latents, conditions, curriculum

    def forward(
        self, batch: Batch, predict: bool = False, rollout: tuple[int, int] | None = None
    ) -> StepOutput | Tensor:
        """Training: a StepOutput. `predict`: (batch, time, channel, *space), frame 0 reconstructed and each other
        predicted from the true frames before it. `rollout=(context, horizon)`: the `horizon` frames after the
        first `context` ones of the batch."""
        if rollout is not None:
            return self._roll_out(batch, *rollout)
        prediction: Prediction = self.model(
            batch.fields,
            field_ids=batch.field_ids,
            boundary=batch.boundary,
            strides=self.strides,
            conditions=conditions_of(batch, self.conditions),
            free_steps=1 if predict else self.curriculum.free_steps_at(batch.step),
            push_forward=self.curriculum.push_forward,
        )
        if predict:
            return prediction.fields
        terms = field_loss(prediction.fields, batch, weights=self.weights)
        terms["latent_mse"] = self._latent_mse(prediction, batch)
        terms["loss"] = terms["loss"] + self.latent_weight * terms["latent_mse"]
        return step_output(terms, batch)

    def _latent_mse(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Over the latents that stand for valid values alone."""
        errors = (prediction.latents - prediction.targets.detach()).square()
        if batch.valid is None:
            return errors.mean()
        whole = stood_for(batch.valid, total_stride(self.strides, batch.fields.ndim - 3))
        return mean_of_windows(errors.mean(2), whole.to(errors.dtype))

    def _roll_out(self, batch: Batch, context: int, horizon: int) -> Tensor:
        return self.model.rollout(
            batch.fields[:, :context],
            horizon,
            field_ids=batch.field_ids,
            boundary=batch.boundary,
            strides=self.strides,
            conditions=conditions_of(batch, self.conditions),
            max_latents=self.max_latents,
        )


def conditions_of(batch: Batch, names: tuple[str, ...]) -> Tensor | None:
    """(batch, name) float32, not a number where the dataset has no such parameter; None without names."""
    if not names:
        return None
    unknown = torch.full_like(batch.time_step, torch.nan)
    known = {TIME_STEP: batch.time_step, **batch.scalars}
    return torch.stack([known.get(name, unknown) for name in names], dim=1)


class DynamicsStage:
    """interfaces.Stage of the dynamics model."""

    kind = "dynamics"
    block_classes: Mapping[str, type[nn.Module]] = {"convolution": ResidualBlock, "attention": ProcessorBlock}

    def __init__(self, objective: DynamicsObjective, *, trainable: Sequence[str]) -> None:
        self.module = objective
        self._patterns = tuple(trainable)

    @property
    def tokeniser(self) -> Tokeniser:
        """Encoder and decoder."""
        return self.module.model.tokeniser

    @property
    def space_rank(self) -> int:
        """Space axes of its kernels."""
        return self.tokeniser.shape.space_rank

    def trainable(self, name: str) -> bool:
        """Whether one of the patterns names this parameter."""
        return any(is_named(name, pattern) for pattern in self._patterns)

    def at_compression(self, number: int) -> "DynamicsStage":
        """Itself: it has one."""
        assert number == 0
        return self

    def tokens(self, batch: Batch) -> int:
        """Latent positions of the batch."""
        return latent_tokens(batch, self.module.strides)
