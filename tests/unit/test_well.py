"""The Well's files, every feature and trap of the format, read from files that these tests write."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from data_prep.contract.fields import Boundary
from data_prep.sources.well import WellSource, open_well
from tests.unit.tiny_well import AXES, Expected, TinyBoundary, TinyField, write_dataset, write_file

OPEN, WALL, PERIODIC = Boundary.OPEN, Boundary.WALL, Boundary.PERIODIC


def one_file(folder: Path, **options: object) -> Expected:
    return write_file(folder / "tiny" / "data" / "train" / "a.hdf5", **options)


def opened(folder: Path) -> WellSource:
    return open_well(str(folder / "tiny"))


def frames_of(source: WellSource, number: int) -> np.ndarray:
    run = source.trajectories[number]
    frames = np.full((run.num_steps, *source.spec.frame_shape), np.nan, np.float32)
    with source.reader() as reader:
        reader.read_frames(run, 0, out=frames)
    return frames


def constants_of(source: WellSource, number: int) -> np.ndarray:
    constants = np.full(source.spec.constant_shape, np.nan, np.float32)
    with source.reader() as reader:
        reader.read_constants(source.trajectories[number], out=constants)
    return constants


FIELD_CASES = {
    "scalar and vector": (TinyField("pressure"), TinyField("velocity", rank=1)),
    "tensor": (TinyField("stress", rank=2), TinyField("density")),
    "the same for all trajectories": (TinyField("forcing", sample_varying=False), TinyField("velocity", rank=1)),
    "an axis kept with length 1": (TinyField("profile", dim_varying=(False, True)),),
    "an axis absent": (TinyField("profile", dim_varying=(False, True), drops_axes=True),),
    "a vector without its second axis": (
        TinyField("wind", rank=1, dim_varying=(True, False), drops_axes=True),
        TinyField("pressure"),
    ),
    "names against the alphabet": (TinyField("zeta"), TinyField("alpha"), TinyField("momentum", rank=1)),
    "integers": (TinyField("phase", dtype="i2"),),
    "double precision": (TinyField("pressure", dtype="f8"),),
    "half precision": (TinyField("pressure", dtype="f2"),),
}


@pytest.mark.parametrize("fields", FIELD_CASES.values(), ids=FIELD_CASES)
def test_frames_are_the_fields_side_by_side(tmp_path: Path, fields: tuple[TinyField, ...]) -> None:
    expected = one_file(tmp_path, fields=fields)
    source = opened(tmp_path)
    for number, frames in enumerate(expected.frames):
        np.testing.assert_array_equal(frames_of(source, number), frames)


CONSTANT_CASES = {
    "by trajectory": TinyField("density", time_varying=False),
    "for all": TinyField("mask", time_varying=False, sample_varying=False),
    "a vector": TinyField("field", rank=1, time_varying=False),
    "without an axis": TinyField("depth", time_varying=False, dim_varying=(True, False), drops_axes=True),
}


@pytest.mark.parametrize("field", CONSTANT_CASES.values(), ids=CONSTANT_CASES)
def test_fields_that_stand_still_are_constants(tmp_path: Path, field: TinyField) -> None:
    expected = one_file(tmp_path, fields=(TinyField("pressure"), field))
    source = opened(tmp_path)
    assert [constant.name for constant in source.spec.constant_fields] == [field.name]
    for number, constants in enumerate(expected.constants):
        np.testing.assert_array_equal(constants_of(source, number), constants)


def test_three_dimensions_are_read(tmp_path: Path) -> None:
    expected = one_file(
        tmp_path,
        axes={"x": 3, "y": 4, "z": 5},
        fields=(TinyField("density"), TinyField("velocity", rank=1), TinyField("stress", rank=2)),
        boundaries=(),
    )
    source = opened(tmp_path)
    assert source.spec.frame_shape == (1 + 3 + 9, 3, 4, 5)
    np.testing.assert_array_equal(frames_of(source, 1), expected.frames[1])


def test_frames_can_be_read_from_any_step(tmp_path: Path) -> None:
    expected = one_file(tmp_path, num_steps=7)
    source = opened(tmp_path)
    frames = np.empty((2, *source.spec.frame_shape), np.float32)
    with source.reader() as reader:
        reader.read_frames(source.trajectories[1], 4, out=frames)
    np.testing.assert_array_equal(frames, expected.frames[1][4:6])


def test_tensor_components_are_named_row_by_row(tmp_path: Path) -> None:
    one_file(tmp_path, fields=(TinyField("D", rank=2),))
    assert opened(tmp_path).spec.channels == ("D_xx", "D_xy", "D_yx", "D_yy")


def test_the_folder_names_the_dataset(tmp_path: Path) -> None:
    one_file(tmp_path)
    assert opened(tmp_path).spec.name == "tiny"


@pytest.mark.parametrize("grid_type", ["cartesian", "spherical", "equiangular"])
def test_every_kind_of_grid_is_known(tmp_path: Path, grid_type: str) -> None:
    one_file(tmp_path, grid_type=grid_type)
    assert opened(tmp_path).spec.grid_type == grid_type


def test_scalars_may_vary_by_trajectory_and_time(tmp_path: Path) -> None:
    scalars = {
        "gamma": 1.5,
        "each": np.array([1.0, 2.0]),
        "ramp": np.arange(5.0),
        "both": np.arange(10.0).reshape(2, 5),
    }
    one_file(tmp_path, scalars=scalars)
    assert opened(tmp_path).trajectories[1].scalars == {
        "gamma": 1.5,
        "each": 2.0,
        "ramp": (0.0, 1.0, 2.0, 3.0, 4.0),
        "both": (5.0, 6.0, 7.0, 8.0, 9.0),
    }


def test_times_may_differ_by_trajectory(tmp_path: Path) -> None:
    one_file(tmp_path, times=np.array([[0, 1, 2, 3, 4], [0, 2, 4, 6, 9]]))
    assert [run.times[-1] for run in opened(tmp_path).trajectories] == [4.0, 9.0]


def test_steps_may_differ_between_files(tmp_path: Path) -> None:
    write_file(tmp_path / "tiny" / "data" / "train" / "a.hdf5", num_steps=3)
    write_file(tmp_path / "tiny" / "data" / "train" / "b.hdf5", num_steps=6)
    assert [run.num_steps for run in opened(tmp_path).trajectories] == [3, 3, 6, 6]


def test_trajectories_come_by_split_file_and_number(tmp_path: Path) -> None:
    write_dataset(tmp_path / "tiny")
    names = [run.name for run in opened(tmp_path).trajectories]
    assert names == [
        f"{file}#{n}" for file in ("train/a.hdf5", "train/b.hdf5", "valid/a.hdf5", "test/a.hdf5") for n in (0, 1)
    ]


def ends(low: bool, high: bool, size: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[0], mask[-1] = low, high
    return mask


def plane(*edges: str) -> np.ndarray:
    mask = np.zeros((AXES["x"], AXES["y"]), bool)
    where = {"low x": np.s_[0, :], "high x": np.s_[-1, :], "low y": np.s_[:, 0], "half of low x": np.s_[0, :2]}
    for edge in edges:
        mask[where[edge]] = True
    return mask


BOUNDARY_CASES = {
    "both sides": ([TinyBoundary("b", ("x",), "PERIODIC")], ((PERIODIC, PERIODIC), (OPEN, OPEN))),
    "lower case": ([TinyBoundary("b", ("y",), "wall")], ((OPEN, OPEN), (WALL, WALL))),
    "one side": ([TinyBoundary("b", ("x",), "Wall", ends(True, False, 4))], ((WALL, OPEN), (OPEN, OPEN))),
    "a side each": (
        [TinyBoundary("x0_wall", ("x",), "WALL", ends(True, False, 4)), TinyBoundary("xL_open", ("x",), "OPEN")],
        ((OPEN, OPEN), (OPEN, OPEN)),
    ),
    "an empty mask claims nothing": (
        [TinyBoundary("b", ("x",), "PERIODIC", ends(False, False, 4))],
        ((OPEN, OPEN), (OPEN, OPEN)),
    ),
    "a plane": ([TinyBoundary("b", ("x", "y"), "WALL", plane("low x", "low y"))], ((WALL, OPEN), (WALL, OPEN))),
    "half a wall is no wall": (
        [TinyBoundary("b", ("x", "y"), "WALL", plane("half of low x"))],
        ((OPEN, OPEN), (OPEN, OPEN)),
    ),
    "none": ([], ((OPEN, OPEN), (OPEN, OPEN))),
}


@pytest.mark.parametrize(("boundaries", "expected"), BOUNDARY_CASES.values(), ids=BOUNDARY_CASES)
def test_a_mask_claims_the_sides_that_it_covers(tmp_path: Path, boundaries: object, expected: object) -> None:
    one_file(tmp_path, boundaries=boundaries)
    assert opened(tmp_path).spec.boundaries == expected


def test_a_boundary_that_covers_no_side_is_warned_of(tmp_path: Path) -> None:
    one_file(tmp_path, boundaries=[TinyBoundary("lost", ("x",), "PERIODIC", ends(False, False, 4))])
    (warning,) = opened(tmp_path).warnings
    assert "boundary_conditions/lost" in warning


def test_associated_dims_may_be_a_bare_string(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["boundary_conditions/x_periodic"].attrs["associated_dims"] = "x"

    one_file(tmp_path, edit=edit)
    assert opened(tmp_path).spec.boundaries[0] == (PERIODIC, PERIODIC)


def test_rounding_to_single_precision_is_warned_of(tmp_path: Path) -> None:
    one_file(tmp_path, fields=(TinyField("pressure", dtype="f8"),))
    (warning,) = opened(tmp_path).warnings
    assert "t0_fields/pressure" in warning
    assert "float64" in warning


def test_a_source_may_be_any_url(tmp_path: Path) -> None:
    expected = one_file(tmp_path)
    source = open_well((tmp_path / "tiny").as_uri())
    np.testing.assert_array_equal(frames_of(source, 0), expected.frames[0])
