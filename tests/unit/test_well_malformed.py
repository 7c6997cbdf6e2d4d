"""What is no file of The Well's format is refused, by one message that names file and place."""

import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract.errors import NotFoundError, RefusedError
from data_prep.sources.well import HdfNode, open_well
from tests.unit.tiny_well import AXES, Edit, TinyField, write_file


def one_file(folder: Path, **options: object) -> None:
    write_file(folder / "tiny" / "data" / "train" / "a.hdf5", **options)


def attribute(place: str, name: str, value: object) -> Edit:
    return lambda file: file[place].attrs.__setitem__(name, value)


def no_attribute(place: str, name: str) -> Edit:
    return lambda file: file[place].attrs.__delitem__(name)


def no_child(place: str) -> Edit:
    return lambda file: file.__delitem__(place)


def replaced(place: str, values: object) -> Edit:
    def edit(file: h5py.File) -> None:
        attributes = dict(file[place].attrs)
        del file[place]
        file[place] = values
        file[place].attrs.update(attributes)

    return edit


def external(file: h5py.File) -> None:
    del file["t0_fields/pressure"]
    file["t0_fields/pressure"] = h5py.ExternalLink("/etc/other.hdf5", "/secret")


def external_by_a_link(file: h5py.File) -> None:
    attributes = dict(file["t0_fields/pressure"].attrs)
    values = file["t0_fields/pressure"][()]
    del file["t0_fields/pressure"]
    other = Path(file.filename).parents[2] / "other.hdf5"
    with h5py.File(other, "w") as elsewhere:
        elsewhere["pressure"] = values + 1
        elsewhere["pressure"].attrs.update(attributes)
    file["hidden"] = h5py.ExternalLink(str(other), "/")
    file["t0_fields/pressure"] = h5py.SoftLink("/hidden/pressure")


def elsewhere(file: h5py.File) -> None:
    attributes = dict(file["t0_fields/pressure"].attrs)
    del file["t0_fields/pressure"]
    shape = (2, 5, *AXES.values())
    dataset = file["t0_fields"].create_dataset("pressure", shape, "f4", external=[("/etc/hostname", 0, 960)])
    dataset.attrs.update(attributes)


def group_for_axis(file: h5py.File) -> None:
    del file["dimensions/x"]
    file.create_group("dimensions/x")


