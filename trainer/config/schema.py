"""Every knob of a run, once. Torch-free, so that a config is checked on a laptop in a moment.

Each field's docstring says what it means, its unit and, where it is not obvious, where the value comes from.
Ranges are in the types; what one section alone cannot know (divisibility between them) is checked in `RunConfig`.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Stride = Annotated[int, Field(ge=1, le=16)]


class Section(BaseModel):
    """Base of all sections: frozen, strict, no unknown keys, docstrings as descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


# ---------------------------------------------------------------------------------------------- data


class DatasetConfig(Section):
    """One prepared dataset."""

    url: str
    """Folder or fsspec URL that `data_prep convert` wrote: it holds manifest.json."""
    weight: PositiveFloat = 1.0
    """Share of the micro-batches, relative to the other datasets' weights."""


class WindowConfig(Section):
    """How trajectories are cut into samples."""

    frames: Positive
    """Frames of a window; 1 + n * (time stride of the compression), so that latents come out whole."""
    stride: Positive = 1
    """Stored frames from one frame of the window to the next."""


class DataConfig(Section):
    """What is streamed, in which order, and how it is scaled."""

    datasets: tuple[DatasetConfig, ...] = Field(min_length=1)
    window: WindowConfig
    batch_size: Positive
    """Windows of one optimiser step over all ranks: the global batch. Free of world size."""
    normalisation: Literal["standard", "rms", "window_rms"] = "standard"
    """`standard`: (x - mean) / std of the train split; `rms`: x / rms of the train split; `window_rms`: x / rms of
    the window's first frame (so that a forecast never sees its target). Per channel, from the manifest's statistics."""
    prefetch_batches: Positive = 4
    """Micro-batches decoded ahead; memory is bounded by this many."""
    threads: Positive = 2
    """Threads that fetch and decode; both release the interpreter lock."""
    verify_checksums: bool = True
    """Check each record's crc32c on reading (30 GB/s: free)."""


# --------------------------------------------------------------------------------------------- models


class LevelStride(Section):
    """Downsampling of one level of the tokeniser."""

    time: Stride = 1
    space: Stride = 1


class KernelExtent(Section):
    """Extent of a strided kernel; no run-time stride of its level may exceed it."""

    time: Positive = 2
    space: Positive = 4


class TokeniserModel(Section):
    """The causal convolutional autoencoder (paper, section 2.4: MAGVIT-Simple)."""

    widths: tuple[Positive, ...] = Field(min_length=1)
    """Channels of each level, outermost first."""
    kernels: tuple[KernelExtent, ...] = Field(min_length=1)
    """Extent of each level's strided kernel."""
    blocks: tuple[NotNegative, ...] = Field(min_length=1)
    """Residual blocks of each level, in encoder and in decoder."""
    latent_channels: Positive = 16
    """Channels of the latent grid."""
    embedding_width: Positive = 32
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

    width: Positive = 128
    """Channels of a token; a multiple of num_heads."""
    depth: Positive = 4
    """Blocks; each attends over time, then over space."""
    num_heads: Positive = 4
    feed_forward: Positive = 256
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


class TokeniserStage(Section):
    """Pretrain the autoencoder on windows."""

    kind: Literal["tokeniser"]
    tokeniser: TokeniserModel
    compressions: tuple[Compression, ...] = Field(min_length=1)
    """The declared set: each step draws one, the same on all ranks; evaluation uses the first."""
    loss: LossConfig = LossConfig()


class DynamicsStage(Section):
    """Learn the physics on the tokeniser's latents."""

    kind: Literal["dynamics"]
    tokeniser: TokeniserModel
    processor: ProcessorModel
    compressions: tuple[Compression, ...] = Field(min_length=1, max_length=1)
    """The one compression of the latent grid (a rollout needs a fixed grid)."""
    start_from: str | None = None
    """Run folder or snapshot URL of a tokeniser run whose weights this run starts from; null trains from scratch."""
    trainable: Literal["all", "processor", "processor_and_fields"] | tuple[str, ...] = "all"
    """What is trained: everything, the processor alone, the processor and the layers that touch the physical fields
    ("mostly frozen"), or patterns of parameter names (`fnmatch`)."""
    latent_loss: NotNegativeFloat = 0.0
    """Weight of the latent mean squared error beside the field loss; its target carries no gradient."""
    loss: LossConfig = LossConfig()


StageConfig = Annotated[TokeniserStage | DynamicsStage, Field(discriminator="kind")]

# ---------------------------------------------------------------------------------- optimiser, engine


