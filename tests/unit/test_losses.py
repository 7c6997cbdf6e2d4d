"""The loss terms."""

import pytest
import torch

from trainer.losses import frame_mse, frame_spectral, frame_vrmse, masked_mean


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


def test_the_spectral_term_of_predicting_nothing_is_one_however_little_a_band_holds() -> None:
    x = torch.linspace(0, 2 * torch.pi, 33)[:-1]
    waves = 300.0 * torch.sin(x) + 3.0 * torch.sin(12 * x)  # a hundredth of the amplitude at a high wavenumber
    target = (waves[:, None] + waves[None]).expand(1, 1, 1, 32, 32) + 1000.0 * torch.randn(1, 1, 1, 32, 32)
    nothing = frame_spectral(torch.zeros_like(target), target, variance_floor=1e-2)
    assert nothing.item() == pytest.approx(1.0, rel=1e-3)


def test_the_spectral_term_sees_a_lost_band_that_the_variance_hides() -> None:
    x = torch.linspace(0, 2 * torch.pi, 33)[:-1]
    low, high = (waves.expand(1, 1, 1, 32, 32) for waves in (30.0 * torch.sin(x), torch.sin(12 * x)))
    target = low + high
    assert frame_vrmse(low, target, variance_floor=1e-2).item() < 0.05
    assert frame_spectral(low, target, variance_floor=1e-2).item() > 0.3


def test_the_spectral_term_has_a_finite_slope_at_a_perfect_prediction() -> None:
    target = torch.randn(1, 1, 1, 8, 6)
    prediction = target.clone().requires_grad_()
    frame_spectral(prediction, target, variance_floor=1e-2).sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
