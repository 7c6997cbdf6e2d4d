"""The verb `simulate`: what it refuses, and that its bytes depend on the settings only."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from data_prep.command import main
from data_prep.simulate import workers
from data_prep.simulate.case import SPLITS, Case, Trajectory, generator_for
from data_prep.simulate.command import add_parser
from data_prep.simulate.plan import Job
from data_prep.simulate.systems import SYSTEMS
from data_prep.simulate.well_writer import read_trajectories
from data_prep.well import open_well

NAME = "euler_multi_quadrants_periodicBC"
SMALL = ["--trajectories", "3", "--resolution", "8", "--steps", "3", "--seed", "5", "--parameter-sets", "2"]


def simulate(out: Path, *options: str, system: str = NAME, num_workers: int = 1) -> int:
    return main(["simulate", system, "--out", str(out), *SMALL, "--workers", str(num_workers), *options])


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    assert simulate(out) == 0
    return out


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refusal(out, *options)` runs `simulate`, expects exit code 2 and gives what it said."""

    def refused(out: Path, *options: str, system: str = NAME) -> str:
        assert simulate(out, *options, system=system) == 2
        said = capsys.readouterr().err
        assert "refused: " in said
        assert "Traceback" not in said
        return said

    return refused


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


# -- breaks


def fail_after(monkeypatch: pytest.MonkeyPatch, *, done: int, fail: Callable[[], None]) -> None:
    """Let the trajectory after so many done call `fail`."""
    numbers = count()
    compute = workers.compute

    def watched(job: Job) -> Trajectory:
        if next(numbers) == done:
            fail()
        return compute(job)

    monkeypatch.setattr(workers, "compute", watched)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_interrupted_run_leaves_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_after(monkeypatch, done=3, fail=interrupt)
    assert simulate(tmp_path) == 130
    left = {path.name for path in (tmp_path / NAME).rglob("*") if path.is_file()}
    assert left == {"provenance.json", f"{NAME}_gamma_1.4_Dry_air_20.hdf5", f"{NAME}_gamma_1.22_C2H6_15.hdf5"}


KILLED_RUN = """
import os, signal, sys
from data_prep.command import main
from data_prep.simulate import workers

compute, count = workers.compute, iter(range(100))

def deadly(job):
    if next(count) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(job)

workers.compute = deadly
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_to_the_same_bytes(
    corpus: Path, tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["simulate", NAME, "--out", str(tmp_path), *SMALL, "--workers", "1"]
    command = [sys.executable, "-c", KILLED_RUN, *arguments]
    killed = subprocess.run(command, cwd=repository, capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert bytes_of(tmp_path) != bytes_of(corpus)
    assert simulate(tmp_path) == 0
    assert json.loads(capsys.readouterr().out)["kept_files"] == 2
    assert bytes_of(tmp_path) == bytes_of(corpus)


def test_a_killed_run_leaves_no_workers_behind(tmp_path: Path, repository: Path) -> None:
    """Workers hold our end of the pipe, so reading it to its end waits for all of them."""
    endless = ["--trajectories", "1000", "--resolution", "16", "--steps", "20", "--workers", "2"]
    command = [sys.executable, "-m", "data_prep", "simulate", NAME, "--out", str(tmp_path), *endless]
    with subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE) as run:
        assert run.stderr is not None
        said = b""
        while not re.search(rb" [1-9][0-9]*/1250", said):
            more = os.read(run.stderr.fileno(), 4096)
            assert more, said
            said += more
        run.kill()
        run.communicate(timeout=60)
    assert run.returncode == -signal.SIGKILL


def test_a_dead_worker_ends_the_run_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "compute", os._exit)  # each job is the exit code of the worker that takes it
    with pytest.raises(BrokenProcessPool):
        list(workers.trajectories_of([9, 9, 9], 2))


def test_a_whole_dataset_is_left_as_it_is(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    assert simulate(corpus) == 0
    assert json.loads(capsys.readouterr().out)["new_files"] == 0
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_values_that_are_no_numbers_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(job: Job) -> Trajectory:
        raise workers.SolverError("density is not finite")

    monkeypatch.setattr(workers, "compute", broken)
    with pytest.raises(workers.SolverError):
        simulate(tmp_path)
    assert not list((tmp_path / NAME).rglob("*.hdf5*"))


# -- refusals


def test_an_unknown_system_is_refused_with_the_nearest_name(tmp_path: Path, refusal: Callable[..., str]) -> None:
    said = refusal(tmp_path, system="shear_flwo")
    assert "did you mean `shear_flow`?" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--resolution", "4"], "--resolution 4: give a whole number from 8 to 4096"),
        (["--resolution", "8", "8", "8"], "has 2 axes"),
        (["--steps", "1"], "--steps 1: give"),
        (["--trajectories", "0"], "--trajectories 0: give"),
        (["--valid", "0"], "--valid 0: give"),
        (["--refine", "0"], "--refine 0: give"),
        (["--seed", "-1"], "--seed -1: give"),
        (["--workers", "0"], "--workers 0: give"),
        (["--parameter-sets", "11"], "--parameter-sets 11: give a whole number from 1 to 3"),
        (["--frame-interval", "0"], "--frame-interval 0.0: give a time above 0"),
        (["--frame-interval", "nan"], "--frame-interval nan: give"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(
    tmp_path: Path, refusal: Callable[..., str], options: list[str], expected: str
) -> None:
    assert expected in refusal(tmp_path, *options)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_settings_is_refused_by_name_and_left_alone(
    corpus: Path, refusal: Callable[..., str]
) -> None:
    before = bytes_of(corpus)
    said = refusal(corpus, "--steps", "4", "--seed", "6")
    assert "steps is 3, asked 4" in said
    assert "seed is 5, asked 6" in said
    assert bytes_of(corpus) == before


def test_a_folder_with_files_of_others_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / NAME / "data").mkdir(parents=True)
    assert "not from `simulate`" in refusal(tmp_path)


def test_settings_that_are_no_json_are_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "provenance.json").write_text("{")
    assert "provenance.json is no JSON" in refusal(tmp_path)


def test_settings_of_another_program_are_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "provenance.json").write_text('{"test": {}}')
    assert "was not written by this `simulate`" in refusal(tmp_path)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write there" in refusal(tmp_path / "file" / "below")


def test_a_dataset_larger_than_the_disk_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    said = refusal(tmp_path, "--trajectories", "1000000", "--resolution", "4096", "--steps", "1000")
    assert "GB are free" in said


def test_two_runs_in_one_folder_are_refused(
    tmp_path: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second: list[str] = []
    fail_after(monkeypatch, done=0, fail=lambda: second.append(refusal(tmp_path)))
    assert simulate(tmp_path) == 0
    assert "another `simulate` is writing here" in second[0]


def test_every_option_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    with pytest.raises(SystemExit):
        parser.parse_args(["simulate", "--help"])
    said = capsys.readouterr().out
    for name in SYSTEMS:
        assert name in said
