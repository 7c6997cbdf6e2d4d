"""The sections that say how a run goes: optimiser, engine, evaluation, snapshots, metrics. Like `sections`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainer.config.ranges import (
    Decay,
    Fraction,
    NotNegative,
    NotNegativeFloat,
    PatienceSeconds,
    Positive,
    PositiveFloat,
    Section,
    Size,
    SizeOrZero,
    Text,
)

LARGEST_FLOAT32 = 3.4e38


class ScheduleConfig(Section):
    """Learning rate over steps, as a factor of the peak. Cosine and cool-down end at the last step, so that a run that
    goes on with other `steps` has other rates from there on, and says so."""

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


class ParameterRule(Section):
    """Parameters that are trained differently."""

    parameters: tuple[Text, ...] = Field(min_length=1)
    """Patterns (`fnmatch`) of their names, which begin as `check` prints them: `processor.*`."""
    learning_rate_factor: NotNegativeFloat = 1.0
    """Times the learning rate of the schedule; 0 holds them still, yet computes their gradients."""
    weight_decay: NotNegativeFloat | None = None
    """In place of the optimiser's, for vectors too; null leaves it as it is."""


class OptimizerConfig(Section):
    """The optimiser and its schedule."""

    kind: Literal["adamw", "soap", "muon"] = "adamw"
    """AdamW (arXiv 1711.05101); SOAP (arXiv 2409.11321): Adam in the eigenbasis of Shampoo's preconditioner; Muon
    (arXiv 2502.16982): orthogonalised momentum for matrices and kernels, AdamW for vectors. The last two need whole
    matrices, which the plain engine and zero_stage 0 have."""
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
    max_skipped_steps: NotNegative = 5
    """Steps in a row that may be left out because their gradients are not finite; one more ends the run, with a
    snapshot of the state before them."""
    average_decay: Decay | None = None
    """Of an exponential moving average of the weights (0.999, say), kept in snapshots beside them and sharded like
    them. Evaluation in training scores it; `evaluate` and `export` use it where asked. Null keeps none."""
    rules: tuple[ParameterRule, ...] = ()
    """The first whose patterns match a parameter's name rules it."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate over the run."""

    @model_validator(mode="after")
    def _first_update_fits_float32(self) -> Self:
        """The largest rate of any parameter over 1 - beta, by which the first step divides."""
        factor = max((rule.learning_rate_factor for rule in self.rules), default=1.0)
        if self.learning_rate * max(factor, 1.0) / (1 - self.betas[0]) > LARGEST_FLOAT32:
            raise ValueError(f"learning_rate {self.learning_rate:g} makes steps that float32 cannot hold; lower it")
        return self


BlockClass = Literal["convolution", "attention"]
"""The blocks that models repeat."""


class EngineConfig(Section):
    """How the step is computed."""

    kind: Literal["zero", "plain"] = "zero"
    """`zero`: DeepSpeed; `plain`: one process without it."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What is sharded between ranks: nothing, optimiser states, gradients too, weights too."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes in bfloat16 with float32 master weights (needs zero_stage 1 or more); frozen weights, which have
    none, are rounded to bfloat16 for good. fp32 is float32 throughout, on GPUs too, where PyTorch by itself would round
    the factors of convolutions to TF32."""
    micro_batch_size: Size
    """Windows of one forward on one rank; accumulation follows from data.batch_size and the world size."""
    recompute: bool = False
    """Recompute the activations of blocks in the backward pass instead of keeping them."""
    recompute_classes: tuple[BlockClass, ...] = Field(("convolution", "attention"), min_length=1)
    """Which blocks: the residual convolutions of the tokeniser, the attention of the processor."""
    recompute_every: Size = 1
    """One of so many of them, from the first on: 1 recomputes all, 2 every other one."""
    compile: bool = False
    """Compile blocks and strided convolutions for training (torch.compile), for each size that they meet: minutes
    before the first steps. Needs a C++ compiler."""
    offload: Literal["none", "optimizer", "optimizer_and_weights"] = "none"
    """What lies in the host's memory instead of the GPU's: optimiser states (zero_stage 1 or more), and sharded
    weights too (zero_stage 3). Steps get slower."""
    deterministic: bool = False
    """Refuse operators whose result depends on the order of threads, so that equal runs are equal bit by bit on GPUs
    too. CPUs always are. Slower."""
    collective_timeout_seconds: PatienceSeconds = 600.0
    """A rank that does not answer for this long, or that stays in one phase of a step, is lost: all end with 1."""

    @model_validator(mode="after")
    def _bf16_needs_master_weights(self) -> Self:
        if self.precision == "bf16" and self.kind == "zero" and self.zero_stage == 0:
            raise ValueError("precision bf16 keeps no exact float32 master weights at zero_stage 0; use zero_stage 1")
        return self

    @model_validator(mode="after")
    def _compiles_whole_weights(self) -> Self:
        if self.compile and self.kind == "zero" and self.zero_stage == 3:
            raise ValueError("compile needs whole weights in blocks, where zero_stage 3 gathers them; use zero_stage 2")
        return self

    @model_validator(mode="after")
    def _offloads_what_is_sharded(self) -> Self:
        needed = {"none": 0, "optimizer": 1, "optimizer_and_weights": 3}[self.offload]
        if needed and (self.kind == "plain" or self.zero_stage < needed):
            raise ValueError(f"offload {self.offload} needs kind zero and zero_stage {needed} or more")
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
    """When the state is written, where to, and which of them stay."""

    every_steps: NotNegative = 0
    """0 writes at the end alone (and at a preemption)."""
    url: Text | None = None
    """Folder or fsspec URL that holds them; null: `snapshots` in the run folder."""
    keep_last: Size = 2
    """Older snapshots are removed once a newer one is whole."""
    keep_every_steps: NotNegative = 0
    """Those at whole multiples of this many steps are never removed; 0 keeps none for its age."""
    keep_best: SizeOrZero = 0
    """This many with the lowest `best_score` stay too; needs an evaluation at each snapshot."""
    best_score: Text = "valid/vrmse"
    """What the evaluation at the same step measured."""


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