WALLS = "boundary_conditions/x_periodic"
MALFORMED = {
    "no dimensions": (no_child("dimensions"), "has no `dimensions`"),
    "no boundary conditions": (no_child("boundary_conditions"), "has no `boundary_conditions`"),
    "no scalars": (no_child("scalars"), "has no `scalars`"),
    "no tensors": (no_child("t2_fields"), "has no `t2_fields`"),
    "no time": (no_child("dimensions/time"), "has no `time`"),
    "no axis": (no_child("dimensions/y"), "has no `y`"),
    "no mask": (no_child("boundary_conditions/x_periodic/mask"), "has no `mask`"),
    "a field that is only named": (no_child("t0_fields/pressure"), "has no `pressure`"),
    "no field names": (no_attribute("t0_fields", "field_names"), "no attribute `field_names`"),
    "no trajectories": (no_attribute("/", "n_trajectories"), "no attribute `n_trajectories`"),
    "no flags": (no_attribute("t0_fields/pressure", "dim_varying"), "no attribute `dim_varying`"),
    "too few flags": (attribute("t0_fields/pressure", "dim_varying", [True]), "attribute `dim_varying` is"),
    "a flag that is none": (attribute("t0_fields/pressure", "time_varying", 7), "expected true or false"),
    "wrong number of axes": (attribute("/", "n_spatial_dims", 3), "expected n_spatial_dims=3"),
    "wrong number of trajectories": (attribute("/", "n_trajectories", 3), "expected (3, 5, 4, 6)"),
    "an axis named twice": (attribute("dimensions", "spatial_dims", ["x", "x"]), "expected each name once"),
    "an unknown grid": (attribute("/", "grid_type", "hexagonal"), "grid_type"),
    "an unknown boundary": (attribute(WALLS, "bc_type", "SLIPPY"), "WALL, OPEN or PERIODIC"),
    "a boundary of no axis": (
        attribute(WALLS, "associated_dims", ["r"]),
        "some of ('x', 'y')",
    ),
    "a mask of another length": (replaced(f"{WALLS}/mask", np.ones(9, bool)), "expected (4,)"),
    "a mask of texts": (replaced(f"{WALLS}/mask", np.full(4, b"no")), "expected true or false"),
    "flags of texts": (attribute("t0_fields/pressure", "dim_varying", ["no", "no"]), "attribute `dim_varying` is"),
    "a name that is no UTF-8": (attribute("t0_fields", "field_names", np.array([b"\xff"])), r"has no `\xff`"),
    "a boundary that is no UTF-8": (attribute(WALLS, "bc_type", np.bytes_(b"\xff")), "expected WALL, OPEN or PERIODIC"),
    "times too short": (replaced("dimensions/time", np.arange(4.0)), "t0_fields/pressure: has shape (2, 5, 4, 6)"),
    "times of two axes": (replaced("dimensions/time", np.zeros((3, 5))), "expected (5,)"),
    "times that stand still": (
        replaced("dimensions/time", np.array([0.0, 1, 1, 2, 3], "f4")),
        "time of frame 2 of trajectory 0 is 1, expected one after 1",
    ),
    "times that go back": (
        replaced("dimensions/time", np.arange(5.0)[::-1]),
        "time of frame 1 of trajectory 0 is 3, expected one after 4",
    ),
    "periodic at one side": (
        replaced(f"{WALLS}/mask", np.array([True, False, False, False])),
        "boundaries of x are periodic and open; expected periodic at both or none",
    ),
    "times that are none": (replaced("dimensions/time", np.full(5, np.nan)), "no finite numbers"),
    "times that are texts": (
        replaced("dimensions/time", np.full(5, b"1 s")),
        "has values of type |S3, expected numbers",
    ),
    "times with units": (
        replaced("dimensions/time", np.zeros(5, [("seconds", "f4"), ("unit", "S2")])),
        "has values of type [('seconds', '<f4'), ('unit', 'S2')], expected numbers",
    ),
    "a grid with holes": (replaced("dimensions/x", np.array([0, np.inf, 2, 3])), "no finite numbers"),
    "a grid that moves": (attribute("dimensions/x", "time_varying", True), "grids that move"),
    "a field of another size": (replaced("t0_fields/pressure", np.zeros((2, 5, 4, 7), "f4")), "expected (2, 5, 4, 6)"),
    "a vector of three": (replaced("t1_fields/velocity", np.zeros((2, 5, 4, 6, 3), "f4")), "expected (2, 5, 4, 6, 2)"),
    "a field of texts": (replaced("t0_fields/pressure", np.full((2, 5, 4, 6), b"1")), "expected float32"),
    "a group for an array": (
        lambda file: (no_child("dimensions/x")(file), file.create_group("dimensions/x")),
        "is a group",
    ),
    "an array for a group": (replaced("scalars", np.zeros(3)), "expected a group"),
    "a flag against the shape": (attribute("t0_fields/pressure", "time_varying", False), "expected (2, 4, 6)"),
    "a name that is a path": (attribute("t0_fields", "field_names", ["../../x"]), "has no `../../x`"),
    "a link to another file": (external, "points into another file"),
    "a link to a link to another file": (external_by_a_link, "points into another file"),
    "times of no axis": (replaced("dimensions/time", 1.0), "expected one axis, or two"),
    "trajectories beyond all sense": (attribute("/", "n_trajectories", 10**10), "10000000000 trajectories"),
    "a mask of no numbers": (replaced(f"{WALLS}/mask", np.full(4, np.nan)), "no finite numbers"),
    "values in another file": (elsewhere, "keeps its values in other files"),
}


