"""The sections that say what is learnt: models and stages. `data` and `running` have the others.

`schema` puts them together and is what others import.

Each field's docstring says what it means, its unit and, where it is not obvious, where the value comes from.
Ranges are in the types; what one section alone cannot know is checked by `schema.RunConfig`.
"""

from math import prod
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainer.config.ranges import (
    Depth,
    DepthOrZero,
    Extent,
    NotNegative,
    NotNegativeFloat,
    PositiveFloat,
    Section,
    Size,
    Stride,
    Text,
)

# --------------------------------------------------------------------------------------------- models


class LevelStride(Section):
    """Downsampling of one level of the tokeniser."""

    time: Stride = 1
    """Frames that become one."""
    space: Stride | Annotated[tuple[Stride, ...], Field(min_length=1, max_length=3)] = 1
    """Cells that become one: along each space axis as many, or a number for each."""

    @property
    def along_space(self) -> tuple[int, ...]:
        """One number for all axes of space, or one for each."""
        return (self.space,) if isinstance(self.space, int) else self.space


class KernelExtent(Section):
    """Extent of a kernel. With `modulation: csm`, no run-time stride of its level may exceed it."""

    time: Extent = 2
    """Frames, the newest one last: the kernel is causal."""
    space: Extent = 4
    """Cells along each space axis."""


class TokeniserModel(Section):
    """The causal convolutional autoencoder (paper, section 2.4: MAGVIT-Simple)."""

    widths: tuple[Size, ...] = Field(min_length=1)
    """Channels of each level, outermost first."""
    kernels: tuple[KernelExtent, ...] = Field(min_length=1)
    """Extent of each level's strided kernel."""
    blocks: tuple[DepthOrZero, ...] = Field(min_length=1)
    """Residual blocks of each level, in encoder and in decoder."""
    latent_channels: Size = 16
    """Channels of the latent grid."""
    embedding_width: Size = 32
    """Numbers for each field in the table of fields."""
    block_kernel: KernelExtent = KernelExtent(time=1, space=3)
    """Extent of the residual blocks' kernels."""
    residual_scale: NotNegativeFloat = 0.1
    """Size of each residual branch at the start."""
    modulation: Literal["csm", "ckm"] = "csm"
    """How kernels follow the stride: kept (csm) or resized to it (ckm) (Overtone, arXiv 2507.09264)."""
    stride_gains: bool = True
    """Channels of strided kernels have gains that follow the stride: 4 numbers each, without which one tokeniser for
    several compressions was a third worse at the lightest than one for that alone (configs/tokeniser/flexible.yaml)."""

    @model_validator(mode="after")
    def _one_entry_for_each_level(self) -> Self:
        if not len(self.widths) == len(self.kernels) == len(self.blocks):
            raise ValueError(
                f"widths, kernels and blocks have {len(self.widths)}, {len(self.kernels)} and {len(self.blocks)} "
                "entries; give one for each level"
            )
        return self


