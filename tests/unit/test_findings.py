"""What `show` finds wrong with a corpus, by its headers and by a scan of its values: a claim for each kind."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from data_prep.__main__ import main
from tests.unit.converting import convert
from tests.unit.tiny_well import TinyBoundary, TinyField, write_dataset, write_file

FIELDS = (TinyField("pressure"), TinyField("velocity", rank=1))
Show = Callable[..., list[str]]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """The findings of `show SOURCE --scan`, or of the headers alone."""

    def found(source: Path, *, scan: bool = True) -> list[str]:
        capsys.readouterr()
        assert main(["show", str(source), *(["--scan"] if scan else [])]) == 0
        return [line[2:] for line in capsys.readouterr().out.splitlines() if line.startswith("! ")]

    return found


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "tiny", fields=FIELDS)
    return tmp_path / "tiny"


def changed(
    tiny: Path, path: str, values: Callable[[np.ndarray], np.ndarray], *, field: str = "t0_fields/pressure"
) -> None:
    with h5py.File(tiny / "data" / path, "r+") as file:
        file[field][...] = values(file[field][()])


def test_a_sound_corpus_has_nothing_wrong(tmp_path: Path, show: Show) -> None:
    """Random walks: they differ, and change less from frame to frame than they vary."""

    def walk(values: np.ndarray) -> np.ndarray:
        return np.cumsum(values, axis=1)

    write_dataset(tmp_path / "tiny", fields=(TinyField("pressure"),), num_steps=50)
    for path in ("train/a.hdf5", "train/b.hdf5", "valid/a.hdf5", "test/a.hdf5"):
        changed(tmp_path / "tiny", path, walk)
    assert show(tmp_path / "tiny") == []


# ---- by the headers


def test_a_boundary_that_is_not_used(tmp_path: Path, show: Show) -> None:
    lost = TinyBoundary("lost", ("x",), "PERIODIC", np.zeros(4, bool))
    write_dataset(tmp_path / "tiny", boundaries=[lost])
    assert any(
        "boundary_conditions/lost: its mask covers no whole side" in text
        for text in show(tmp_path / "tiny", scan=False)
    )


def test_time_steps_that_vary(tmp_path: Path, show: Show) -> None:
    write_dataset(tmp_path / "tiny", times=np.array([0, 1, 2, 4, 8]))
    [text] = show(tmp_path / "tiny", scan=False)
    assert text.startswith("the time step varies within 8 of 8 trajectories (train/a.hdf5#0, train/a.hdf5#1,")
    assert "in the first from 1 to 4" in text


def test_time_steps_that_differ_between_files(tiny: Path, show: Show) -> None:
    write_file(tiny / "data" / "train" / "c.hdf5", fields=FIELDS, times=0.3 * np.arange(5))
    assert show(tiny, scan=False) == ["the time step differs between trajectories: from 0.1 to 0.3"]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_split_that_is_missing(tiny: Path, split: str, show: Show) -> None:
    shutil.rmtree(tiny / "data" / split)
    assert any(text.startswith(f"there is no {split} split") for text in show(tiny, scan=False))


def test_the_headers_alone_are_read_unless_asked(tiny: Path, show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.sources.well.HdfNode.values", None)
    assert show(tiny, scan=False) == []


# ---- by the values


def test_values_that_are_not_finite(tiny: Path, show: Show) -> None:
    changed(tiny, "valid/a.hdf5", lambda values: np.where(np.arange(6) == 3, np.nan, values))
    found = show(tiny)
    assert "valid/a.hdf5#1 has values that are not finite: `pressure`: 20 NaN and 0 infinite" in found
    assert any(text.startswith("2 of 8 trajectories have such values; convert with `--not-finite") for text in found)


def test_a_channel_that_is_the_same_everywhere(tiny: Path, show: Show) -> None:
    for path in ("train/a.hdf5", "train/b.hdf5"):
        changed(tiny, path, lambda values: np.full_like(values, 2.5))
    assert "`pressure` is 2.5 everywhere in the train split: nothing to learn from" in show(tiny)


def test_a_channel_that_never_changes(tiny: Path, show: Show) -> None:
    for path in ("train/a.hdf5", "train/b.hdf5"):
        changed(tiny, path, lambda values: np.broadcast_to(values[:, :1], values.shape))
    assert "`pressure` never changes in time: it is a constant field" in show(tiny)


def test_a_small_spread_on_a_large_mean(tiny: Path, show: Show) -> None:
    for path in ("train/a.hdf5", "train/b.hdf5"):
        changed(tiny, path, lambda values: 1 + 3e-3 * values)
    assert any(re.search(r"`pressure` varies by 0\.00\d+ about 1: bfloat16 would", text) for text in show(tiny))


def test_noise_in_time(tiny: Path, show: Show) -> None:
    """Frames that do not depend on each other: their differences vary by more than they do."""
    assert "`pressure` changes from frame to frame by more than it varies, as noise does: frames are far apart" in show(
        tiny
    )


def test_a_trajectory_in_two_splits(tiny: Path, show: Show) -> None:
    shutil.copy(tiny / "data" / "train" / "b.hdf5", tiny / "data" / "test" / "a.hdf5")
    found = show(tiny)
    copied = "train/b.hdf5#0, test/a.hdf5#0 are the same, value for value, though in train and test: what is held out"
    assert f"{copied} is not new" in found
    assert not any("begin with the same frame" in text for text in found)


def test_two_that_begin_alike(tiny: Path, show: Show) -> None:
    with h5py.File(tiny / "data" / "train" / "a.hdf5") as file:
        starts = {field: file[field][0, 0] for field in ("t0_fields/pressure", "t1_fields/velocity")}
    with h5py.File(tiny / "data" / "valid" / "a.hdf5", "r+") as file:
        for field, values in starts.items():
            file[field][1, 0] = values
    assert any("train/a.hdf5#0, valid/a.hdf5#1 begin with the same frame, though in" in text for text in show(tiny))


def test_one_that_goes_on_where_another_ends(tiny: Path, show: Show) -> None:
    """planetswe: years of one simulation, each in a file of its own."""
    with h5py.File(tiny / "data" / "train" / "a.hdf5") as file:
        ends = {field: file[field][0, -1] for field in ("t0_fields/pressure", "t1_fields/velocity")}
    with h5py.File(tiny / "data" / "valid" / "a.hdf5", "r+") as file:
        for field, values in ends.items():
            file[field][0, 0] = values
    assert any(
        "valid/a.hdf5#0 begins where train/a.hdf5#0 ends, though in train and valid" in text for text in show(tiny)
    )


def test_shipped_statistics_that_disagree(tiny: Path, show: Show, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statistics", str(tiny)]) == 0
    shipped = yaml.safe_load(capsys.readouterr().out)
    shipped["rms_delta"]["pressure"] *= 2
    (tiny / "stats.yaml").write_text(yaml.safe_dump(shipped))
    assert any("stats.yaml: rms_delta of `pressure` is " in text for text in show(tiny))


def test_a_prepared_dataset_is_scanned_like_its_source(tiny: Path, show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    changed(tiny, "train/a.hdf5", lambda values: np.where(np.arange(6) == 3, np.inf, values))
    assert convert(tiny, tiny.with_name("out"), "zarr", "--not-finite", "keep") == 0
    assert show(tiny.with_name("out")) == show(tiny)
