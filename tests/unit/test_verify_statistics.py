"""What the manifest says of the values, statistics and counts of what is not finite, is counted again by `verify`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract.manifest import Manifest, describe_index, load_manifest
from data_prep.contract.storage import Storage
from data_prep.inspection import recount
from tests.unit.converting import SMALL, refer
from tests.unit.tiny_well import TinyField, write_dataset

FIELDS = (TinyField("pressure"), TinyField("velocity", rank=1), TinyField("depth", time_varying=False))
LAYOUTS = {
    "zarr": ("--format", "zarr"),
    "zarr in tiles": ("--format", "zarr", "--tile-bytes", "100"),
    "zarr, several shards to a trajectory": ("--format", "zarr", "--shard-bytes", "700"),
    "zarr, rounded": ("--format", "zarr", "--keep-bits", "8"),
    "tars": ("--format", "webdataset", *SMALL),
    "tars, several to a trajectory": ("--format", "webdataset", "--shard-bytes", "700"),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def spoil(file: Any) -> None:
    file["t0_fields/pressure"][0, 1, 2, 3] = np.nan
    file["t1_fields/velocity"][1, 3, 0, 0, 1] = np.inf
    file["t0_fields/depth"][1, 0, 0] = np.nan


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """A finished conversion of which some values are not finite."""
    write_dataset(tmp_path / "tiny", fields=FIELDS, edit=spoil)
    arguments = [str(tmp_path / "tiny"), str(tmp_path / "out"), "--format", "zarr", "--not-finite", "keep"]
    assert main(["convert", *arguments]) == 0
    return tmp_path / "out"


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))


def differences(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    capsys.readouterr()
    code = main(["verify", str(folder), *options])
    found: list[str] = json.loads(capsys.readouterr().out)["differences"]
    assert code == (1 if found else 0)
    return found


def manifest_of(folder: Path) -> Manifest:
    return load_manifest(Storage(str(folder)))[0]


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
def test_statistics_of_every_layout_are_found_again(
    options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted frame by frame, and whole trajectories at once."""
    write_dataset(tmp_path / "tiny", fields=FIELDS)
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), *options]) == 0
    for block_bytes in (1, 2**23):
        monkeypatch.setattr(recount, "BLOCK_BYTES", block_bytes)
        assert differences(tmp_path / "out", capsys) == []
    edited(tmp_path / "out", lambda stored: stored["statistics"]["velocity_y"].update(std_delta=1.5))
    (found,) = differences(tmp_path / "out", capsys)
    assert found.startswith("manifest.json: statistics.velocity_y.std_delta is 1.5, but the values in the shards have ")


def test_statistics_of_a_reference_are_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "tiny", fields=FIELDS)
    assert refer(tmp_path / "tiny", tmp_path / "out") == 0
    assert differences(tmp_path / "out", capsys) == []
    edited(tmp_path / "out", lambda stored: stored["statistics"]["depth"].update(mean=7.0))
    (found,) = differences(tmp_path / "out", capsys)
    assert found.startswith("manifest.json: statistics.depth.mean is 7.0, but ")


def test_a_small_difference_is_found_whatever_the_offset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousandth of the spread, on a field whose mean is a thousand times its spread."""
    write_dataset(tmp_path / "tiny", edit=lambda file: file["t0_fields/pressure"].__setitem__(..., 1000 + spread(file)))
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), "--format", "zarr"]) == 0
    assert differences(tmp_path / "out", capsys) == []
    std = manifest_of(tmp_path / "out").statistics["pressure"].std
    edited(tmp_path / "out", lambda stored: stored["statistics"]["pressure"].update(std=std * 1.001))
    (found,) = differences(tmp_path / "out", capsys)
    assert "statistics.pressure.std is " in found


def spread(file: Any) -> np.ndarray:
    values: np.ndarray = file["t0_fields/pressure"][...]
    return values


def test_values_that_are_not_finite_are_counted_again(spoiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert differences(spoiled, capsys) == []
    edited(spoiled, lambda stored: stored["trajectories"][1].pop("not_finite"))
    (found,) = differences(spoiled, capsys)
    assert found == (
        "manifest.json: trajectories.1.not_finite is nothing, but in the shards train/a.hdf5#1 has "
        "`velocity_y`: 0 NaN and 1 infinite; `depth`: 1 NaN and 0 infinite"
    )


def test_damage_hides_no_statistics_and_is_reported_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be read cannot be counted: a second message would send people after the wrong fault."""
    write_dataset(tmp_path / "tiny")
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), "--format", "zarr", *SMALL]) == 0
    path = manifest_of(tmp_path / "out").shards[0].path
    (tmp_path / "out" / path).unlink()
    edited(tmp_path / "out", lambda stored: stored["statistics"]["pressure"].update(mean=9.0))
    assert differences(tmp_path / "out", capsys) == [f"{path}: is missing"]


def test_one_shard_alone_is_asked_nothing_of_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "tiny")
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), "--format", "zarr", *SMALL]) == 0
    edited(tmp_path / "out", lambda stored: stored["statistics"]["pressure"].update(mean=9.0))
    assert differences(tmp_path / "out", capsys, "--shard", manifest_of(tmp_path / "out").shards[0].path) == []


def test_frames_in_shards_of_another_order_are_counted_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The order in which a manifest lists its shards means nothing: the frame before is fetched where it is needed."""
    write_dataset(tmp_path / "tiny")
    out = tmp_path / "out"
    assert main(["convert", str(tmp_path / "tiny"), str(out), "--format", "zarr", "--shard-bytes", "700"]) == 0
    manifest, index = load_manifest(Storage(str(out)))
    last = len(manifest.shards) - 1
    index = index.copy()
    index["shard"] = last - index["shard"]
    np.save(out / "index.npy", index)
    facts = describe_index(index).model_dump()
    edited(out, lambda stored: stored.update(shards=stored["shards"][::-1], index=facts))
    assert differences(out, capsys) == []
