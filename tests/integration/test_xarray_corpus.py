"""NetCDF files and zarr stores that xarray wrote, by a description in YAML: to shards, and to what training sees."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

from data_prep.__main__ import main
from data_prep.contract.fields import Boundary
from data_prep.sources.prepared import open_source
from data_prep.sources.protocol import Source
from tests.benchmarks.counted_storage import upload
from tests.unit.converting import contents, convert, stored_frames
from trainer.config.schema import DataConfig
from trainer.data.stream import open_datasets, training_loader

DESCRIPTION = """
name: shallow_water
files: {train: ["raw/train_*SUFFIX"], valid: ["raw/valid_*SUFFIX"]}
trajectory: member
axes:
  x: {boundary: periodic}
  y: {boundary: [wall, open], dimension: lat}
fields:
  height: h
  velocity: [u, v]
  stress: {variable: tau, along: [row, column]}
constant_fields: {depth: bathymetry}
scalars: [gravity, viscosity, forcing]
"""
SIZES = {"member": 2, "time": 5, "lat": 6, "x": 4}


def sea(seed: int) -> xarray.Dataset:
    """Its dimensions in another order than the stored one, a fill value, packed integers, times of its own."""
    generator = np.random.default_rng(seed)

    def values(*dims: str, dtype: str = "f4") -> tuple[tuple[str, ...], np.ndarray]:
        sizes = SIZES | {"row": 2, "column": 2}
        return dims, generator.standard_normal([sizes[dim] for dim in dims]).astype(dtype)

    return xarray.Dataset(
        {
            "h": values("time", "member", "lat", "x"),
            "u": values("member", "time", "x", "lat"),
            "v": values("time", "lat", "x"),
            "tau": values("member", "time", "lat", "x", "row", "column", dtype="f8"),
            "bathymetry": values("lat", "x"),
            "viscosity": values("member", dtype="f8"),
            "forcing": values("time", dtype="f8"),
        },
        coords={"time": ("time", np.array([0.0, 1, 2, 4, 8])), "lat": ("lat", np.linspace(-1, 1, 6))},
        attrs={"gravity": 9.81},
    )


def full(dataset: xarray.Dataset, member: int) -> np.ndarray:
    """(time, channel, x, lat) of one run, in plain xarray."""
    one = dataset.isel(member=member)
    parts = [one[name] for name in ("h", "u", "v")]
    parts += [one["tau"].isel(row=row, column=column) for row in (0, 1) for column in (0, 1)]
    return np.stack([part.transpose("time", "x", "lat").values.astype("f4") for part in parts], axis=1)


def write(folder: Path, suffix: str, **options: Any) -> dict[str, xarray.Dataset]:
    (folder / "raw").mkdir(parents=True)
    (folder / "sea.yaml").write_text(DESCRIPTION.replace("SUFFIX", suffix))
    datasets = {name: sea(seed) for seed, name in enumerate(("train_a", "train_b", "valid_a"))}
    for name, dataset in datasets.items():
        if suffix == ".zarr":
            dataset.to_zarr(folder / "raw" / f"{name}.zarr", zarr_format=3, consolidated=False)
        else:
            dataset.to_netcdf(folder / "raw" / f"{name}{suffix}", **options)
    return datasets


@pytest.fixture(autouse=True)
def _no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "NetCDF 4 by netCDF4": (".nc", {"engine": "netcdf4"}),
    "NetCDF 4 by h5netcdf": (".nc", {"engine": "h5netcdf"}),
    "NetCDF 3, the classic": (".nc", {"engine": "netcdf4", "format": "NETCDF3_64BIT"}),
    "zarr 3": (".zarr", {}),
}


@pytest.mark.parametrize(("suffix", "options"), KINDS.values(), ids=KINDS)
def test_files_of_xarray_come_back_value_for_value(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    datasets = write(tmp_path, suffix, **options)
    assert convert(tmp_path / "sea.yaml", tmp_path / "out", "zarr") == 0
    frames = stored_frames(tmp_path / "out")
    assert len(frames) == 6
    for name, dataset in datasets.items():
        for member in (0, 1):
            found = frames[f"{name.partition('_')[0]}/{name}{suffix}#{member}"]
            np.testing.assert_array_equal(found.view(np.uint32), full(dataset, member).view(np.uint32))
    assert main(["verify", str(tmp_path / "out"), "--against", str(tmp_path / "sea.yaml")]) == 0


def test_the_description_is_in_the_dataset(tmp_path: Path) -> None:
    datasets = write(tmp_path, ".nc")
    spec = open_source(str(tmp_path / "sea.yaml")).spec
    assert spec.spatial_dims == ("x", "y")
    assert spec.boundaries == ((Boundary.PERIODIC, Boundary.PERIODIC), (Boundary.WALL, Boundary.OPEN))
    assert spec.coordinates == ((0.0, 1.0, 2.0, 3.0), tuple(np.linspace(-1, 1, 6).tolist()))
    run = open_source(str(tmp_path / "sea.yaml")).trajectories[1]
    assert run.times == (0.0, 1.0, 2.0, 4.0, 8.0)
    train = datasets["train_a"]
    assert run.scalars["gravity"] == 9.81
    assert run.scalars["viscosity"] == float(train["viscosity"][1])
    assert run.scalars["forcing"] == tuple(train["forcing"].values.tolist())


def test_a_training_window_is_the_files_values(tmp_path: Path) -> None:
    """NetCDF by xarray, our shards, the loader: the same numbers at the end."""
    datasets = write(tmp_path, ".nc")
    assert convert(tmp_path / "sea.yaml", tmp_path / "out", "webdataset") == 0
    sections = {"datasets": ({"url": str(tmp_path / "out")},), "window": {"frames": 3}, "batch_size": 1}
    data = DataConfig.model_validate(sections)
    opened = open_datasets(data)
    ids = {name: number for number, name in enumerate(opened[0].channels)}

    class Alone:
        rank, size = 0, 1

    loader = training_loader(data, opened, seed=0, step=0, share=Alone(), micro_batch_size=1, field_ids=ids, pin=False)
    with loader:
        [batch] = loader.take(1)
        found = batch.physical(batch.fields)[0, :, :-1].numpy()
    windows = [
        full(dataset, member)[start : start + 3]
        for dataset in datasets.values()
        for member in (0, 1)
        for start in range(3)
    ]
    assert min(float(np.abs(found - window).max()) for window in windows) < 1e-5


def test_two_workers_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path, ".nc")
    small = ("--shard-bytes", "4K")
    assert convert(tmp_path / "sea.yaml", tmp_path / "one", "zarr", *small) == 0
    assert convert(tmp_path / "sea.yaml", tmp_path / "two", "zarr", "--workers", "2", *small) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def frames_of(source: Source) -> np.ndarray:
    out = np.empty((5, *source.spec.frame_shape), np.float32)
    with source.reader() as reader:
        reader.read_frames(source.trajectories[0], 0, out=out)
    return out


def test_files_in_object_storage_are_read_there(tmp_path: Path) -> None:
    datasets = write(tmp_path, ".nc", engine="h5netcdf")
    upload(tmp_path, "counted://bucket/sea")
    text = (tmp_path / "sea.yaml").read_text().replace("raw/", "counted://bucket/sea/raw/")
    (tmp_path / "remote.yaml").write_text(text)
    np.testing.assert_array_equal(frames_of(open_source(str(tmp_path / "remote.yaml"))), full(datasets["train_a"], 0))


def test_missing_values_are_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Packed integers with a fill value become numbers, and NaN where there is none."""
    (tmp_path / "raw").mkdir()
    dataset = sea(0)
    dataset["h"][1, 0, 2, 3] = np.nan
    encoding = {"h": {"dtype": "i2", "scale_factor": 0.001, "_FillValue": -9999}}
    dataset.to_netcdf(tmp_path / "raw" / "train_a.nc", encoding=encoding)
    (tmp_path / "sea.yaml").write_text(DESCRIPTION.replace("SUFFIX", ".nc").replace(', valid: ["raw/valid_*.nc"]', ""))
    assert convert(tmp_path / "sea.yaml", tmp_path / "out", "zarr") == 2
    assert "train/train_a.nc#0: 1 frames, the first of them 1, have values" in capsys.readouterr().err


