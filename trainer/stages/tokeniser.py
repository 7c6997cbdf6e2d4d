"""Tokeniser pretraining: reconstruct windows through the latent grid, at a compression drawn for each step.

Drawn without replacement: a block of as many steps as there are compressions has each of them once, in an order of its
own. Drawn with replacement, one of three compressions got 133 of 450 steps, and 6 of the last 30.
"""

from collections.abc import Mapping
from math import ceil, prod

from torch import Tensor, nn

from trainer.batch import Batch
from trainer.interfaces import StepOutput
from trainer.models.blocks import ResidualBlock
from trainer.models.flexible_conv import Stride, total_stride
from trainer.models.tokeniser import Tokeniser
from trainer.permutation import Permutation, keyed_hash
from trainer.stages.objective import LossWeights, field_loss, step_output

Strides = tuple[Stride, ...]

COMPRESSION = 201
"""First word of the hash keys, so that the compressions share no random number with the order of the windows."""


class TokeniserObjective(nn.Module):
    """The tokeniser with its loss: one forward for training and prediction."""

    def __init__(
        self, tokeniser: Tokeniser, *, compressions: tuple[Strides, ...], weights: LossWeights, seed: int = 0
    ) -> None:
        """`seed`: of the order in which the compressions come."""
        super().__init__()
        self.tokeniser = tokeniser
        self.compressions, self.weights, self.seed = compressions, weights, seed

    def forward(
        self, batch: Batch, predict: bool = False, rollout: tuple[int, int] | None = None
    ) -> StepOutput | Tensor:
        """Training: a StepOutput at the compression of the step. `predict`: the reconstruction
        (batch, time, channel, *space) at the first one. A rollout is not this stage's."""
        if rollout is not None:
            raise ValueError("a tokeniser makes no rollouts; set evaluation.rollout_frames to 0")
        strides = self.compressions[0] if predict else self.strides_at(batch.step)
        reconstruction: Tensor = self.tokeniser(
            batch.fields, field_ids=batch.field_ids, boundary=batch.boundary, strides=strides
        )
        if predict:
            return reconstruction
        return step_output(field_loss(reconstruction, batch, weights=self.weights), batch)

    def strides_at(self, step: int) -> Strides:
        """The compression of this step: a pure function, hence the same on every rank and after a resume."""
        count = len(self.compressions)
        block, turn = divmod(step, count)
        return self.compressions[Permutation(count, key=keyed_hash(COMPRESSION, self.seed, block))(turn)]


class TokeniserStage:
    """interfaces.Stage of the autoencoder."""

    kind = "tokeniser"
    block_classes: Mapping[str, type[nn.Module]] = {"convolution": ResidualBlock}

    def __init__(self, objective: TokeniserObjective) -> None:
        self.module = objective

    @property
    def tokeniser(self) -> Tokeniser:
        """The model."""
        return self.module.tokeniser

    @property
    def space_rank(self) -> int:
        """Space axes of its kernels."""
        return self.tokeniser.shape.space_rank

    def at_compression(self, number: int) -> "TokeniserStage":
        """The same tokeniser with one compression of the declared set, by its number there."""
        objective = self.module
        compressions = (objective.compressions[number],)
        return TokeniserStage(
            TokeniserObjective(objective.tokeniser, compressions=compressions, weights=objective.weights)
        )

    def trainable(self, name: str) -> bool:
        """Every parameter is trained."""
        return True

    def tokens(self, batch: Batch) -> int:
        """Latent positions of the batch at the compression that its training forward uses."""
        return latent_tokens(batch, self.module.strides_at(batch.step))


def latent_tokens(batch: Batch, strides: Strides) -> int:
    """Latent positions (time and space) of all windows of the batch."""
    num_windows, num_frames, _, *space = batch.fields.shape
    return num_windows * prod(latent_grid(num_frames, tuple(space), strides))


def latent_grid(num_frames: int, space: tuple[int, ...], strides: Strides) -> tuple[int, ...]:
    """(time, *space) of the latents of a window of 1 + a multiple of the time stride frames."""
    time_stride, *space_strides = total_stride(strides, len(space))
    latent_space = (ceil(length / stride) for length, stride in zip(space, space_strides, strict=True))
    return (1 + (num_frames - 1) // time_stride, *latent_space)
