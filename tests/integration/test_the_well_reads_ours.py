"""What `simulate` writes, read by The Well's own package: values, order, boundaries, parameters, normalisation."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_prep.__main__ import main
from data_prep.simulate.systems import SYSTEMS
from data_prep.simulate.well_writer import read_trajectories

HERE = Path(__file__).parent
STEPS = 5
BOUNDARY_NUMBERS = {"OPEN": 1.0, "PERIODIC": 2.0}


@dataclass(frozen=True)
class Reading:
    """One dataset as The Well's package reads it, and as it lies on disk."""

    folder: Path
    arrays: dict[str, np.ndarray]
    metadata: dict[str, object]
    num_samples: int

    @property
    def window(self) -> np.ndarray:
        """The last three frames of the last trajectory: (3, *space, channel)."""
        last = sorted((self.folder / "data" / "train").iterdir())[-1]
        *_, trajectory = read_trajectories(last)
        columns = [
            values[..., None] if name not in SYSTEMS[self.folder.name].vector_fields else values
            for name, values in trajectory.items()
        ]
        return np.concatenate(columns, axis=-1)[-3:]

    def statistic(self, name: str) -> np.ndarray:
        """One statistic of `stats.yaml` by channel."""
        values = yaml.safe_load((self.folder / "stats.yaml").read_text())[name]
        system = SYSTEMS[self.folder.name]
        return np.concatenate([np.atleast_1d(values[field]) for field in system.scalar_fields + system.vector_fields])


@pytest.fixture(scope="module")
def readings(the_well: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reading]:
    datasets, out = tmp_path_factory.mktemp("datasets"), tmp_path_factory.mktemp("read")
    for name in SYSTEMS:
        size = ["--trajectories", "5", "--resolution", "8", "--steps", str(STEPS), "--workers", "1"]
        assert main(["simulate", name, "--out", str(datasets), *size]) == 0
    folders = [str(datasets / name) for name in SYSTEMS]
    command = [str(the_well), str(HERE / "the_well_reader.py"), str(out), *folders]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    found = {}
    for name in SYSTEMS:
        facts = json.loads((out / f"{name}.json").read_text())
        with np.load(out / f"{name}.npz") as arrays:
            found[name] = Reading(datasets / name, dict(arrays), facts["metadata"], facts["num_samples"])
    return found


@pytest.fixture(params=SYSTEMS)
def reading(request: pytest.FixtureRequest, readings: dict[str, Reading]) -> Reading:
    return readings[request.param]


def test_the_well_gives_the_values_that_we_stored_in_our_order(reading: Reading) -> None:
    np.testing.assert_array_equal(reading.arrays["plain.input_fields"], reading.window[:2])
    np.testing.assert_array_equal(reading.arrays["plain.output_fields"], reading.window[2:])


def test_the_well_finds_every_window_of_every_trajectory(reading: Reading) -> None:
    assert reading.num_samples == 5 * (STEPS - 2)


def test_the_well_finds_the_boundaries_at_both_sides_of_every_axis(reading: Reading) -> None:
    system = SYSTEMS[reading.folder.name]
    expected = np.full((len(system.axes), 2), BOUNDARY_NUMBERS[system.boundary])
    np.testing.assert_array_equal(reading.arrays["plain.boundary_conditions"], expected)


def test_the_well_finds_the_parameters_of_the_file(reading: Reading) -> None:
    last = sorted((reading.folder / "data" / "train").iterdir())[-1].stem
    parameters = next(
        chosen.values for chosen in SYSTEMS[reading.folder.name].parameter_sets if last.endswith(chosen.label)
    )
    expected = np.array(list(parameters.values()), dtype=np.float32)
    np.testing.assert_array_equal(reading.arrays["plain.constant_scalars"], expected)


def test_the_well_finds_our_grid_and_times(reading: Reading) -> None:
    system = SYSTEMS[reading.folder.name]
    grid = np.stack(np.meshgrid(*system.coordinates((8,) * len(system.axes)), indexing="ij"), axis=-1)
    np.testing.assert_allclose(reading.arrays["plain.space_grid"], grid, rtol=1e-6)
    times = system.frame_interval * np.arange(STEPS)[-3:]
    found = np.concatenate([reading.arrays["plain.input_time_grid"], reading.arrays["plain.output_time_grid"]])
    np.testing.assert_allclose(found, times, rtol=1e-5)


def test_the_card_is_what_the_well_finds_in_the_valid_split(reading: Reading) -> None:
    card = yaml.safe_load((reading.folder / f"{reading.folder.name}.yaml").read_text())
    assert json.loads(json.dumps(card)) == reading.metadata


@pytest.mark.parametrize(("kind", "shift", "scale"), [("z_score", "mean", "std"), ("rms", None, "rms")])
def test_the_well_normalises_with_our_statistics(reading: Reading, kind: str, shift: str | None, scale: str) -> None:
    centre = reading.statistic(shift) if shift else 0.0
    divisor = np.maximum(reading.statistic(scale), 1e-4)  # the reader's own floor
    expected = (reading.window[:2] - centre) / divisor
    np.testing.assert_allclose(reading.arrays[f"{kind}.input_fields"], expected, rtol=1e-4, atol=1e-4)


def test_the_well_normalises_differences_with_our_statistics(reading: Reading) -> None:
    divisor = np.maximum(reading.statistic("std_delta"), 1e-4)
    delta = reading.window[2:].astype(np.float64) - reading.window[1:2]
    expected = (delta - reading.statistic("mean_delta")) / divisor
    np.testing.assert_allclose(reading.arrays["delta.output_fields"], expected, rtol=1e-3, atol=1e-3)
