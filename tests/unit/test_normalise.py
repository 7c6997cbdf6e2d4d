"""Normalisation: scales from statistics, floors, and the way back."""

import numpy as np
import pytest

from data_prep.contract.manifest import Moments
from trainer.data.normalise import NOISE_FLOOR, QUIET_FLOOR, Kind, normaliser


def moments(*, mean: float = 0.0, std: float = 1.0) -> Moments:
    return Moments(mean=mean, std=std, rms=float(np.hypot(mean, std)), mean_delta=0, std_delta=1, rms_delta=1)


def fields(*, mean: float, std: float, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((3, 1, 16, 16))
    return (mean + std * values).astype(np.float32)


def test_standard_gives_mean_zero_and_std_one() -> None:
    values = fields(mean=5.0, std=0.5)
    normaliser("standard", channels=["a"], statistics={"a": moments(mean=5.0, std=0.5)}).apply(values)
    assert abs(values.mean()) < 0.1
    assert abs(values.std() - 1) < 0.1


def test_rms_keeps_zero_where_it_is() -> None:
    values = np.zeros((2, 1, 4), np.float32)
    normaliser("rms", channels=["a"], statistics={"a": moments(mean=3.0, std=4.0)}).apply(values)
    assert not values.any()


def test_rms_divides_by_the_rms_of_the_train_split() -> None:
    values = np.full((2, 1, 4), 10.0, np.float32)
    normaliser("rms", channels=["a"], statistics={"a": moments(mean=3.0, std=4.0)}).apply(values)
    np.testing.assert_allclose(values, 2.0)


def test_window_rms_looks_at_the_first_frame_alone() -> None:
    first, other = fields(mean=0, std=3.0), fields(mean=0, std=3.0)
    other[1:] *= 100
    statistics = {"a": moments(std=1.0)}
    scales = [normaliser("window_rms", channels=["a"], statistics=statistics).apply(one)[0] for one in (first, other)]
    assert scales[0] == scales[1]
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(first[0]))), 1.0, rtol=1e-5)


def test_window_rms_of_a_field_at_rest_falls_back_to_a_share_of_the_train_split() -> None:
    values = np.zeros((2, 1, 4), np.float32)
    scale, _ = normaliser("window_rms", channels=["a"], statistics={"a": moments(std=7.0)}).apply(values)
    np.testing.assert_allclose(scale, 7.0 * QUIET_FLOOR, rtol=1e-6)


@pytest.mark.parametrize("kind", ["standard", "rms", "window_rms"])
def test_a_channel_that_is_always_zero_stays_zero(kind: Kind) -> None:
    values = np.zeros((2, 1, 4), np.float32)
    scale, _ = normaliser(kind, channels=["a"], statistics={"a": moments(std=0.0)}).apply(values)
    assert scale[0] > 0
    assert not values.any()


def test_a_constant_channel_is_not_blown_up_to_rounding_noise() -> None:
    constant = normaliser("standard", channels=["a"], statistics={"a": moments(mean=1e5, std=0.0)})
    np.testing.assert_allclose(constant.scale, 1e5 * NOISE_FLOOR, rtol=1e-6)


def test_channels_keep_their_order() -> None:
    both = normaliser("standard", channels=["b", "a"], statistics={"a": moments(mean=1.0), "b": moments(mean=2.0)})
    assert both.shift.tolist() == [2.0, 1.0]
