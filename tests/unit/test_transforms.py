"""Transforms and isotropic scales in the config: what they make of batches, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from data_prep.contract.fields import Field
from data_prep.contract.manifest import Moments
from tests.unit.prepared import Prepared, prepare
from tests.unit.saved_runs import ALONE
from trainer.config.schema import DataConfig
from trainer.data.loader import Loader
from trainer.data.normalise import Kind, normaliser, normaliser_of
from trainer.data.stream import open_datasets, training_loader, training_order, vocabulary
from trainer.errors import RefusedError


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Its density is of mean 3 and std 2: negative here and there."""
    return prepare(tmp_path / "waves", constant_fields=(Field(name="depth"),))


def config(prepared: Prepared, **more: object) -> DataConfig:
    sections = {"datasets": ({"url": prepared.url},), "window": {"frames": 3}, "batch_size": 4}
    return DataConfig.model_validate({**sections, **more})


def stream(data: DataConfig) -> Loader:
    datasets = open_datasets(data)
    return training_loader(
        data,
        datasets,
        seed=5,
        step=0,
        share=ALONE,
        micro_batch_size=4,
        field_ids={name: row for row, name in enumerate(vocabulary(datasets))},
        pin=False,
    )


@pytest.mark.parametrize("kind", ["standard", "rms", "window_rms"])
def test_a_batch_with_transforms_is_the_stored_windows_in_physical_units(prepared: Prepared, kind: Kind) -> None:
    transforms = {"asinh": ("density", "depth")}
    data = config(prepared, normalisation=kind, transforms=transforms, isotropic=True)
    windows = training_order(data, open_datasets(data), seed=5).windows(0)
    with stream(data) as loader:
        [batch] = loader.take(1)
        assert [transform.name for transform in batch.transforms] == ["density", "depth"]
        for row, window in enumerate(windows):
            expected = prepared.expected(window.trajectory, window.start, frames=3)
            np.testing.assert_allclose(batch.physical(batch.fields)[row].numpy(), expected, rtol=1e-5, atol=1e-5)


def take_all(loader: Loader) -> None:
    """More than an epoch."""
    for _ in range(10):
        loader.take(1)


def test_a_value_without_a_logarithm_is_refused_with_its_window(prepared: Prepared) -> None:
    message = r"dataset waves, window from frame \d of train/a.hdf5#\d: density is -.* name it in data.transforms.asinh"
    with (
        stream(config(prepared, transforms={"log": ("density",)})) as loader,
        pytest.raises(RefusedError, match=message),
    ):
        take_all(loader)


def test_a_logarithm_of_a_field_of_negative_mean_is_refused_before_reading() -> None:
    moments = Moments(mean=-0.3, std=1, rms=1.1, mean_delta=0, std_delta=1, rms_delta=1)
    with pytest.raises(RefusedError, match=r"the mean of a is -0\.3, and only positive values have a logarithm"):
        normaliser("standard", channels=["a"], statistics={"a": moments}, transforms={"a": "log"})


def test_a_field_that_no_dataset_has_is_refused(prepared: Prepared) -> None:
    with pytest.raises(RefusedError, match=r"data\.transforms: no dataset has a field rho; they have density, depth"):
        open_datasets(config(prepared, transforms={"log": ("rho",)}))


def test_vectors_are_not_transformed(prepared: Prepared) -> None:
    with pytest.raises(RefusedError, match=r"data\.transforms names momentum, which is a vector in dataset waves"):
        open_datasets(config(prepared, transforms={"asinh": ("momentum",)}))


def test_a_field_has_one_transform(prepared: Prepared) -> None:
    with pytest.raises(ValidationError, match="transforms names density twice"):
        config(prepared, transforms={"log": ("density",), "asinh": ("density",)})


def test_a_field_that_is_zero_everywhere_is_left_alone() -> None:
    zero = Moments(mean=0, std=0, rms=0, mean_delta=0, std_delta=0, rms_delta=0)
    scaling = normaliser("standard", channels=["a"], statistics={"a": zero}, transforms={"a": "log"})
    values = np.zeros((2, 1, 4), np.float32)
    scaling.apply(values)
    assert (scaling.transforms, values.any()) == ((), False)


@pytest.mark.parametrize("transform", ["log", "asinh"])
def test_values_that_are_not_valid_are_zero_and_count_for_nothing(transform: str) -> None:
    values = np.array([[[1.0, 2.0, np.nan, 4.0]], [[np.inf, 1.0, 2.0, 3.0]]], np.float32)
    moments = Moments(mean=2, std=1, rms=5**0.5, mean_delta=0, std_delta=1, rms_delta=1)
    own = normaliser("window_rms", channels=["a"], statistics={"a": moments}, transforms={"a": transform})
    whole, valid = values[:1, :, [0, 1, 3]].copy(), np.isfinite(values)
    expected_scale, _ = own.apply(whole)
    scale, _ = own.apply(values, valid)
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-6)
    np.testing.assert_allclose(values[0, 0, [0, 1, 3]], whole[0, 0], rtol=1e-6)
    assert not values[~valid].any()


def test_components_share_a_scale_where_the_config_says_so(prepared: Prepared) -> None:
    [dataset] = open_datasets(config(prepared))
    by_component, isotropic = (normaliser_of(config(prepared, isotropic=flag), dataset) for flag in (False, True))
    assert by_component.scale[1] != by_component.scale[2]
    assert isotropic.scale[1] == isotropic.scale[2]
    assert isotropic.shift.tolist() == [by_component.shift[0], 0, 0, by_component.shift[3]]