class ScheduleConfig(Section):
    """Learning rate over steps, as a factor of the peak."""

    kind: Literal["constant", "cosine", "inverse_sqrt"] = "cosine"
    warmup_steps: NotNegative = 0
    """Linear from 0."""
    final_factor: Fraction = 0.0
    """Factor at the last step (cosine), or after the cool-down (inverse_sqrt)."""
    cooldown_steps: NotNegative = 0
    """Linear to `final_factor` over the last steps (inverse_sqrt)."""


class OptimizerConfig(Section):
    """The optimiser and its schedule."""

    kind: Literal["adamw", "soap"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    """Peak."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    epsilon: PositiveFloat = 1e-8
    weight_decay: NotNegativeFloat = 0.0
    """Not applied to vectors: biases, norms, scales."""
    gradient_clip: NotNegativeFloat = 1.0
    """Largest gradient norm; 0 does not clip."""
    schedule: ScheduleConfig = ScheduleConfig()


class EngineConfig(Section):
    """How the step is computed."""

    kind: Literal["zero", "plain"] = "zero"
    """`zero`: DeepSpeed; `plain`: one process without it."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What is sharded between ranks: nothing, optimiser states, gradients too, weights too."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes in bfloat16 with float32 master weights (needs zero_stage 1 or more)."""
    micro_batch_size: Positive
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


# ------------------------------------------------------------------------------------------ the run


class EvaluationConfig(Section):
    """What is measured on held-out data."""

    every_steps: NotNegative = 0
    """0 evaluates at the end alone."""
    split: Literal["valid", "test"] = "valid"
    max_windows: Positive = 64
    """Windows of the split that are scored, spread evenly over it; the same ones each time."""
    context_frames: Positive = 1
    """Frames that a rollout starts from."""
    rollout_frames: NotNegative = 0
    """Frames that a rollout predicts; 0 makes none."""


class SnapshotConfig(Section):
    """When the state is written, and how many stay."""

    every_steps: NotNegative = 0
    """0 writes at the end alone (and at a preemption)."""
    keep_last: Positive = 2


class MetricsConfig(Section):
    """Where numbers go while the run goes on."""

    log_every_steps: Positive = 10
    prometheus_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port of the metrics endpoint on each node; 0 takes a free one; null opens none."""


class RunConfig(Section):
    """One training run. The resolved config is saved with the run and is itself a valid input."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}$")]
    output: str
    """Run folder: config, log, metrics and snapshots."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    steps: Positive
    """Optimiser steps of the whole run."""
    stage: StageConfig
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    engine: EngineConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    snapshots: SnapshotConfig = SnapshotConfig()
    metrics: MetricsConfig = MetricsConfig()

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        levels = len(self.stage.tokeniser.widths)
        for number, compression in enumerate(self.stage.compressions):
            if len(compression.levels) != levels:
                raise ValueError(
                    f"stage.compressions.{number} has {len(compression.levels)} levels, "
                    f"but stage.tokeniser.widths has {levels}; give one entry for each level"
                )
        if self.data.batch_size % self.engine.micro_batch_size:
            raise ValueError(
                f"data.batch_size {self.data.batch_size} is no multiple of "
                f"engine.micro_batch_size {self.engine.micro_batch_size}; change one of them"
            )
        return self


# ---------------------------------------------------------------------------------------- the study


class StudyConfig(Section):
    """Does pretraining the tokeniser first pay? The paper's comparison, on the user's own data.

    Two tokenisers (in domain, out of domain), then four dynamics runs of equal steps on the in-domain data: from
    scratch, from each tokeniser, and from the in-domain one mostly frozen; all scored on the test split.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}$")]
    output: str
    """Folder of the runs, report.html and report.json."""
    ranks: Positive = 1
    """Processes of each run on this machine."""
    tokeniser: str
    """Run config of the tokeniser stage, beside this file; the study sets its name, output and datasets."""
    dynamics: str
    """Run config of the dynamics stage, beside this file; the study sets what the arms differ in too."""
    in_domain: tuple[DatasetConfig, ...] = Field(min_length=1)
    """The data that the dynamics are trained and scored on."""
    out_of_domain: tuple[DatasetConfig, ...] = Field(min_length=1)
    """Other systems, which the third tokeniser sees alone."""
    frozen: Literal["processor", "processor_and_fields"] = "processor_and_fields"
    """What the mostly frozen arm still trains."""
    test: EvaluationConfig = EvaluationConfig(split="test")
    """How the final table is scored."""