@pytest.mark.parametrize(("edit", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file_is_refused_by_name_and_place(
    tmp_path: Path, edit: Edit, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command line: exit code 2, one message of what, where and what to do, and nothing written."""
    one_file(tmp_path, edit=edit)
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), "--format", "zarr"]) == 2
    said = capsys.readouterr()
    where = tmp_path / "tiny" / "data" / "train" / "a.hdf5"
    assert said.err.startswith(f"refused: {where}:/")
    assert message in said.err
    assert said.err.endswith("repair the file or take it out of the dataset\n")
    assert (said.err.count("\n"), said.out) == (1, "")
    assert not (tmp_path / "out").exists()


def test_a_file_in_which_nothing_moves_is_refused(tmp_path: Path) -> None:
    one_file(tmp_path, fields=(TinyField("mask", time_varying=False),))
    with pytest.raises(RefusedError, match="no field varies in time"):
        open_well(str(tmp_path / "tiny"))


def test_a_folder_whose_name_can_be_no_datasets_is_refused(tmp_path: Path) -> None:
    write_file(tmp_path / "two words" / "data" / "train" / "a.hdf5")
    with pytest.raises(
        RefusedError, match="folder, which names the dataset, is called `two words`; rename it to letters"
    ):
        open_well(str(tmp_path / "two words"))


def test_a_truncated_file_is_refused_by_name(tmp_path: Path) -> None:
    one_file(tmp_path)
    path = tmp_path / "tiny" / "data" / "train" / "a.hdf5"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(RefusedError, match=r"train/a\.hdf5: cannot be read as HDF5: .*truncated"):
        open_well(str(tmp_path / "tiny"))


def test_a_link_to_nothing_is_refused_by_name(tmp_path: Path) -> None:
    one_file(tmp_path)
    (tmp_path / "tiny" / "data" / "valid").mkdir()
    (tmp_path / "tiny" / "data" / "valid" / "b.hdf5").symlink_to(tmp_path / "gone.hdf5")
    with pytest.raises(RefusedError, match=r"valid/b\.hdf5: is no file"):
        open_well(str(tmp_path / "tiny"))


def test_a_folder_named_like_a_file_is_refused_by_name(tmp_path: Path) -> None:
    one_file(tmp_path)
    (tmp_path / "tiny" / "data" / "train" / "b.h5").mkdir()
    with pytest.raises(RefusedError, match=r"train/b\.h5: is no file"):
        open_well(str(tmp_path / "tiny"))


def zeroed(path: Path, start: float, stop: float) -> None:
    """Fill a part of a file, in shares of its length, with zeros."""
    data = path.read_bytes()
    first, last = round(start * len(data)), round(stop * len(data))
    path.write_bytes(data[:first] + bytes(last - first) + data[last:])


@pytest.mark.parametrize("verb", ["convert", "show", "statistics"])
def test_a_file_damaged_behind_its_header_is_refused(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one_file(tmp_path)
    zeroed(tmp_path / "tiny" / "data" / "train" / "a.hdf5", 1 / 3, 2 / 3)
    options = [str(tmp_path / "out"), "--format", "zarr"] if verb == "convert" else []
    assert main([verb, str(tmp_path / "tiny"), *options]) == 2
    assert re.match(r"refused: \S*train/a\.hdf5\S*: cannot be read as HDF5: ", capsys.readouterr().err)


def test_damage_is_refused_wherever_it_is_met(tmp_path: Path) -> None:
    """Every node's own methods, for the library answers with any of several exceptions."""
    one_file(tmp_path)
    with h5py.File(tmp_path / "tiny" / "data" / "train" / "a.hdf5") as file:
        node = HdfNode(file["t0_fields/pressure"], "a.hdf5", "t0_fields/pressure")
        group = HdfNode(file["t0_fields"], "a.hdf5", "t0_fields")
    meets = [
        lambda: node.shape,
        lambda: node.dtype,
        node.read,
        group.children,
    ]
    for meet in meets:  # a closed file fails like a damaged one
        with pytest.raises(RefusedError, match=r"a\.hdf5:/t0_fields\S*: cannot be read as HDF5"):
            meet()


def test_a_file_that_is_no_hdf5_is_refused_by_name(tmp_path: Path) -> None:
    one_file(tmp_path)
    (tmp_path / "tiny" / "data" / "train" / "b.hdf5").write_text("hello")
    with pytest.raises(RefusedError, match=r"train/b\.hdf5: cannot be read as HDF5"):
        open_well(str(tmp_path / "tiny"))


@pytest.mark.parametrize("name", [b"a\x1b[31mred.hdf5", b"a\nb.hdf5", b"\xff.hdf5"])
def test_a_file_whose_name_no_manifest_can_have_is_refused_before_it_is_read(
    tmp_path: Path, name: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    one_file(tmp_path)
    folder = tmp_path / "tiny" / "data" / "train"
    (folder / "a.hdf5").rename(folder / os.fsdecode(name))
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), "--format", "zarr"]) == 2
    said = capsys.readouterr().err
    assert "holds control characters or what is no UTF-8; rename it" in said
    assert "\x1b" not in said
    assert not (tmp_path / "out").exists()


def test_every_malformed_file_is_named_at_once(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        edit = no_child("scalars") if name != "b" else None
        write_file(tmp_path / "tiny" / "data" / "train" / f"{name}.hdf5", edit=edit)
    with pytest.raises(RefusedError, match=r"2 of 3 files cannot be used:\n  .*a\.hdf5.*\n  .*c\.hdf5"):
        open_well(str(tmp_path / "tiny"))


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no HDF5 files below it in data/train"):
        open_well(str(tmp_path))


DISAGREEING = {
    "fields": {"fields": (TinyField("pressure"), TinyField("momentum", rank=1))},
    "resolution": {"axes": {"x": 4, "y": 8}},
    "boundaries": {"boundaries": ()},
    "spatial_dims": {"axes": {"x": 4, "z": 6}, "boundaries": ()},
    "scalars": {"scalars": {"gamma": 1.4}},
    "grid_type": {"grid_type": "spherical"},
}


@pytest.mark.parametrize(("key", "options"), DISAGREEING.items(), ids=DISAGREEING)
def test_files_that_disagree_are_both_named(tmp_path: Path, key: str, options: dict[str, object]) -> None:
    one_file(tmp_path)
    write_file(tmp_path / "tiny" / "data" / "valid" / "b.hdf5", **options)
    with pytest.raises(RefusedError) as refused:
        open_well(str(tmp_path / "tiny"))
    message = str(refused.value)
    assert "valid/b.hdf5" in message
    assert "train/a.hdf5" in message
    assert f"disagree in {key}" in message
