"""The loss terms."""

import pytest
import torch

from trainer.losses import frame_mse, frame_vrmse, masked_mean


def test_masked_mean_ignores_channels_that_are_not_targets() -> None:
    values = torch.tensor([[[1.0, 100.0], [3.0, -100.0]]])
    assert masked_mean(values, torch.tensor([True, False])).item() == 2.0


def test_frame_mse_averages_over_space_alone() -> None:
    prediction, target = torch.zeros(2, 3, 4, 5, 5), torch.full((2, 3, 4, 5, 5), 2.0)
    torch.testing.assert_close(frame_mse(prediction, target), torch.full((2, 3, 4), 4.0))


def test_frame_vrmse_of_the_spatial_mean_is_one_for_a_lively_frame() -> None:
    target = 100.0 * torch.randn(1, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    prediction = target.mean(dim=(3, 4), keepdim=True).expand_as(target)
    assert frame_vrmse(prediction, target, variance_floor=1e-2).item() == pytest.approx(1.0, rel=1e-4)


def test_frame_vrmse_has_a_finite_slope_at_a_perfect_prediction() -> None:
    target = torch.zeros(1, 1, 1, 4, 4)
    prediction = target.clone().requires_grad_()
    frame_vrmse(prediction, target, variance_floor=1e-2).sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
