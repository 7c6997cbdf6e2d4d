"""A config's stage section -> the stage, with fresh weights. Works on the meta device too: nothing depends on data."""

from collections.abc import Sequence

from trainer.config.schema import (
    Compression,
    LossConfig,
    ProcessorModel,
    RolloutTraining,
    StageConfig,
    TokeniserModel,
)
from trainer.config.schema import (
    DynamicsStage as DynamicsSection,
)
from trainer.errors import RefusedError
from trainer.interfaces import is_named
from trainer.models.dynamics import DynamicsModel
from trainer.models.flexible_conv import Stride
from trainer.models.processor import ProcessorShape
from trainer.models.tokeniser import Tokeniser, TokeniserShape
from trainer.stages.dynamics import TRAINABLE_PATTERNS, Curriculum, DynamicsObjective, DynamicsStage
from trainer.stages.objective import LossWeights
from trainer.stages.tokeniser import TokeniserObjective, TokeniserStage


def build_stage(
    section: StageConfig, *, field_names: tuple[str, ...], space_rank: int, window_frames: int, seed: int = 0
) -> TokeniserStage | DynamicsStage:
    """`field_names` is the vocabulary of field components; `space_rank` the number of space axes of the data;
    `window_frames` the length of a training window; `seed` the run's, which says when which compression comes."""
    shape = tokeniser_shape(section.tokeniser, space_rank=space_rank)
    compressions = tuple(strides_of(compression) for compression in section.compressions)
    weights = _weights(section.loss)
    if isinstance(section, DynamicsSection):
        model = DynamicsModel(
            field_names=field_names,
            tokeniser=shape,
            processor=_processor_shape(section.processor),
            adds_change=section.output == "change",
        )
        max_latents = (window_frames - 1) // section.compressions[0].time_stride
        objective = DynamicsObjective(
            model,
            strides=compressions[0],
            weights=weights,
            latent_weight=section.latent_loss,
            max_latents=max_latents,
            conditions=section.processor.conditions,
            curriculum=_curriculum(section.rollout),
        )
        return DynamicsStage(objective, trainable=_patterns(section.trainable))
    tokeniser = Tokeniser(field_names=field_names, shape=shape)
    return TokeniserStage(TokeniserObjective(tokeniser, compressions=compressions, weights=weights, seed=seed))


def strides_of(compression: Compression) -> tuple[Stride, ...]:
    """(time, space) or (time, *space) strides for each level, outermost first."""
    return tuple((level.time, *level.along_space) for level in compression.levels)


def tokeniser_shape(section: TokeniserModel, *, space_rank: int) -> TokeniserShape:
    """The sizes of the tokeniser for data of this many space axes."""
    return TokeniserShape(
        space_rank=space_rank,
        widths=section.widths,
        kernels=tuple((kernel.time, kernel.space) for kernel in section.kernels),
        blocks=section.blocks,
        latent_channels=section.latent_channels,
        embedding_width=section.embedding_width,
        block_kernel=(section.block_kernel.time, section.block_kernel.space),
        residual_scale=section.residual_scale,
        modulation=section.modulation,
        stride_gains=section.stride_gains,
    )


def _processor_shape(section: ProcessorModel) -> ProcessorShape:
    return ProcessorShape(
        width=section.width,
        depth=section.depth,
        num_heads=section.num_heads,
        feed_forward=section.feed_forward,
        residual_scale=section.residual_scale,
        delta=section.delta,
        num_conditions=len(section.conditions),
    )


def _curriculum(section: RolloutTraining) -> Curriculum:
    return Curriculum(section.free_steps, grow_over=section.grow_over_steps, push_forward=section.push_forward)


def _weights(section: LossConfig) -> LossWeights:
    return LossWeights(
        mse=section.mse,
        vrmse=section.vrmse,
        variance_floor=section.variance_floor,
        spectral=section.spectral,
    )


def _patterns(trainable: str | Sequence[str]) -> Sequence[str]:
    return TRAINABLE_PATTERNS[trainable] if isinstance(trainable, str) else trainable


def refuse_idle_choices(section: StageConfig, stage: TokeniserStage | DynamicsStage) -> None:
    """Of a run that begins: raises RefusedError for a pattern of `trainable` that names nothing, and for attention
    heads too narrow for rotary positions, which take two channels for each axis of space."""
    if not isinstance(section, DynamicsSection):
        return
    for pattern in _patterns(section.trainable):
        if not any(is_named(name, pattern) for name, _ in stage.module.named_parameters()):
            raise RefusedError(
                f"stage.trainable: `{pattern}` names no parameter of the model; names begin as "
                "`python -m trainer check CONFIG` prints them, as in tokeniser.encoder.*"
            )
    channels = section.processor.width // section.processor.num_heads
    if channels < 2 * stage.space_rank:
        raise RefusedError(
            f"stage.processor: width {section.processor.width} leaves {channels} channels to each of num_heads "
            f"{section.processor.num_heads}, but positions in {stage.space_rank}D take {2 * stage.space_rank}; lower "
            "num_heads"
        )
