"""Training on own predictions: what is fed back, what gradients flow through, and how far a curriculum goes."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from tests.unit.batches import make_batch
from trainer.models.dynamics import DynamicsModel, lost_before
from trainer.models.processor import ProcessorShape
from trainer.models.tokeniser import TokeniserShape
from trainer.stages.dynamics import Curriculum, DynamicsObjective
from trainer.stages.objective import LossWeights

PERIODIC, WALL = ("periodic", "periodic"), ("wall", "wall")
TOKENISER = TokeniserShape(
    space_rank=2, widths=(8,), kernels=((2, 4),), blocks=(1,), latent_channels=6, embedding_width=4
)
PLACE = {"field_ids": torch.arange(2), "boundary": (PERIODIC, WALL)}


def model_of(tokeniser: TokeniserShape = TOKENISER, *, adds_change: bool = False) -> DynamicsModel:
    torch.manual_seed(0)
    shape = ProcessorShape(width=24, depth=2, num_heads=2, feed_forward=16, residual_scale=1.0)
    names = ("density", "momentum_x")
    return DynamicsModel(field_names=names, tokeniser=tokeniser, processor=shape, adds_change=adds_change)


@pytest.mark.parametrize("free_steps", [1, 2, 4])
def test_free_steps_are_those_of_a_rollout(free_steps: int) -> None:
    model, fields = model_of(), torch.randn(1, 5, 2, 8, 8)
    place = {**PLACE, "strides": ((1, 4),)}
    trained = model(fields, **place, free_steps=free_steps)
    assert trained.latents.shape == trained.targets.shape
    true = model.tokeniser.encode(fields, **place)[:, : 5 - free_steps]
    followed = torch.cat(list(islice(model.follow(true, PLACE["boundary"]), free_steps)), dim=1)
    torch.testing.assert_close(trained.latents, followed, rtol=1e-4, atol=1e-5)


def test_steps_before_the_free_ones_are_teacher_forced() -> None:
    model, fields = model_of(), torch.randn(1, 5, 2, 8, 8)
    place = {**PLACE, "strides": ((1, 4),)}
    forced, free = (model(fields, **place, free_steps=steps).latents for steps in (1, 3))
    torch.testing.assert_close(free[:, :2], forced[:, :2])
    assert not torch.allclose(free[:, 2:], forced[:, 2:])


@pytest.mark.parametrize("push_forward", [False, True])
def test_push_forward_stops_gradients_between_steps(push_forward: bool) -> None:
    model, fields = model_of(), torch.randn(1, 3, 2, 8, 8)
    prediction = model(fields, **PLACE, strides=((1, 4),), free_steps=2, push_forward=push_forward)
    prediction.latents.retain_grad()
    first = torch.autograd.grad(prediction.latents[:, 1].sum(), model.processor.predict.bias)[0]
    # the bias of the read-out reaches the second latent directly, and through the first where gradients flow
    direct = prediction.latents[0, 1, 0].numel() * torch.ones_like(first)
    assert torch.allclose(first, direct) is push_forward


@pytest.mark.parametrize(
    ("curriculum", "expected"),
    [
        (Curriculum(), [1, 1, 1, 1, 1]),
        (Curriculum(free_steps=3), [3, 3, 3, 3, 3]),
        (Curriculum(free_steps=3, grow_over=4), [1, 1, 2, 2, 3]),
    ],
)
def test_a_curriculum_grows_evenly_to_its_end(curriculum: Curriculum, expected: list[int]) -> None:
    assert [curriculum.free_steps_at(step) for step in range(5)] == expected


def test_the_curriculum_goes_by_the_step_of_the_batch() -> None:
    model, curriculum = model_of(), Curriculum(free_steps=2, grow_over=10)
    weights = LossWeights(mse=1.0, vrmse=0.0, variance_floor=1e-2)
    objective = DynamicsObjective(
        model, strides=((1, 4),), weights=weights, latent_weight=0.0, max_latents=2, curriculum=curriculum
    )
    early, late = (objective(replace(make_batch(), step=step)).loss.item() for step in (9, 10))
    assert early != late
    assert objective(replace(make_batch(), step=10), predict=True).equal(objective(make_batch(), predict=True))


def test_a_model_that_adds_changes_starts_from_persistence() -> None:
    """Exactly where no kernel reaches over time: then equal latents decode to equal frames."""
    frame_by_frame = replace(TOKENISER, kernels=((1, 4),))
    model, fields = model_of(frame_by_frame, adds_change=True), torch.randn(1, 5, 2, 8, 8)
    torch.nn.init.zeros_(model.processor.predict.weight)
    place = {**PLACE, "strides": ((1, 4),)}
    torch.testing.assert_close(model(fields, **place).fields[:, 1:], fields[:, :-1], rtol=1e-4, atol=1e-5)
    rolled = model.rollout(fields, 3, **place)
    torch.testing.assert_close(rolled, fields[:, -1:].expand(-1, 3, -1, -1, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strides", [((1, 4),), ((2, 4),)])
def test_the_change_of_a_rollout_is_that_of_training(strides) -> None:
    model, step = model_of(adds_change=True), strides[0][0]
    fields = torch.randn(1, 1 + 2 * step, 2, 8, 8)
    trained = model(fields, **PLACE, strides=strides, free_steps=2).fields
    rolled = model.rollout(fields[:, :1], 2 * step, **PLACE, strides=strides)
    torch.testing.assert_close(rolled, trained[:, 1:], rtol=1e-4, atol=1e-5)


def test_what_was_lost_is_that_of_the_last_true_frame() -> None:
    lost = torch.arange(1.0, 10.0).view(1, 9, 1)  # 1 + 2 * 4 frames; frame t has lost t + 1
    assert lost_before(lost, step=2, num_true=4).flatten().tolist() == [0, 1, 1, 3, 3, 5, 5, 7, 7]
    assert lost_before(lost, step=2, num_true=2).flatten().tolist() == [0, 1, 1, 3, 3, 3, 3, 3, 3]
    assert lost_before(lost, step=4, num_true=1).flatten().tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1]


def test_every_parameter_takes_part_in_a_free_run() -> None:
    model = model_of(adds_change=True)
    prediction = model(torch.randn(1, 3, 2, 8, 8), **PLACE, strides=((1, 4),), free_steps=2, push_forward=True)
    prediction.fields.sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
