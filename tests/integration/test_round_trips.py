"""Solver output that this project did not make, through every layout and codec and back, bit by bit."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from data_prep.__main__ import main
from data_prep.sources.protocol import Source
from data_prep.sources.well import open_well
from tests.integration.plain_webdataset import samples_of
from tests.integration.trainings import REPOSITORY
from trainer.data.dataset import open_dataset
from trainer.data.ring import Scratch
from trainer.data.source import Source as WindowSource
from trainer.data.windows import Window

DATASETS = REPOSITORY.parent / "shared" / "data" / "datasets"
NAMES = sorted(path.name for path in DATASETS.glob("*/")) or ["none is here"]
WAYS: dict[str, tuple[str, ...]] = {
    "zarr": ("--format", "zarr"),
    "zarr, zstd": ("--format", "zarr", "--codec", "blosc-zstd"),
    "zarr, plain tiles": ("--format", "zarr", "--codec", "none", "--tile-bytes", "16K"),
    "zarr, rounded": ("--format", "zarr", "--keep-bits", "10"),
    "tars": ("--format", "webdataset", "--shard-bytes", "8M"),
    "reference": ("--reference",),
}

pytestmark = pytest.mark.skipif(
    not DATASETS.is_dir(), reason=f"{DATASETS} is not here; test_convert, test_reference and the sessions do it on ours"
)


@pytest.fixture(autouse=True)
def _no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(params=NAMES)
def source(request: pytest.FixtureRequest) -> Path:
    return DATASETS / str(request.param)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_value_comes_back_bit_by_bit(source: Path, tmp_path: Path, way: tuple[str, ...]) -> None:
    """Rounded ones are those of the source, rounded."""
    assert main(["convert", str(source), str(tmp_path / "out"), *way]) == 0
    assert main(["verify", str(tmp_path / "out"), "--against", str(source)]) == 0


def test_training_reads_the_same_windows_from_every_exact_one(source: Path, tmp_path: Path) -> None:
    seen = set()
    for number, (name, way) in enumerate(WAYS.items()):
        if name == "zarr, rounded":
            continue
        folder = str(tmp_path / str(number))
        assert main(["convert", str(source), folder, *way]) == 0
        dataset = open_dataset(folder)
        out = np.empty(dataset.window_shape(frames=4), np.float32)
        WindowSource(dataset, frames=4).read(Window(5, 3, stride=2), out=out, scratch=Scratch())
        seen.add(out.tobytes())
    assert len(seen) == 1


def test_plain_zarr_and_webdataset_sessions_read_the_values_of_the_files(source: Path, tmp_path: Path) -> None:
    well = open_well(str(source))
    assert main(["convert", str(source), str(tmp_path / "zarr"), *WAYS["zarr"]]) == 0
    assert main(["convert", str(source), str(tmp_path / "tars"), *WAYS["tars"]]) == 0
    train = zarr.open_group(tmp_path / "zarr", mode="r")["train"]
    names = train.attrs["trajectories"]
    assert names == [run.name for run in well.trajectories if run.split == "train"]
    for number, name in enumerate(names):
        np.testing.assert_array_equal(train["fields"][number].view(np.uint32), frames_of(well, name).view(np.uint32))
    seen = set()
    for sample in samples_of(tmp_path / "tars"):
        first, fields = sample["json"]["first_frame"], sample["fields.npy"]
        original = frames_of(well, sample["json"]["trajectory"])[first : first + len(fields)]
        np.testing.assert_array_equal(fields.view(np.uint32), original.view(np.uint32))
        seen |= {(sample["json"]["trajectory"], step) for step in range(first, first + len(fields))}
    assert len(seen) == sum(run.num_steps for run in well.trajectories)


def frames_of(well: Source, name: str) -> np.ndarray:
    run = next(run for run in well.trajectories if run.name == name)
    frames = np.empty((run.num_steps, *well.spec.frame_shape), np.float32)
    with well.reader() as reader:
        reader.read_frames(run, 0, out=frames)
    return frames
