"""A plain xarray session, without our code, opens what we wrote as it is: named axes, coordinates, attributes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

from data_prep.__main__ import main
from tests.unit.tiny_well import TinyField, write_dataset
from tests.unit.well_catalogue import CATALOGUE, Miniature

FIELDS = (TinyField("pressure"), TinyField("velocity", rank=1), TinyField("depth", time_varying=False))
WAYS: dict[str, tuple[str, ...]] = {
    "as is by default": (),
    "zstd": ("--codec", "blosc-zstd"),
    "without codec": ("--codec", "none"),
    "tiles": ("--tile-bytes", "100"),
}


@pytest.fixture(autouse=True)
def _no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def prepared(folder: Path, *options: str) -> Path:
    assert main(["convert", str(folder), str(folder.with_name("out")), "--format", "zarr", *options]) == 0
    return folder.with_name("out")


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_a_split_is_a_dataset_of_named_axes(tmp_path: Path, options: tuple[str, ...]) -> None:
    expected = write_dataset(tmp_path / "tiny", fields=FIELDS, scalars={"gamma": 1.4})
    with xarray.open_zarr(prepared(tmp_path / "tiny", *options), group="train") as train:
        assert dict(train["fields"].sizes) == {"trajectory": 4, "time": 5, "channel": 3, "x": 4, "y": 6}
        for number, name in enumerate(train.attrs["trajectories"]):
            path, _, run = name.rpartition("#")
            values = train["fields"].isel(trajectory=number).values
            np.testing.assert_array_equal(values.view(np.uint32), expected[path].frames[int(run)].view(np.uint32))
            constants = train["constant_fields"].isel(trajectory=number).values
            np.testing.assert_array_equal(constants, expected[path].constants[int(run)])
        nearest = train["fields"].sel(x=1.0, y=0.0, method="nearest").isel(trajectory=0)
        np.testing.assert_array_equal(nearest.values, expected["train/a.hdf5"].frames[0][..., -1, 0])
        np.testing.assert_allclose(train["times"].values[0], np.arange(5) * 0.1, rtol=1e-6)
        assert train["scalar_gamma"].values.tolist() == [1.4] * 4
        assert train.attrs["channels"] == ["pressure", "velocity_x", "velocity_y"]


def test_rounded_values_are_opened_alike(tmp_path: Path) -> None:
    expected = write_dataset(tmp_path / "tiny", fields=FIELDS)
    with xarray.open_zarr(prepared(tmp_path / "tiny", "--keep-bits", "8"), group="train") as train:
        original = expected["train/a.hdf5"].frames[0]
        np.testing.assert_allclose(train["fields"].values[0], original, rtol=2.0**-9)
        assert train.attrs["kept_bits"] == {"pressure": 8, "velocity": 8}


def test_the_root_is_a_tree_of_the_splits(tmp_path: Path) -> None:
    write_dataset(tmp_path / "tiny", fields=FIELDS)
    with xarray.open_datatree(prepared(tmp_path / "tiny"), engine="zarr") as tree:
        assert set(tree.children) == {"train", "valid", "test"}
        assert tree["valid/fields"].sizes["trajectory"] == 2
        assert tree.attrs["name"] == "tiny"


def test_steps_behind_the_end_of_a_trajectory_are_missing_values(tmp_path: Path) -> None:
    write_dataset(tmp_path / "tiny", num_steps=3)
    longer: dict[str, Any] = write_dataset(tmp_path / "more", num_steps=5)
    (tmp_path / "more" / "data" / "train" / "b.hdf5").rename(tmp_path / "tiny" / "data" / "train" / "b.hdf5")
    with xarray.open_zarr(prepared(tmp_path / "tiny"), group="train") as train:
        assert train["fields"].isel(trajectory=0, time=slice(3, None)).isnull().all()
        np.testing.assert_array_equal(train["fields"].values[3], longer["train/b.hdf5"].frames[1])
        assert train["num_steps"].values.tolist() == [3, 3, 5, 5]


@pytest.mark.parametrize("miniature", CATALOGUE, ids=lambda miniature: miniature.name)
def test_every_dataset_of_the_well_opens(tmp_path: Path, miniature: Miniature) -> None:
    expected = miniature.write(tmp_path / miniature.name)
    with xarray.open_zarr(prepared(tmp_path / miniature.name), group="valid") as valid:
        assert valid["fields"].dims == ("trajectory", "time", "channel", *miniature.axes)
        stored, original = valid["fields"].values, np.stack(expected["valid/a.hdf5"].frames)
        np.testing.assert_array_equal(stored.view(np.uint32), original.view(np.uint32))
