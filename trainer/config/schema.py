"""The whole config of a run, and of a study. Torch-free, so that it is checked on a laptop in a moment.

`sections`, `data` and `running` hold the parts and their knobs; what they must agree on between them is checked here.
"""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from trainer.config.data import AugmentConfig, CacheConfig, DataConfig, DatasetConfig, TransformConfig, WindowConfig
from trainer.config.ranges import Positive, RunName, Section, Seed, Text
from trainer.config.running import (
    EngineConfig,
    EvaluationConfig,
    MetricsConfig,
    OptimizerConfig,
    ParameterRule,
    ScheduleConfig,
    SnapshotConfig,
)
from trainer.config.sections import (
    Compression,
    DynamicsStage,
    KernelExtent,
    LevelStride,
    LossConfig,
    ProcessorModel,
    RolloutTraining,
    StageConfig,
    TokeniserModel,
    TokeniserStage,
)

__all__ = [
    "AugmentConfig",
    "CacheConfig",
    "Compression",
    "DataConfig",
    "DatasetConfig",
    "DynamicsStage",
    "EngineConfig",
    "EvaluationConfig",
    "KernelExtent",
    "LevelStride",
    "LossConfig",
    "MetricsConfig",
    "OptimizerConfig",
    "ParameterRule",
    "ProcessorModel",
    "RolloutTraining",
    "RunConfig",
    "ScheduleConfig",
    "Section",
    "SnapshotConfig",
    "StageConfig",
    "StudyConfig",
    "TokeniserModel",
    "TokeniserStage",
    "TransformConfig",
    "WindowConfig",
]


