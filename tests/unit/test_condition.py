"""What a processor is told of a trajectory: how values become a vector, and that it makes a difference."""

import math

import pytest
import torch

from trainer.models.condition import NUM_FEATURES, Conditioning, magnitude_features
from trainer.models.processor import Processor, ProcessorShape

PERIODIC = ("periodic", "periodic")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_unknown_value_has_no_features(value: float) -> None:
    assert magnitude_features(torch.tensor([value])).abs().sum() == 0


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-38, 1e30])
def test_features_of_any_value_are_bounded(value: float) -> None:
    features = magnitude_features(torch.tensor([value]))
    assert features.shape == (1, NUM_FEATURES)
    assert features.abs().max() <= 1.0


def test_features_tell_signs_magnitudes_and_near_values_apart() -> None:
    features = magnitude_features(torch.tensor([-2.0, 2.0, 2e6, 1.22, 1.40, 0.0]))
    distances = torch.cdist(features, features) + 10 * torch.eye(6)
    assert distances.min() > 0.5


def test_a_new_model_does_not_listen_yet() -> None:
    assert Conditioning(2, 8)(torch.tensor([[0.1, 1.4]])).abs().max() == 0


def test_a_missing_parameter_leaves_the_others_heard() -> None:
    torch.manual_seed(0)
    conditioning = Conditioning(2, 8)
    torch.nn.init.normal_(conditioning.out.weight)
    both, one, other = conditioning(torch.tensor([[0.1, 1.4], [0.1, math.nan], [0.2, math.nan]]))
    assert not torch.allclose(both, one)
    assert not torch.allclose(one, other)
    assert one.isfinite().all()


def test_a_processor_predicts_by_its_conditions() -> None:
    torch.manual_seed(0)
    shape = ProcessorShape(width=8, depth=1, num_heads=2, feed_forward=8, num_conditions=1)
    processor = Processor(latent_channels=3, shape=shape)
    latents = torch.randn(1, 2, 3, 4, 4).expand(2, -1, -1, -1, -1)
    values = torch.tensor([[1.22], [1.40]])
    deaf = processor(latents, (PERIODIC, PERIODIC), conditions=values)
    torch.testing.assert_close(deaf[0], deaf[1])
    torch.nn.init.normal_(processor.conditioning.out.weight)
    heard = processor(latents, (PERIODIC, PERIODIC), conditions=values)
    assert not torch.allclose(heard[0], heard[1])
