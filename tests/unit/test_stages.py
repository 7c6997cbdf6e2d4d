"""The two objectives on small models."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.unit.batches import make_batch
from trainer.config.schema import DynamicsStage as DynamicsSection
from trainer.errors import RefusedError
from trainer.interfaces import StepOutput
from trainer.models.dynamics import DynamicsModel
from trainer.models.processor import ProcessorShape
from trainer.models.tokeniser import Tokeniser, TokeniserShape
from trainer.stages.build import build_stage, refuse_idle_choices
from trainer.stages.dynamics import TRAINABLE_PATTERNS, DynamicsObjective, DynamicsStage, is_named
from trainer.stages.objective import LossWeights
from trainer.stages.tokeniser import TokeniserObjective, TokeniserStage

NAMES = ("density", "momentum_x")
SHAPE = TokeniserShape(
    space_rank=2, widths=(8, 8), kernels=((2, 4), (1, 2)), blocks=(1, 1), latent_channels=4, embedding_width=8
)
FINE, COARSE = ((1, 2), (1, 1)), ((2, 4), (1, 2))
MSE = LossWeights(mse=1.0, vrmse=0.0, variance_floor=1e-2)


def tokeniser_stage(*compressions: tuple[tuple[int, int], ...], weights: LossWeights = MSE) -> TokeniserStage:
    torch.manual_seed(0)
    tokeniser = Tokeniser(field_names=NAMES, shape=SHAPE)
    return TokeniserStage(TokeniserObjective(tokeniser, compressions=compressions, weights=weights))


def dynamics_stage(trainable: str = "all", latent_weight: float = 0.5, weights: LossWeights = MSE) -> DynamicsStage:
    torch.manual_seed(0)
    processor = ProcessorShape(width=16, depth=1, num_heads=2, feed_forward=16)
    model = DynamicsModel(field_names=NAMES, tokeniser=SHAPE, processor=processor)
    objective = DynamicsObjective(model, strides=FINE, weights=weights, latent_weight=latent_weight, max_latents=3)
    return DynamicsStage(objective, trainable=TRAINABLE_PATTERNS[trainable])


def test_the_reconstruction_loss_is_the_mean_squared_error() -> None:
    stage, batch = tokeniser_stage(FINE), make_batch()
    prediction = stage.module(batch, predict=True)
    output = stage.module(batch)
    assert isinstance(output, StepOutput)
    assert output.loss.item() == pytest.approx((prediction - batch.fields).square().mean().item(), rel=1e-5)


def test_a_channel_that_is_no_target_adds_nothing_to_the_loss() -> None:
    stage = tokeniser_stage(FINE, weights=replace(MSE, vrmse=1.0))
    batch = make_batch(is_target=(True, False))
    prediction = stage.module(batch, predict=True)
    prediction.retain_grad()
    wrong = replace(batch, fields=batch.fields)
    error = (prediction - wrong.fields)[:, :, 0].square().mean()
    assert stage.module(batch).sums["mse"].item() / batch.num_windows == pytest.approx(error.item(), rel=1e-5)


def test_each_block_of_steps_has_every_compression_once() -> None:
    sets = ((FINE,), (FINE, COARSE), (FINE, COARSE, ((1, 1), (1, 1))))
    for compressions in sets:
        objective = tokeniser_stage(*compressions).module
        for first in range(0, 60, len(compressions)):
            block = [objective.strides_at(step) for step in range(first, first + len(compressions))]
            assert sorted(block) == sorted(compressions)


def test_blocks_differ_in_their_order_and_runs_in_theirs() -> None:
    """So that no period of the data falls in step with the compressions."""
    orders = {tuple(objective_of_seed(0).strides_at(step) for step in (first, first + 1)) for first in range(0, 40, 2)}
    assert orders == {(FINE, COARSE), (COARSE, FINE)}
    one, other = ([objective_of_seed(seed).strides_at(step) for step in range(40)] for seed in (0, 1))
    assert one != other


def objective_of_seed(seed: int) -> TokeniserObjective:
    tokeniser = Tokeniser(field_names=NAMES, shape=SHAPE)
    return TokeniserObjective(tokeniser, compressions=(FINE, COARSE), weights=MSE, seed=seed)


def test_the_step_picks_the_compression() -> None:
    both = tokeniser_stage(FINE, COARSE)
    met = {both.module.strides_at(step): step for step in (0, 1)}
    for number, strides in enumerate((FINE, COARSE)):
        batch = replace(make_batch(), step=met[strides])
        single = both.at_compression(number)
        assert both.module(batch).loss.item() == single.module(batch).loss.item()
        assert both.tokens(batch) == single.tokens(batch) == tokeniser_stage(strides).tokens(batch)


def test_tokens_are_the_latent_positions() -> None:
    batch = make_batch(num_windows=2, frames=3, space=(8, 8))
    assert tokeniser_stage(COARSE).tokens(batch) == 2 * 2 * 1 * 1
    assert tokeniser_stage(FINE).tokens(batch) == 2 * 3 * 4 * 4


def test_every_parameter_takes_part_whatever_the_compression() -> None:
    stage = tokeniser_stage(FINE, COARSE)
    for step in (0, 1):
        stage.module.zero_grad()
        stage.module(replace(make_batch(space=(9, 7)), step=step)).loss.backward()
        assert all(parameter.grad is not None for parameter in stage.module.parameters())


def test_the_dynamics_loss_adds_the_latent_term() -> None:
    stage, batch = dynamics_stage(latent_weight=0.5), make_batch()
    output = stage.module(batch)
    terms = {name: (value / output.counts[name]).item() for name, value in output.sums.items()}
    assert terms["loss"] == pytest.approx(terms["mse"] + 0.5 * terms["latent_mse"], rel=1e-5)


def test_the_latent_target_carries_no_gradient() -> None:
    stage = dynamics_stage(latent_weight=1.0, weights=replace(MSE, mse=0.0))
    batch = make_batch(frames=2)
    batch.fields.requires_grad_()
    stage.module(batch).loss.backward()
    gradient = batch.fields.grad
    assert gradient is not None
    assert gradient[:, 0].abs().max() > 0
    assert gradient[:, 1].abs().max() == 0


@pytest.mark.parametrize(
    ("choice", "trained"),
    [
        ("all", {"processor", "encoder", "decoder", "field_embedding", "field_readout"}),
        ("processor", {"processor"}),
        ("processor_and_fields", {"processor", "field_embedding", "field_readout"}),
    ],
)
def test_trainable_parts_go_by_name(choice: str, trained: set[str]) -> None:
    stage = dynamics_stage(choice)
    names = [name for name, _ in stage.module.named_parameters()]
    parts = {name.split(".")[1 if ".processor." in name else 2] for name in names if stage.trainable(name)}
    assert parts == trained


def test_parts_are_named_as_check_prints_them() -> None:
    stage = dynamics_stage()
    by_short, by_whole = (
        {name for name, _ in stage.module.named_parameters() if is_named(name, pattern)}
        for pattern in ("tokeniser.field_*", "model.tokeniser.field_*")
    )
    assert by_short == by_whole != set()


@pytest.mark.parametrize(
    ("space_rank", "choices", "said"),
    [
        (2, {"trainable": ("processor.*", "tokeniser.field_embeding.*")}, r"`tokeniser\.field_embeding\.\*` names no"),
        (3, {"processor": {"width": 16, "num_heads": 4}}, "leaves 4 channels .* positions in 3D take 6"),
        (2, {"processor": {"width": 16, "num_heads": 4}}, None),
    ],
)
def test_choices_that_would_do_nothing_are_refused(space_rank: int, choices: dict[str, Any], said: str | None) -> None:
    section = DynamicsSection.model_validate(
        {
            "kind": "dynamics",
            "tokeniser": {"widths": (8,), "kernels": ({},), "blocks": (1,)},
            "processor": {},
            "compressions": ({"levels": ({},)},),
            **choices,
        }
    )
    stage = build_stage(section, field_names=NAMES, space_rank=space_rank, window_frames=3)
    with nullcontext() if said is None else pytest.raises(RefusedError, match=said):
        refuse_idle_choices(section, stage)


def test_a_rollout_goes_on_from_its_context() -> None:
    stage, batch = dynamics_stage(), make_batch(frames=6)
    forecast = stage.module(batch, rollout=(3, 4))
    assert forecast.shape == (2, 4, 2, 8, 8)
    changed = replace(batch, fields=batch.fields.clone())
    changed.fields[:, 3:] = 1e3
    torch.testing.assert_close(stage.module(changed, rollout=(3, 4)), forecast)


def test_the_first_step_of_a_rollout_is_the_next_frame_prediction() -> None:
    stage, batch = dynamics_stage(), make_batch(frames=4)
    torch.testing.assert_close(
        stage.module(batch, rollout=(1, 1))[:, 0], stage.module(batch, predict=True)[:, 1], rtol=1e-4, atol=1e-5
    )
