"""A small writer of The Well's format for tests of the reader: every feature, and a hook to break what it wrote.

Written apart from `data_prep.simulate.well_writer`, so that writer and reader do not share a misunderstanding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Edit = Callable[[h5py.File], None]
AXES = {"x": 4, "y": 6}


@dataclass(frozen=True)
class TinyField:
    """One field as it shall be stored."""

    name: str
    rank: int = 0
    sample_varying: bool = True
    time_varying: bool = True
    dim_varying: tuple[bool, ...] | None = None
    drops_axes: bool = False
    """Whether an axis along which it does not vary is absent rather than kept with length 1."""
    dtype: str = "f4"


@dataclass(frozen=True)
class TinyBoundary:
    """One group of boundary conditions."""

    name: str
    dims: tuple[str, ...]
    kind: str
    mask: Any = None
    """None: both ends of the axis."""


@dataclass(frozen=True)
class Expected:
    """What a reader must give, for one file."""

    frames: list[np.ndarray]
    """Of each trajectory: (time, channel, *space)."""
    constants: list[np.ndarray]
    """Of each trajectory: (constant channel, *space)."""


DEFAULT_FIELDS = (TinyField("pressure"), TinyField("velocity", rank=1))
DEFAULT_BOUNDARIES = (TinyBoundary("x_periodic", ("x",), "PERIODIC"), TinyBoundary("y_periodic", ("y",), "PERIODIC"))


def write_file(
    path: Path,
    *,
    num_trajectories: int = 2,
    num_steps: int = 5,
    axes: dict[str, int] | None = None,
    fields: Sequence[TinyField] = DEFAULT_FIELDS,
    boundaries: Sequence[TinyBoundary] = DEFAULT_BOUNDARIES,
    scalars: dict[str, Any] | None = None,
    times: np.ndarray | None = None,
    grid_type: str = "cartesian",
    seed: int = 0,
    edit: Edit | None = None,
) -> Expected:
    """Write one file and give what it contains. `times`: (time,) or (trajectory, time)."""
    axes = axes or AXES
    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames: list[np.ndarray] = []
    constants: list[np.ndarray] = []
    with h5py.File(path, "w") as file:
        file.attrs["dataset_name"] = "one_name_for_all"
        file.attrs["grid_type"] = grid_type
        file.attrs["n_spatial_dims"] = len(axes)
        file.attrs["n_trajectories"] = num_trajectories
        _write_dimensions(file, axes, np.arange(num_steps) * 0.1 if times is None else times)
        _write_boundaries(file, axes, boundaries)
        _write_scalars(file, scalars or {}, num_steps=num_steps)
        for rank in range(3):
            members = [field for field in fields if field.rank == rank]
            group = file.create_group(f"t{rank}_fields")
            group.attrs["field_names"] = [field.name for field in members]
            for field in members:
                shape = (num_trajectories, num_steps, *axes.values())
                full = _write_field(group, field, shape, generator)
                (frames if field.time_varying else constants).append(full)
        file.create_group("additional_information").attrs["who"] = "readers ignore unknown groups"
        if edit:
            edit(file)
    channel = -len(axes) - 1
    return Expected(
        frames=[
            np.concatenate([full[number] for full in frames], axis=channel)
            for number in range(num_trajectories if frames else 0)
        ],
        constants=[
            np.concatenate([full[number, 0] for full in constants], axis=channel)
            for number in range(num_trajectories if constants else 0)
        ],
    )


def write_dataset(folder: Path, **options: Any) -> dict[str, Expected]:
    """`folder/data/{train,valid,test}/*.hdf5`; gives what each file contains, by its path below `data`."""
    expected = {}
    for seed, path in enumerate(("train/a.hdf5", "train/b.hdf5", "valid/a.hdf5", "test/a.hdf5")):
        expected[path] = write_file(folder / "data" / path, **{"seed": seed, **options})
    return expected


def _write_dimensions(file: h5py.File, axes: dict[str, int], times: np.ndarray) -> None:
    group = file.create_group("dimensions")
    group.attrs["spatial_dims"] = list(axes)
    group["time"] = np.asarray(times, "f4")
    group["time"].attrs.update({"sample_varying": np.ndim(times) == 2, "time_varying": True})
    for name, size in axes.items():
        group[name] = np.linspace(0, 1, size, dtype="f4")
        group[name].attrs.update({"sample_varying": False, "time_varying": False})


def _write_boundaries(file: h5py.File, axes: dict[str, int], boundaries: Sequence[TinyBoundary]) -> None:
    parent = file.create_group("boundary_conditions")
    for boundary in boundaries:
        group = parent.create_group(boundary.name)
        group.attrs["associated_dims"] = list(boundary.dims)
        group.attrs["associated_fields"] = []
        group.attrs["bc_type"] = boundary.kind
        group.attrs.update({"sample_varying": False, "time_varying": False})
        ends = np.zeros([axes.get(name, 1) for name in boundary.dims], bool)
        ends[[0, -1]] = True
        group["mask"] = ends if boundary.mask is None else boundary.mask


def _write_scalars(file: h5py.File, scalars: dict[str, Any], *, num_steps: int) -> None:
    """A number; or an array, whose last axis is time if it has that length."""
    file.attrs["simulation_parameters"] = list(scalars)
    group = file.create_group("scalars")
    group.attrs["field_names"] = list(scalars)
    for name, value in scalars.items():
        shape = np.shape(value)
        group[name] = np.asarray(value)
        time_varying = shape[-1:] == (num_steps,)
        group[name].attrs.update({"sample_varying": len(shape) > time_varying, "time_varying": time_varying})
        file.attrs[name] = float(np.ravel(value)[0])


def _write_field(
    group: h5py.Group, field: TinyField, shape: tuple[int, ...], generator: np.random.Generator
) -> np.ndarray:
    """Store a field as its flags say; gives it in full: (trajectory, time, component, *space)."""
    num_trajectories, num_steps, *space = shape
    dim_varying = field.dim_varying or (True,) * len(space)
    kept = [size if varies else 1 for size, varies in zip(space, dim_varying, strict=True)]
    tensor = [len(space)] * field.rank
    leading = [num_trajectories if field.sample_varying else 1, num_steps if field.time_varying else 1]
    values = generator.standard_normal([*leading, *kept, *tensor]).astype(field.dtype)
    stored = values
    if field.drops_axes:
        axes = tuple(2 + axis for axis, varies in enumerate(dim_varying) if not varies)
        stored = stored.squeeze(axes)
    stored = stored if field.time_varying else stored[:, 0]
    stored = stored if field.sample_varying else stored[0]
    dataset = group.create_dataset(field.name, data=stored)
    flags = {"sample_varying": field.sample_varying, "time_varying": field.time_varying}
    dataset.attrs.update({**flags, "dim_varying": list(dim_varying)})
    full = np.broadcast_to(values, [num_trajectories, leading[1], *space, *tensor]).astype("f4")
    components = full.reshape(num_trajectories, leading[1], *space, len(space) ** field.rank)
    return np.moveaxis(components, -1, 2)
