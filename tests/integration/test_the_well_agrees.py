"""Every dataset of The Well in miniature: our reader and statistics against those of The Well's own package.

`stats.yaml` files of The Well are means, biased deviations and root mean squares in float64 of what that reader gives.
"""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_prep.__main__ import main
from data_prep.contract.fields import Boundary
from data_prep.sources.well import WellSource, open_well
from tests.unit.well_catalogue import CATALOGUE, Miniature

NUMBERS = {Boundary.WALL: 0.0, Boundary.OPEN: 1.0, Boundary.PERIODIC: 2.0}
Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def datasets(the_well: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All miniatures, and in `read` what The Well's package makes of each."""
    folder = tmp_path_factory.mktemp("catalogue")
    (folder / "read").mkdir()
    for miniature in CATALOGUE:
        miniature.write(folder / miniature.name)
    script = Path(__file__).with_name("the_well_frames.py")
    folders = [str(folder / miniature.name) for miniature in CATALOGUE]
    command = [str(the_well), str(script), str(folder / "read"), *folders]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.fixture(params=CATALOGUE, ids=lambda miniature: miniature.name)
def miniature(request: pytest.FixtureRequest) -> Miniature:
    found: Miniature = request.param
    return found


@pytest.fixture
def theirs(datasets: Path, miniature: Miniature) -> Arrays:
    with np.load(datasets / "read" / f"{miniature.name}.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def ours(datasets: Path, miniature: Miniature) -> WellSource:
    return open_well(str(datasets / miniature.name))


def train_frames(source: WellSource) -> np.ndarray[Any, Any]:
    """(frame, channel, *space), trajectory after trajectory."""
    parts = []
    with source.reader() as reader:
        for run in source.trajectories:
            if run.split == "train":
                parts.append(np.empty((run.num_steps, *source.spec.frame_shape), np.float32))
                reader.read_frames(run, 0, out=parts[-1])
    return np.concatenate(parts)


def test_both_readers_give_the_same_values_in_the_same_order(ours: WellSource, theirs: Arrays) -> None:
    np.testing.assert_array_equal(np.moveaxis(train_frames(ours), 1, -1), theirs["frames"])
    lengths = [run.num_steps for run in ours.trajectories if run.split == "train"]
    assert lengths == theirs["lengths"].tolist()


def test_both_readers_find_the_same_boundaries(ours: WellSource, theirs: Arrays) -> None:
    expected = [[NUMBERS[side] for side in sides] for sides in ours.spec.boundaries]
    np.testing.assert_array_equal(theirs["boundary_conditions"], expected)


def test_both_readers_find_the_same_grid_times_and_parameters(ours: WellSource, theirs: Arrays) -> None:
    last = [run for run in ours.trajectories if run.split == "train"][-1]
    grid = np.stack(np.meshgrid(*ours.spec.coordinates, indexing="ij"), axis=-1)
    np.testing.assert_allclose(theirs["space_grid"], grid, rtol=1e-6)
    np.testing.assert_allclose(theirs["output_time_grid"], last.times[-1:], rtol=1e-6)
    np.testing.assert_allclose(theirs.get("constant_scalars", np.zeros(0)), list(last.scalars.values()), rtol=1e-6)


def test_both_readers_find_the_same_constant_fields(ours: WellSource, theirs: Arrays) -> None:
    last = [run for run in ours.trajectories if run.split == "train"][-1]
    constants = np.empty(ours.spec.constant_shape, np.float32)
    with ours.reader() as reader:
        reader.read_constants(last, out=constants)
    expected = theirs.get("constant_fields", np.zeros((*ours.spec.resolution, 0)))
    np.testing.assert_array_equal(np.moveaxis(constants, 0, -1), expected)


def test_our_statistics_are_those_of_their_values(
    datasets: Path, miniature: Miniature, theirs: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["statistics", str(datasets / miniature.name)]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    names = [*miniature.scalars, *miniature.vectors, *miniature.tensors]
    for key in ("mean", "std", "rms", "mean_delta", "std_delta", "rms_delta"):
        values = np.concatenate([np.ravel(found[key][name]) for name in names])
        np.testing.assert_allclose(values, theirs[key], rtol=1e-9, atol=1e-12)
