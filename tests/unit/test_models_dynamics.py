"""The dynamics model: teacher-forced prediction, rollouts, and what they share."""

import pytest
import torch

from trainer.models.dynamics import DynamicsModel
from trainer.models.processor import ProcessorShape
from trainer.models.tokeniser import TokeniserShape

PERIODIC, WALL = ("periodic", "periodic"), ("wall", "wall")
NAMES = ("density", "pressure")
TOKENISER = TokeniserShape(
    space_rank=2, widths=(8,), kernels=((2, 4),), blocks=(1,), latent_channels=6, embedding_width=4, block_kernel=(2, 3)
)
PLACE = {"field_ids": torch.arange(2), "boundary": (PERIODIC, WALL)}


def model_of(*, delta: bool = True, residual_scale: float = 0.1, adds_change: bool = False) -> DynamicsModel:
    torch.manual_seed(0)
    shape = ProcessorShape(width=24, depth=2, num_heads=2, feed_forward=16, residual_scale=residual_scale, delta=delta)
    return DynamicsModel(field_names=NAMES, tokeniser=TOKENISER, processor=shape, adds_change=adds_change)


@pytest.mark.parametrize("strides", [((1, 4),), ((2, 2),)])
def test_prediction_has_a_frame_for_each_input_and_a_latent_for_each_step(strides) -> None:
    fields = torch.randn(2, 5, 2, 10, 8)
    prediction = model_of()(fields, **PLACE, strides=strides)
    assert prediction.fields.shape == fields.shape
    assert prediction.latents.shape == prediction.targets.shape
    assert prediction.latents.shape[1] == 4 // strides[0][0]


def test_targets_are_the_encoder_s_own_latents() -> None:
    model, fields = model_of(), torch.randn(1, 5, 2, 8, 8)
    targets = model(fields, **PLACE, strides=((2, 4),)).targets
    torch.testing.assert_close(targets, model.tokeniser.encode(fields, **PLACE, strides=((2, 4),))[:, 1:])


def test_first_frame_is_the_reconstruction() -> None:
    model, fields = model_of(), torch.randn(1, 3, 2, 8, 8)
    first = model.tokeniser(fields[:, :1], **PLACE, strides=((1, 4),))
    torch.testing.assert_close(model(fields, **PLACE, strides=((1, 4),)).fields[:, :1], first)


@pytest.mark.parametrize("strides", [((1, 4),), ((2, 4),)])
@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("adds_change", [True, False])
@pytest.mark.parametrize("max_latents", [None, 3])
def test_a_rollout_begins_with_the_teacher_forced_prediction(
    strides, delta: bool, adds_change: bool, max_latents: int | None
) -> None:
    """Though kernels reach back in time: what a run is scored by is what its forecasts are."""
    model, step = model_of(delta=delta, residual_scale=1.0, adds_change=adds_change), strides[0][0]
    fields = torch.randn(2, 1 + 3 * step, 2, 8, 8)
    forced = model(fields, **PLACE, strides=strides)
    rolled = model.rollout(fields[:, : 1 + 2 * step], step, **PLACE, strides=strides, max_latents=max_latents)
    torch.testing.assert_close(rolled, forced.fields[:, -step:])


def test_a_rollout_goes_on_as_training_on_own_predictions_does() -> None:
    model, fields = model_of(residual_scale=1.0), torch.randn(2, 5, 2, 8, 8)
    free = model(fields, **PLACE, strides=((1, 4),), free_steps=3).fields[:, 2:]
    torch.testing.assert_close(model.rollout(fields[:, :2], 3, **PLACE, strides=((1, 4),)), free)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5])
def test_rollout_gives_as_many_frames_as_asked(num_frames: int) -> None:
    rolled = model_of().rollout(torch.randn(1, 3, 2, 8, 8), num_frames, **PLACE, strides=((2, 4),))
    assert rolled.shape == (1, num_frames, 2, 8, 8)


def test_longer_rollout_goes_on_from_the_shorter_one() -> None:
    model, context = model_of(residual_scale=1.0), torch.randn(1, 2, 2, 8, 8)
    short = model.rollout(context, 2, **PLACE, strides=((1, 4),))
    torch.testing.assert_close(model.rollout(context, 4, **PLACE, strides=((1, 4),))[:, :2], short)


def test_short_memory_forgets_early_context() -> None:
    model = model_of(residual_scale=1.0)
    one, other = torch.randn(2, 1, 12, 2, 8, 8)
    other[:, 3:] = one[:, 3:]
    place = {**PLACE, "strides": ((1, 4),), "max_latents": 1}
    # kernels of two taps reach back, the last latents by no more than 8 frames in encoder and decoder together
    torch.testing.assert_close(model.rollout(one, 2, **place), model.rollout(other, 2, **place))


def test_new_delta_processor_predicts_little_change() -> None:
    model = model_of(residual_scale=0.0)
    fields = torch.randn(1, 3, 2, 8, 8)
    latents = model.tokeniser.encode(fields, **PLACE, strides=((1, 4),))
    torch.testing.assert_close(model.processor(latents, PLACE["boundary"]), latents)


def test_every_parameter_takes_part() -> None:
    model = model_of()
    prediction = model(torch.randn(1, 3, 2, 8, 8), **PLACE, strides=((1, 2),))
    prediction.fields.sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_tiny_model_learns_to_shift_a_wave() -> None:
    torch.manual_seed(0)
    model = model_of()
    place = {**PLACE, "boundary": (PERIODIC, PERIODIC), "strides": ((1, 4),)}
    x = torch.linspace(0, 2 * torch.pi, 17)[:-1]
    phases = torch.arange(4) * 0.5
    wave = torch.sin(x.view(1, 1, 16, 1) + phases.view(4, 1, 1, 1)).expand(4, 2, 16, 16)[None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        loss = (model(wave, **place).fields - wave).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    persistence = (wave[:, 1:] - wave[:, :-1]).square().mean()
    error = (model(wave, **place).fields[:, 1:] - wave[:, 1:]).square().mean()
    assert error < 0.1 * persistence
