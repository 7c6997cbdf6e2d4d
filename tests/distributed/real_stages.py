"""The two stages' own modules, small, and batches for them."""

from dataclasses import replace

import torch
from torch import nn

from tests.distributed.toy import GLOBAL_BATCH
from tests.unit.batches import make_batch
from trainer.batch import Batch
from trainer.config.schema import (
    Compression,
    DynamicsStage,
    KernelExtent,
    LevelStride,
    LossConfig,
    ProcessorModel,
    RolloutTraining,
    TokeniserModel,
    TokeniserStage,
)
from trainer.stages.build import build_stage

TOKENISER = TokeniserModel(
    widths=(8, 40),
    kernels=(KernelExtent(time=2, space=4), KernelExtent(time=1, space=2)),
    blocks=(1, 1),
    latent_channels=4,
    embedding_width=8,
)
PROCESSOR = ProcessorModel(width=64, depth=1, num_heads=2, feed_forward=256, conditions=("time_step", "of other data"))
FINE = Compression(levels=(LevelStride(time=1, space=2), LevelStride(time=1, space=2)))
COARSE = Compression(levels=(LevelStride(time=2, space=4), LevelStride(time=1, space=2)))
FRAMES = 3
LOSS = LossConfig(mse=1.0, vrmse=0.5, spectral=0.1)
ROLLOUT = RolloutTraining(free_steps=2, grow_over_steps=2)
"""Another number of forwards of the processor from the third step on."""


def make_stage(kind: str, *, trainable: str = "all", seed: int = 7) -> nn.Module:
    """The module, with frozen parameters marked. Tokenisers draw one of two compressions at each step."""
    torch.manual_seed(seed)
    section: TokeniserStage | DynamicsStage
    if kind == "tokeniser":
        section = TokeniserStage(kind="tokeniser", tokeniser=TOKENISER, compressions=(FINE, COARSE), loss=LOSS)
    else:
        section = DynamicsStage(
            kind="dynamics",
            tokeniser=TOKENISER,
            processor=PROCESSOR,
            compressions=(FINE,),
            trainable=trainable,
            latent_loss=0.5,
            loss=LOSS,
            output="change",
            rollout=ROLLOUT,
        )
    stage = build_stage(section, field_names=("density", "momentum_x"), space_rank=2, window_frames=FRAMES)
    for name, parameter in stage.module.named_parameters():
        parameter.requires_grad_(stage.trainable(name))
    return stage.module


def stage_batches(step: int, *, rank: int, world_size: int, accumulation: int) -> list[Batch]:
    """This rank's share of the global batch of `step`, which is the same for every world size."""
    whole = make_batch(num_windows=GLOBAL_BATCH, frames=FRAMES, space=(8, 8), seed=step)
    count = GLOBAL_BATCH // world_size // accumulation
    first = rank * (GLOBAL_BATCH // world_size)
    whole = replace(whole, step=step)
    return [_part(whole, slice(first + n * count, first + (n + 1) * count)) for n in range(accumulation)]


def _part(batch: Batch, rows: slice) -> Batch:
    return replace(
        batch,
        fields=batch.fields[rows],
        scale=batch.scale[rows],
        shift=batch.shift[rows],
        time_step=batch.time_step[rows],
        windows=batch.windows[rows],
    )
