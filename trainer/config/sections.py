"""The sections of a run's config: every knob, once. `schema` puts them together and is what others import.

Each field's docstring says what it means, its unit and, where it is not obvious, where the value comes from.
Ranges are in the types; what one section alone cannot know is checked by `schema.RunConfig`.
"""

from math import prod
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainer.config.ranges import (
    Decay,
    Fraction,
    NotNegative,
    NotNegativeFloat,
    Positive,
    PositiveFloat,
    Section,
    Size,
    SizeOrZero,
    Stride,
    Text,
)

# --------------------------------------------------------------------------------------------- models


class LevelStride(Section):
    """Downsampling of one level of the tokeniser."""

    time: Stride = 1
    """Frames that become one."""
    space: Stride = 1
    """Cells that become one, along each space axis."""


class KernelExtent(Section):
    """Extent of a kernel. With `modulation: csm`, no run-time stride of its level may exceed it."""

    time: Size = 2
    """Frames, the newest one last: the kernel is causal."""
    space: Size = 4
    """Cells along each space axis."""


class TokeniserModel(Section):
    """The causal convolutional autoencoder (paper, section 2.4: MAGVIT-Simple)."""

    widths: tuple[Size, ...] = Field(min_length=1)
    """Channels of each level, outermost first."""
    kernels: tuple[KernelExtent, ...] = Field(min_length=1)
    """Extent of each level's strided kernel."""
    blocks: tuple[SizeOrZero, ...] = Field(min_length=1)
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
    depth: Size = 4
    """Blocks; each attends over time, then over space."""
    num_heads: Size = 4
    """Attention heads."""
    feed_forward: Size = 256
    """Hidden channels of the SwiGLU."""
    residual_scale: NotNegativeFloat = 0.1
    """Size of each residual branch at the start."""
    delta: bool = True
    """Predict the change of the latents, starting from none, instead of the whole next latents."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}; change one of them")
        return self


# --------------------------------------------------------------------------------------------- stages


class LossConfig(Section):
    """Weights of the loss terms; the loss is their weighted sum."""

    mse: NotNegativeFloat = 1.0
    """Mean squared error of normalised fields."""
    vrmse: NotNegativeFloat = 0.0
    """Square root of MSE / (spatial variance + floor), per frame and channel: what evaluation measures."""
    variance_floor: PositiveFloat = 1e-2
    """Floor of the variance in the vrmse term (LoLA's value), so that quiet frames do not rule."""

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Self:
        if self.mse == 0 and self.vrmse == 0:
            raise ValueError("every loss weight is 0; set `mse` or `vrmse`")
        return self


class Compression(Section):
    """One choice of run-time strides: one entry for each level of the tokeniser, outermost first."""

    levels: tuple[LevelStride, ...] = Field(min_length=1)
    """The strides of each level; along time and space, the compression is their product."""

    @property
    def time_stride(self) -> int:
        """Frames that become one latent step."""
        return prod(level.time for level in self.levels)


class TokeniserStage(Section):
    """Pretrain the autoencoder on windows."""

    kind: Literal["tokeniser"]
    """Chooses this section."""
    tokeniser: TokeniserModel
    """The model."""
    compressions: tuple[Compression, ...] = Field(min_length=1)
    """The declared set: each step draws one, the same on all ranks; evaluation uses the first."""
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


StageConfig = Annotated[TokeniserStage | DynamicsStage, Field(discriminator="kind")]

# ---------------------------------------------------------------------------------- optimiser, engine


class ScheduleConfig(Section):
    """Learning rate over steps, as a factor of the peak."""

    kind: Literal["constant", "cosine", "inverse_sqrt"] = "cosine"
    """The shape after the warm-up."""
    warmup_steps: NotNegative = 0
    """Linear from 0."""
    final_factor: Fraction = 0.0
    """Factor at the last step (cosine), or after the cool-down (inverse_sqrt)."""
    cooldown_steps: NotNegative = 0
    """Linear to `final_factor` over the last steps (inverse_sqrt)."""

    @model_validator(mode="after")
    def _only_inverse_sqrt_cools_down(self) -> Self:
        if self.cooldown_steps and self.kind != "inverse_sqrt":
            raise ValueError(f"cooldown_steps belongs to kind inverse_sqrt; a {self.kind} schedule has none, remove it")
        return self


class OptimizerConfig(Section):
    """The optimiser and its schedule."""

    kind: Literal["adamw", "soap"] = "adamw"
    """AdamW (arXiv 1711.05101), or SOAP (arXiv 2409.11321): Adam in the eigenbasis of Shampoo's preconditioner."""
    learning_rate: PositiveFloat = 1e-3
    """Peak."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay of the averages of the gradient and of its square."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second average."""
    weight_decay: NotNegativeFloat = 0.0
    """Not applied to vectors: biases, norms, scales."""
    gradient_clip: NotNegativeFloat = 1.0
    """Largest gradient norm; 0 does not clip."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate over the run."""


class EngineConfig(Section):
    """How the step is computed."""

    kind: Literal["zero", "plain"] = "zero"
    """`zero`: DeepSpeed; `plain`: one process without it."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What is sharded between ranks: nothing, optimiser states, gradients too, weights too."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes in bfloat16 with float32 master weights (needs zero_stage 1 or more)."""
    micro_batch_size: Size
    """Windows of one forward on one rank; accumulation follows from data.batch_size and the world size."""
    recompute: bool = False
    """Recompute the activations of each block in the backward pass instead of keeping them."""
    collective_timeout_seconds: PositiveFloat = 600.0
    """A rank that does not answer a collective for this long is lost."""

    @model_validator(mode="after")
    def _bf16_needs_master_weights(self) -> Self:
        if self.precision == "bf16" and self.kind == "zero" and self.zero_stage == 0:
            raise ValueError("precision bf16 keeps no exact float32 master weights at zero_stage 0; use zero_stage 1")
        return self


# ------------------------------------------------------------------------------------------ measuring


class EvaluationConfig(Section):
    """What is measured on held-out data."""

    every_steps: NotNegative = 0
    """0 evaluates at the end alone."""
    split: Literal["valid", "test"] = "valid"
    """Which held-out trajectories."""
    max_windows: Positive = 64
    """Windows of the split that are scored, spread evenly over it; the same ones each time."""
    context_frames: Size = 1
    """True frames that a rollout starts from; 1 + n * (time stride of the compression)."""
    rollout_frames: SizeOrZero = 0
    """Frames that a rollout predicts; 0 makes none."""


class SnapshotConfig(Section):
    """When the state is written, and how many stay."""

    every_steps: NotNegative = 0
    """0 writes at the end alone (and at a preemption)."""
    keep_last: Size = 2
    """Older snapshots are removed once a newer one is whole."""


class MetricsConfig(Section):
    """Where numbers go while the run goes on."""

    log_every_steps: Positive = 10
    """Steps between two reports to all sinks."""
    prometheus_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port of the metrics endpoint on each node; 0 takes a free one; null opens none."""
    prometheus_address: Literal["127.0.0.1", "0.0.0.0"] = "127.0.0.1"
    """Who may reach the endpoint: this machine alone, or (0.0.0.0) every machine that can reach this node."""
    prometheus_targets: str = "runs/prometheus"
    """Folder where the run announces its endpoint, one file for each node, where a Prometheus server looks for runs.
    It must be seen by that server; the file goes when the run ends, and stays when the run is killed."""
