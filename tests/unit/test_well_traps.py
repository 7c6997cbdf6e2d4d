"""The traps of The Well's format, one claim each; and every dataset of it in miniature, through both layouts."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract.errors import RefusedError
from data_prep.contract.fields import Boundary
from data_prep.sources.well import WellSource, open_well
from tests.unit.converting import LAYOUTS, SMALL, convert, stored_frames
from tests.unit.tiny_well import Edit, Expected, TinyBoundary, TinyField, write_file
from tests.unit.well_catalogue import CATALOGUE, Miniature

OPEN, PERIODIC = Boundary.OPEN, Boundary.PERIODIC
FIRST = "data/train/a.hdf5"


@pytest.fixture(autouse=True)
def _no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def written(folder: Path, **options: object) -> Expected:
    return write_file(folder / "tiny" / FIRST, **options)


def opened(folder: Path) -> WellSource:
    return open_well(str(folder / "tiny"))


def frames_of(source: WellSource, number: int = 0) -> np.ndarray:
    run = source.trajectories[number]
    frames = np.full((run.num_steps, *source.spec.frame_shape), np.nan, np.float32)
    with source.reader() as reader:
        reader.read_frames(run, 0, out=frames)
    return frames


def in_bfloat16(place: str) -> Edit:
    """The same values, rounded and stored contiguously in two bytes each, which h5py reads as float32."""
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)

    def edit(file: h5py.File) -> None:
        values, attributes = file[place][()], dict(file[place].attrs)
        del file[place]
        identifier = h5py.h5d.create(file.id, place.encode(), kind, h5py.h5s.create_simple(values.shape))
        h5py.Dataset(identifier)[...] = values
        file[place].attrs.update(attributes)

    return edit


def restored(place: str, **storage: object) -> Edit:
    """The same values, stored in another way."""

    def edit(file: h5py.File) -> None:
        values, attributes = file[place][()], dict(file[place].attrs)
        del file[place]
        file.create_dataset(place, data=values, **storage).attrs.update(attributes)

    return edit


# ---- every dataset of The Well

by_name = pytest.mark.parametrize("miniature", CATALOGUE, ids=lambda miniature: miniature.name)


def test_the_catalogue_is_whole() -> None:
    assert len({miniature.name for miniature in CATALOGUE}) == 23


@by_name
def test_a_dataset_of_the_well_is_what_its_page_says(tmp_path: Path, miniature: Miniature) -> None:
    miniature.write(tmp_path / miniature.name)
    source = open_well(str(tmp_path / miniature.name))
    spec = source.spec
    assert (spec.name, spec.grid_type) == (miniature.name, miniature.grid_type)
    assert list(zip(spec.spatial_dims, spec.resolution, strict=True)) == list(miniature.axes.items())
    assert spec.boundaries == tuple(miniature.sides)
    assert list(spec.channels) == miniature.channels
    assert [field.name for field in spec.constant_fields] == [field.name for field in miniature.constants]
    assert spec.scalars == tuple(miniature.parameters)
    assert [run.num_steps for run in source.trajectories if run.number == 0] == [
        miniature.steps[number] for number in (0, 1, 0, 0)
    ]
    assert len(source.warnings) == miniature.num_warnings
    for axis, values in miniature.coordinates.items():
        np.testing.assert_allclose(spec.coordinates[spec.spatial_dims.index(axis)], values, rtol=1e-6)


@by_name
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dataset_of_the_well_comes_back_bit_by_bit(tmp_path: Path, miniature: Miniature, layout: str) -> None:
    expected = miniature.write(tmp_path / miniature.name)
    assert convert(tmp_path / miniature.name, tmp_path / "out", layout, *SMALL) == 0
    frames = stored_frames(tmp_path / "out")
    assert len(frames) == sum(len(file.frames) for file in expected.values())
    for path, file in expected.items():
        for number, original in enumerate(file.frames):
            np.testing.assert_array_equal(frames[f"{path}#{number}"].view(np.uint32), original.view(np.uint32))
    assert main(["verify", str(tmp_path / "out"), "--against", str(tmp_path / miniature.name)]) == 0


# ---- how values may be stored

STORED: dict[str, dict[str, object]] = {
    "in one piece": {},
    "in chunks of several frames": {"chunks": (1, 3, 4, 6)},
    "in chunks that split a frame": {"chunks": (1, 2, 3, 5)},
    "compressed": {"chunks": (2, 1, 4, 6), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "compressed with lzf": {"chunks": (1, 2, 4, 6), "compression": "lzf"},
    "the other end first": {"dtype": ">f4"},
    "to grow": {"chunks": (1, 1, 4, 6), "maxshape": (None, None, 4, 6)},
}


@pytest.mark.parametrize("storage", STORED.values(), ids=STORED)
def test_values_are_read_however_they_are_stored(tmp_path: Path, storage: dict[str, object]) -> None:
    expected = written(tmp_path, edit=restored("t0_fields/pressure", **storage))
    np.testing.assert_array_equal(frames_of(opened(tmp_path)), expected.frames[0])


def test_a_file_of_pages_is_read(tmp_path: Path) -> None:
    """As the copies on the Hugging Face hub are packed."""
    expected = written(tmp_path)
    plain = tmp_path / "tiny" / FIRST
    paged = plain.with_name("paged.hdf5")
    with h5py.File(plain) as old, h5py.File(paged, "w", fs_strategy="page", fs_page_size=4096) as new:
        new.attrs.update(old.attrs)
        for name in old:
            old.copy(name, new)
    paged.replace(plain)
    np.testing.assert_array_equal(frames_of(opened(tmp_path)), expected.frames[0])


def test_a_filter_that_is_not_installed_is_named(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        attributes = dict(file["t0_fields/pressure"].attrs)
        del file["t0_fields/pressure"]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((1, 1, 4, 6))
        properties.set_filter(32_999, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((2, 5, 4, 6))
        h5py.h5d.create(file["t0_fields"].id, b"pressure", h5py.h5t.IEEE_F32LE, space, properties)
        file["t0_fields/pressure"].id.write_direct_chunk((0, 0, 0, 0), bytes(96), filter_mask=0)
        file["t0_fields/pressure"].attrs.update(attributes)

    written(tmp_path, edit=edit)
    with pytest.raises(RefusedError, match=r"a\.hdf5:/t0_fields/pressure: .* HDF5_PLUGIN_PATH"):
        frames_of(opened(tmp_path))


# ---- names

NAMES_AS_BYTES = np.array([b"pressure"])


def test_names_may_be_bytes(tmp_path: Path) -> None:
    written(tmp_path, edit=lambda file: file["t0_fields"].attrs.__setitem__("field_names", NAMES_AS_BYTES))
    assert opened(tmp_path).spec.channels[0] == "pressure"


def test_channels_of_one_name_are_refused(tmp_path: Path) -> None:
    written(tmp_path, fields=(TinyField("velocity_x"), TinyField("velocity", rank=1)))
    with pytest.raises(RefusedError, match=r"channels of one name, \['velocity_x'\]; rename"):
        opened(tmp_path)


def test_a_field_that_two_groups_have_is_refused(tmp_path: Path) -> None:
    written(tmp_path, fields=(TinyField("velocity"), TinyField("velocity", rank=1)))
    with pytest.raises(RefusedError, match="field names repeat"):
        opened(tmp_path)


def test_a_field_that_no_name_announces_is_warned_of(tmp_path: Path) -> None:
    written(tmp_path, edit=lambda file: file["t0_fields"].attrs.__setitem__("field_names", []))
    (warning,) = opened(tmp_path).warnings
    assert "`field_names` does not name ['pressure'], which are left out" in warning


# ---- times, scalars, grids


def test_times_of_each_trajectory_need_no_flag(tmp_path: Path) -> None:
    times = np.array([[0, 1, 2, 3, 4], [0, 2, 4, 6, 9]])
    written(tmp_path, times=times, edit=lambda file: file["dimensions/time"].attrs.__delitem__("sample_varying"))
    assert [run.times[-1] for run in opened(tmp_path).trajectories] == [4.0, 9.0]


def test_no_steps_are_refused(tmp_path: Path) -> None:
    written(tmp_path, num_steps=0)
    with pytest.raises(RefusedError, match=r"dimensions/time: has shape \(0,\), expected .* at least one step"):
        opened(tmp_path)


SINGLETONS = {"for all": (1,), "of each trajectory": (2, 1), "of each step": (1, 5)}


@pytest.mark.parametrize("shape", SINGLETONS.values(), ids=SINGLETONS)
def test_a_scalar_may_keep_axes_along_which_it_does_not_vary(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)

    def edit(file: h5py.File) -> None:
        file["scalars/nu"] = values
        flags = {"sample_varying": shape[0] == 2, "time_varying": shape[-1] == 5}
        file["scalars/nu"].attrs.update(flags)
        file["scalars"].attrs["field_names"] = ["nu"]

    written(tmp_path, edit=edit)
    expected = {"for all": 1.0, "of each trajectory": 2.0, "of each step": (1.0, 2.0, 3.0, 4.0, 5.0)}
    name = next(name for name, known in SINGLETONS.items() if known == shape)
    assert opened(tmp_path).trajectories[1].scalars == {"nu": expected[name]}


def moved(amount: float) -> Edit:
    def edit(file: h5py.File) -> None:
        file["dimensions/x"][1] += np.float32(amount)

    return edit


def test_grids_that_differ_by_rounding_are_the_same(tmp_path: Path) -> None:
    written(tmp_path)
    write_file(tmp_path / "tiny" / "data/train/b.hdf5", edit=moved(1e-7))
    source = opened(tmp_path)
    assert source.spec.coordinates[0][1] == np.float32(1 / 3)
    assert "b.hdf5: its grid differs from the first file's by rounding" in source.warnings[0]


def test_grids_that_differ_by_more_are_not(tmp_path: Path) -> None:
    written(tmp_path)
    write_file(tmp_path / "tiny" / "data/train/b.hdf5", edit=moved(1e-3))
    with pytest.raises(RefusedError, match="disagree in coordinates"):
        opened(tmp_path)


def test_every_kind_of_file_is_told_at_once(tmp_path: Path) -> None:
    for name, gamma in (("a", {}), ("b", {"gamma": 1.4}), ("c", {"gamma": 1.2}), ("d", {"nu": 1.0})):
        write_file(tmp_path / "tiny" / f"data/train/{name}.hdf5", scalars=gamma)
    with pytest.raises(RefusedError) as refused:
        opened(tmp_path)
    said = str(refused.value)
    assert "a.hdf5 has ();" in said
    assert "b.hdf5 (as 1 others) has ('gamma',);" in said
    assert "d.hdf5 has ('nu',);" in said


# ---- boundaries


def test_two_groups_that_claim_one_side_are_warned_of(tmp_path: Path) -> None:
    written(tmp_path, boundaries=[TinyBoundary("a", ("x",), "PERIODIC"), TinyBoundary("b", ("x",), "WALL")])
    warnings = opened(tmp_path).warnings
    assert len(warnings) == 2
    assert "b: claims the low side of x, which another group makes periodic" in warnings[0]


def test_a_mask_may_be_of_numbers(tmp_path: Path) -> None:
    mask = np.array([1, 0, 0, 1], np.int8)
    written(tmp_path, boundaries=[TinyBoundary("b", ("x",), "PERIODIC", mask)])
    assert opened(tmp_path).spec.boundaries[0] == (PERIODIC, PERIODIC)


def test_bfloat16_comes_out_as_h5py_reads_it(tmp_path: Path) -> None:
    written(tmp_path, edit=in_bfloat16("t0_fields/pressure"))
    with h5py.File(tmp_path / "tiny" / FIRST) as file:
        expected = file["t0_fields/pressure"][0]
    assert np.array_equal(frames_of(opened(tmp_path))[:, 0], expected)


def test_bfloat16_cannot_be_referred_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, edit=in_bfloat16("t0_fields/pressure"))
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), "--reference"]) == 2
    assert "its values are stored of type float of 2 bytes" in capsys.readouterr().err


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_array_may_have_two_names(tmp_path: Path, layout: str) -> None:
    def named_again(file: h5py.File) -> None:
        file["t0_fields/dye"] = file["t0_fields/pressure"]
        file["t0_fields"].attrs["field_names"] = ["pressure", "dye"]

    expected = written(tmp_path, edit=named_again)
    assert convert(tmp_path / "tiny", tmp_path / "out", layout) == 0
    for stored, frames in zip(stored_frames(tmp_path / "out").values(), expected.frames, strict=True):
        assert np.array_equal(stored[:, :2], frames[:, [0, 0]])


@pytest.mark.parametrize("points", [[0.0, 2, 1, 3], [0.0, 0, 0, 0]])
def test_a_grid_out_of_order_is_told(tmp_path: Path, points: list[float]) -> None:
    def disordered(file: h5py.File) -> None:
        file["dimensions/x"][...] = points

    written(tmp_path, edit=disordered)
    assert any("axis `x` goes neither up nor down throughout" in warning for warning in opened(tmp_path).warnings)