class RunConfig(Section):
    """One training run. The resolved config is saved with the run and is itself a valid input."""

    name: RunName
    """What reports, metrics and job names call it."""
    output: Text
    """Run folder: config, log, metrics and snapshots."""
    seed: Seed = 0
    """Of the weights at the start, the order of the windows, and every draw."""
    steps: Positive
    """Optimiser steps of the whole run."""
    stage: StageConfig
    """The objective: `kind: tokeniser` or `kind: dynamics`."""
    data: DataConfig
    """What it learns from."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How weights change."""
    engine: EngineConfig
    """How a step is computed and spread over ranks."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured on held-out data."""
    snapshots: SnapshotConfig = SnapshotConfig()
    """When state is written."""
    metrics: MetricsConfig = MetricsConfig()
    """Where numbers go."""

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        problems = [
            *self._compression_problems(),
            *self._size_problems(),
            *self._evaluation_problems(),
            *self._engine_problems(),
            *self._snapshot_problems(),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _compression_problems(self) -> Iterator[str]:
        kernels = self.stage.tokeniser.kernels
        resizes = self.stage.tokeniser.modulation == "ckm"
        for number, compression in enumerate(self.stage.compressions):
            here = f"stage.compressions.{number}"
            if len(compression.levels) != len(kernels):
                yield (
                    f"{here} has {len(compression.levels)} levels, but stage.tokeniser.widths has {len(kernels)}; "
                    "give one entry for each level"
                )
            for level, (stride, kernel) in enumerate(zip(compression.levels, kernels, strict=False)):
                if not resizes and (stride.time > kernel.time or max(stride.along_space) > kernel.space):
                    yield f"{here}.levels.{level} is wider than its kernel; raise stage.tokeniser.kernels.{level}"
            for key, frames in self._window_frames():
                if (frames - 1) % compression.time_stride:
                    yield _not_whole(key, frames, stride=compression.time_stride, of=here)

    def _window_frames(self) -> Iterator[tuple[str, int]]:
        """(key, frames) of the common window and of those that a dataset has to itself."""
        yield "data.window.frames", self.data.window.frames
        for number, entry in enumerate(self.data.datasets):
            if entry.window is not None:
                yield f"data.datasets.{number}.window.frames", entry.window.frames

    def _size_problems(self) -> Iterator[str]:
        batch_size, micro_batch_size = self.data.batch_size, self.engine.micro_batch_size
        if batch_size % micro_batch_size:
            yield (
                f"data.batch_size {batch_size} is no multiple of engine.micro_batch_size {micro_batch_size}; "
                "change one of them"
            )
        for number, size in enumerate(self.data.batch_sizes):
            if size * micro_batch_size % batch_size:
                yield (
                    f"data.datasets.{number}.batch_size {size} beside data.batch_size {batch_size} makes "
                    f"{size * micro_batch_size / batch_size:.3g} windows of engine.micro_batch_size "
                    f"{micro_batch_size}; choose them so that it is a whole number"
                )
        schedule = self.optimizer.schedule
        if schedule.warmup_steps + schedule.cooldown_steps > self.steps:
            yield (
                f"optimizer.schedule warms up and cools down over {schedule.warmup_steps} and "
                f"{schedule.cooldown_steps} steps, but the run has {self.steps}; shorten them"
            )

    def _evaluation_problems(self) -> Iterator[str]:
        evaluation, stride = self.evaluation, self.stage.compressions[0].time_stride
        if self.stage.kind == "tokeniser":
            if evaluation.rollout_frames:
                yield "evaluation.rollout_frames is set, but a tokeniser makes no rollouts; set it to 0"
            return
        for key, frames in self._window_frames():
            if frames <= stride:
                yield f"{key} {frames} leaves nothing to predict; use {1 + stride} or more"
            elif self.stage.rollout.free_steps > (frames - 1) // stride:
                yield (
                    f"stage.rollout.free_steps is {self.stage.rollout.free_steps}, but {key} {frames} leaves "
                    f"{(frames - 1) // stride} latent steps to predict; lower it, or raise {key}"
                )
        if (evaluation.context_frames - 1) % stride:
            yield _not_whole("evaluation.context_frames", evaluation.context_frames, stride=stride, of="stage")

    def _engine_problems(self) -> Iterator[str]:
        engine = self.engine
        if engine.recompute and engine.recompute_classes == ("attention",) and self.stage.kind == "tokeniser":
            yield "engine.recompute_classes is [attention], but a tokeniser has none; add convolution"
        kind = self.optimizer.kind
        if kind in ("soap", "muon") and engine.kind == "zero" and engine.zero_stage > 0:
            yield (
                f"engine.zero_stage is {engine.zero_stage}, but optimizer.kind {kind} needs whole matrices and stages "
                "1 to 3 hold flat slices; use zero_stage 0 in fp32, kind plain, or optimizer.kind adamw"
            )

    def _snapshot_problems(self) -> Iterator[str]:
        snapshots, evaluation = self.snapshots, self.evaluation
        if snapshots.keep_best == 0:
            return
        if not evaluation.every_steps or snapshots.every_steps % evaluation.every_steps:
            yield (
                f"snapshots.keep_best is {snapshots.keep_best}, but not every snapshot is scored: make "
                f"snapshots.every_steps ({snapshots.every_steps}) a multiple of evaluation.every_steps "
                f"({evaluation.every_steps})"
            )
        if not snapshots.best_score.startswith(f"{evaluation.split}/"):
            yield (
                f"snapshots.best_score is {snapshots.best_score}, but evaluation.split is {evaluation.split}; "
                f"name one of its scores, as in {evaluation.split}/vrmse"
            )

    @property
    def snapshots_url(self) -> str:
        """Where the run's snapshots lie."""
        return self.snapshots.url or f"{self.output}/snapshots"


def _not_whole(key: str, frames: int, *, stride: int, of: str) -> str:
    below = 1 + (frames - 1) // stride * stride
    return (
        f"{key} is {frames}, but the time stride of {of} is {stride}: it must be 1 + a multiple of it; "
        f"use {below} or {below + stride}"
    )


# ---------------------------------------------------------------------------------------- the study


class StudyConfig(Section):
    """Does pretraining the tokeniser first pay? The paper's comparison, on the user's own data.

    Two tokenisers (in domain, out of domain), then four dynamics runs of equal steps on the in-domain data: from
    scratch, from each tokeniser, and from the in-domain one mostly frozen; all scored on the test split.
    """

    name: RunName
    """What the report calls it."""
    output: Text
    """Folder of the runs, report.html and report.json."""
    ranks: Positive = 1
    """Processes of each run on this machine; where it has GPUs, no more than those."""
    tokeniser: Text
    """Run config of the tokeniser stage, beside this file; the study sets its name, output and datasets."""
    dynamics: Text
    """Run config of the dynamics stage, beside this file; the study sets what the arms differ in too."""
    in_domain: tuple[DatasetConfig, ...] = Field(min_length=1)
    """The data that the dynamics are trained and scored on."""
    out_of_domain: tuple[DatasetConfig, ...] = Field(min_length=1)
    """Other systems, which the third tokeniser sees alone."""
    frozen: Literal["processor", "processor_and_fields"] = "processor_and_fields"
    """What the mostly frozen arm still trains."""
    test: EvaluationConfig = EvaluationConfig(split="test")
    """How the final table is scored."""