class ProcessorModel(Section):
    """The space-time transformer between encoder and decoder (Walrus-style factorised attention)."""

    width: Size = 128
    """Channels of a token; a multiple of num_heads."""
    depth: Depth = 4
    """Blocks; each attends over time, then over space."""
    num_heads: Size = 4
    """Attention heads."""
    feed_forward: Size = 256
    """Hidden channels of the SwiGLU."""
    residual_scale: NotNegativeFloat = 0.1
    """Size of each residual branch at the start."""
    delta: bool = True
    """Predict the change of the latents, starting from none, instead of the whole next latents."""
    conditions: tuple[Text, ...] = ()
    """What it is told of a trajectory: `time_step` (time between frames) and names of the simulations' parameters,
    in the units of the source. A dataset may lack a parameter that another has."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}; change one of them")
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError("conditions names one of them twice; leave it out once")
        return self


# --------------------------------------------------------------------------------------------- stages


class LossConfig(Section):
    """Weights of the loss terms; the loss is their weighted sum."""

    mse: NotNegativeFloat = 1.0
    """Mean squared error of normalised fields."""
    vrmse: NotNegativeFloat = 0.0
    """Square root of MSE / (spatial variance + floor), per frame and channel: what evaluation measures."""
    spectral: NotNegativeFloat = 0.0
    """Square root of error energy / (energy + floor) in each of three bands of wavenumbers, per frame and channel: high
    wavenumbers, of little energy, count as much as low ones."""
    variance_floor: PositiveFloat = 1e-2
    """Floor of the variance in the vrmse and spectral terms (LoLA's value), so that quiet frames do not rule."""

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Self:
        if self.mse == self.vrmse == self.spectral == 0:
            raise ValueError("every loss weight is 0; set `mse`, `vrmse` or `spectral`")
        return self


class RolloutTraining(Section):
    """How far training lets the model go on from its own predictions."""

    free_steps: Size = 1
    """The last latent steps of a window, each predicted from the one before; 1 is teacher forcing throughout."""
    grow_over_steps: NotNegative = 0
    """Optimiser steps over which that number grows evenly from 1; 0 begins with it."""
    push_forward: bool = False
    """No gradient through predictions that are fed back (Brandstetter et al. 2022, arXiv 2202.03376)."""


class Compression(Section):
    """One choice of run-time strides: one entry for each level of the tokeniser, outermost first."""

    levels: tuple[LevelStride, ...] = Field(min_length=1)
    """The strides of each level; along time and space, the compression is their product."""

    @property
    def time_stride(self) -> int:
        """Frames that become one latent step."""
        return prod(level.time for level in self.levels)

    def along(self, space_rank: int) -> tuple[tuple[int, ...], ...]:
        """For each level, the stride in time and those along all axes of space, however they are written."""
        levels = ((level.time, level.along_space) for level in self.levels)
        return tuple((time, *(space * space_rank if len(space) == 1 else space)) for time, space in levels)

    @property
    def space_ranks(self) -> set[int]:
        """The numbers of space axes that its levels name one by one; it fits data of that many alone."""
        return {len(level.space) for level in self.levels if not isinstance(level.space, int)}


class TokeniserStage(Section):
    """Pretrain the autoencoder on windows."""

    kind: Literal["tokeniser"]
    """Chooses this section."""
    tokeniser: TokeniserModel
    """The model."""
    compressions: tuple[Compression, ...] = Field(min_length=1)
    """The declared set: each step draws one, the same on all ranks, and each comes once in as many steps as there are
    of them; evaluation uses the first."""
    start_from: Text | None = None
    """Run folder or snapshot URL of a tokeniser run of the same shape whose weights this run starts from; fields that
    it has not seen are added."""
    loss: LossConfig = LossConfig()
    """What reconstruction minimises."""


class DynamicsStage(Section):
    """Learn the physics on the tokeniser's latents."""

    kind: Literal["dynamics"]
    """Chooses this section."""
    tokeniser: TokeniserModel
    """Encoder and decoder; of the same shape as in the run that `start_from` names."""
    processor: ProcessorModel
    """What steps the latents forward in time."""
    compressions: tuple[Compression, ...] = Field(min_length=1, max_length=1)
    """The one compression of the latent grid (a rollout needs a fixed grid)."""
    start_from: Text | None = None
    """Run folder or snapshot URL of a tokeniser run whose weights this run starts from; null trains from scratch."""
    trainable: Literal["all", "processor", "processor_and_fields"] | tuple[str, ...] = "all"
    """What is trained: everything, the processor alone, the processor and the layers that touch the physical fields
    ("mostly frozen"), or patterns of parameter names (`fnmatch`)."""
    latent_loss: NotNegativeFloat = 0.0
    """Weight of the latent mean squared error beside the field loss; its target carries no gradient."""
    loss: LossConfig = LossConfig()
    """What prediction minimises, on fields."""
    output: Literal["state", "change"] = "state"
    """A predicted frame: the decoded latents; or the last true frame plus the change between decoded latents, so that
    what the tokeniser loses costs nothing where the fields stand still. Of values that are missing in that frame (see
    `--not-finite keep`) the change alone is predicted."""
    rollout: RolloutTraining = RolloutTraining()
    """Training on its own predictions."""


StageConfig = Annotated[TokeniserStage | DynamicsStage, Field(discriminator="kind")]
