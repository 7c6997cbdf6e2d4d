"""What `simulate` writes, and that its bytes depend on the settings only."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from data_prep.simulate.case import SPLITS, Case, Trajectory, generator_for
from data_prep.simulate.systems import SYSTEMS
from data_prep.simulate.well_writer import read_trajectories
from data_prep.sources.well import open_well
from tests.unit.simulating import NAME, bytes_of, simulate


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    assert simulate(out) == 0
    return out


# -- what it writes


def test_the_summary_names_the_dataset_and_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path)
    summary = json.loads(capsys.readouterr().out)
    assert summary["dataset"] == str(tmp_path / NAME)
    assert summary["trajectories"] == {"train": 3, "valid": 2, "test": 2}
    assert (summary["new_files"], summary["kept_files"]) == (6, 0)


def test_progress_goes_to_stderr_with_rate_and_remaining_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(tmp_path)
    assert "7/7 [00:" in capsys.readouterr().err


def test_every_split_has_a_file_per_parameter_set(corpus: Path) -> None:
    for split in SPLITS:
        names = sorted(path.name for path in (corpus / NAME / "data" / split).iterdir())
        assert names == [f"{NAME}_gamma_1.22_C2H6_15.hdf5", f"{NAME}_gamma_1.4_Dry_air_20.hdf5"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_our_reader_accepts_every_system_without_a_warning(tmp_path: Path, name: str) -> None:
    assert simulate(tmp_path, system=name) == 0
    source, system = open_well(str(tmp_path / name)), SYSTEMS[name]
    assert source.warnings == ()
    assert [field.name for field in source.spec.fields] == [*system.scalar_fields, *system.vector_fields]
    assert len(source.trajectories) == 3 + 2 + 2


@pytest.mark.parametrize("name", SYSTEMS)
def test_frames_change_and_are_finite(tmp_path: Path, name: str) -> None:
    simulate(tmp_path, system=name)
    for path in (tmp_path / name).rglob("*.hdf5"):
        for trajectory in read_trajectories(path):
            for values in trajectory.values():
                assert values.dtype == np.float32
                assert np.isfinite(values).all()
                assert (np.abs(np.diff(values, axis=0)).reshape(2, -1).max(axis=1) > 0.0).all()


def test_every_parameter_is_a_root_attribute_and_a_scalar(corpus: Path) -> None:
    with h5py.File(corpus / NAME / "data" / "test" / f"{NAME}_gamma_1.22_C2H6_15.hdf5") as file:
        assert list(file.attrs["simulation_parameters"]) == ["gamma"]
        assert file.attrs["gamma"] == 1.22
        assert file["scalars"]["gamma"][()] == np.float32(1.22)


def test_pressure_is_that_of_the_stored_energy(corpus: Path) -> None:
    (first, *_) = read_trajectories(corpus / NAME / "data" / "train" / f"{NAME}_gamma_1.4_Dry_air_20.hdf5")
    kinetic = 0.5 * np.square(first["momentum"]).sum(axis=-1) / first["density"]
    np.testing.assert_allclose(first["pressure"], 0.4 * (first["energy"] - kinetic), rtol=1e-4, atol=1e-6)


def test_statistics_are_those_of_the_train_split(corpus: Path) -> None:
    files = sorted((corpus / NAME / "data" / "train").iterdir())
    momentum = np.concatenate([t["momentum"].astype(np.float64)[None] for f in files for t in read_trajectories(f)])
    statistics = yaml.safe_load((corpus / NAME / "stats.yaml").read_text())
    axes, delta = (0, 1, 2, 3), np.diff(momentum, axis=1)
    expected = {
        "mean": momentum.mean(axes),
        "std": momentum.std(axes),
        "rms": np.sqrt(np.square(momentum).mean(axes)),
        "mean_delta": delta.mean(axes),
        "std_delta": delta.std(axes),
        "rms_delta": np.sqrt(np.square(delta).mean(axes)),
    }
    assert statistics.keys() == expected.keys()
    for statistic, values in expected.items():
        np.testing.assert_allclose(statistics[statistic]["momentum"], values, rtol=1e-9, atol=1e-12)


# -- what the numbers depend on


def test_the_same_settings_give_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    simulate(tmp_path)
    assert bytes_of(tmp_path) == bytes_of(corpus)


def test_the_number_of_workers_changes_no_byte(corpus: Path, tmp_path: Path) -> None:
    simulate(tmp_path, num_workers=2)
    assert bytes_of(tmp_path) == bytes_of(corpus)


def test_another_seed_gives_other_trajectories(corpus: Path, tmp_path: Path) -> None:
    simulate(tmp_path, "--seed", "6")
    file = Path(NAME, "data", "train", f"{NAME}_gamma_1.4_Dry_air_20.hdf5")
    (one, *_), (other, *_) = read_trajectories(corpus / file), read_trajectories(tmp_path / file)
    assert not np.array_equal(one["density"], other["density"])


def trajectories_in(out: Path, split: str) -> list[Trajectory]:
    """By trajectory number: file j holds the numbers that leave the remainder j."""
    by_set = [
        list(read_trajectories(out / NAME / "data" / split / f"{NAME}_gamma_{label}.hdf5"))
        for label in ("1.4_Dry_air_20", "1.22_C2H6_15")
    ]
    return [by_set[number % 2][number // 2] for number in range(sum(map(len, by_set)))]


def test_a_trajectory_does_not_depend_on_how_many_there_are(corpus: Path, tmp_path: Path) -> None:
    simulate(tmp_path, "--trajectories", "5", "--valid", "1", "--test", "3", "--parameter-sets", "2")
    for one, other in zip(trajectories_in(corpus, "train"), trajectories_in(tmp_path, "train"), strict=False):
        np.testing.assert_array_equal(one["energy"], other["energy"])


def test_no_two_trajectories_are_alike(corpus: Path) -> None:
    first = [
        trajectory["density"][0].tobytes()
        for path in (corpus / NAME).rglob("*.hdf5")
        for trajectory in read_trajectories(path)
    ]
    assert len(set(first)) == len(first) == 7


@pytest.mark.parametrize("name", SYSTEMS)
def test_refining_shows_the_same_beginning(name: str) -> None:
    system = SYSTEMS[name]

    def first_frame(refine: int) -> np.ndarray:
        resolution = (16,) * len(system.axes)
        case = Case(
            resolution, num_frames=2, frame_interval=1e-3, refine=refine, parameters=system.parameter_sets[0].values
        )
        trajectory = system.simulate(case, generator_for(name, "train", index=0, seed=0))
        return np.asarray(trajectory[system.scalar_fields[0]][0])

    coarse, fine = first_frame(1), first_frame(2)
    assert coarse.shape == fine.shape
    assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.9