# ---- what a description may get wrong

WRONG = {
    "an unknown key": ("trajectory: member", "trajectories: member", "sea.yaml:4: trajectories is no key"),
    "an unknown boundary": ("boundary: periodic", "boundary: wrap", "sea.yaml:6: axes.x.boundary is"),
    "components for other axes": ("[u, v]", "[u, v, w]", "sea.yaml:10: fields.velocity: lists [3] components"),
    "no files of this name": ("raw/train_", "raw/trian_", "sea.yaml: files.train: nothing in "),
    "no variable": (
        "height: h",
        "height: hh",
        "train_a.nc: has no variable `hh` for `height`; it has ['bathymetry', 'forcing'",
    ),
    "a dimension that is not described": ("trajectory: member\n", "", "['member'] are not described"),
    "no axis": (
        "dimension: lat",
        "dimension: latitude",
        "has dimensions ('time', 'member', 'lat', 'x'), of which ['lat']",
    ),
    "no parameter": ("gravity,", "gravitas,", "has neither a variable nor an attribute `gravitas`"),
    "not YAML": ("name: shallow_water", "name: [", "not YAML"),
}


@pytest.mark.parametrize(("old", "new", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_description_is_one_message(
    tmp_path: Path, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, ".nc")
    text = (tmp_path / "sea.yaml").read_text()
    assert text.count(old) == 1
    (tmp_path / "sea.yaml").write_text(text.replace(old, new))
    assert convert(tmp_path / "sea.yaml", tmp_path / "out", "zarr") == 2
    said = capsys.readouterr().err
    assert said.startswith("refused: ")
    assert message in said
    assert not (tmp_path / "out").exists()


def test_a_file_that_xarray_cannot_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, ".nc")
    (tmp_path / "raw" / "train_b.nc").write_text("hello")
    assert convert(tmp_path / "sea.yaml", tmp_path / "out", "zarr") == 2
    assert "train_b.nc: xarray cannot open it: " in capsys.readouterr().err


def test_files_of_other_grids_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets = write(tmp_path, ".nc")
    datasets["valid_a"].assign_coords(lat=np.linspace(-2, 2, 6)).to_netcdf(tmp_path / "raw" / "valid_a.nc")
    assert convert(tmp_path / "sea.yaml", tmp_path / "out", "zarr") == 2
    assert "axis `y` has 6 points from -2 to 2, but the first file has 6 from -1 to 1" in capsys.readouterr().err


def test_components_for_other_axes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets = write(tmp_path, ".nc")
    datasets["train_b"].isel(column=[0, 1, 1]).to_netcdf(tmp_path / "raw" / "train_b.nc")
    assert convert(tmp_path / "sea.yaml", tmp_path / "out", "zarr") == 2
    assert "train_b.nc: dimension `column` of `stress` has 3 components, expected 2" in capsys.readouterr().err
