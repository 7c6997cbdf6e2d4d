"""Files in The Well's HDF5 format: the one place of this room that knows HDF5.

A file appears under its name only when it is whole. It holds no time of writing and nothing of the machine, so the same
trajectories give the same bytes.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from data_prep.simulate.case import Coordinates, System, Trajectory

FIELD_GROUPS = ("t0_fields", "t1_fields", "t2_fields")
"""Scalars, vectors and tensors."""


@dataclass(frozen=True)
class FileContent:
    """What one file says beside its fields. `times`: (frames,) float64."""

    system: System
    parameters: Mapping[str, float]
    coordinates: Coordinates
    times: NDArray[np.float64]
    num_trajectories: int


def _texts(values: Iterable[str]) -> NDArray[np.object_]:
    """An attribute that stays an array of text when it is empty; h5py would make it one of numbers."""
    return np.array(list(values), dtype=h5py.string_dtype())


def _write_array(
    group: h5py.Group, name: str, values: NDArray[np.generic], *, sample_varying: bool, time_varying: bool
) -> None:
    dataset = group.create_dataset(name, data=values, track_times=False)
    dataset.attrs["sample_varying"] = sample_varying
    dataset.attrs["time_varying"] = time_varying


def _write_root(file: h5py.File, content: FileContent) -> None:
    file.attrs["dataset_name"] = content.system.name
    file.attrs["grid_type"] = "cartesian"
    file.attrs["n_spatial_dims"] = len(content.system.axes)
    file.attrs["n_trajectories"] = content.num_trajectories
    file.attrs["simulation_parameters"] = _texts(content.parameters)
    for name, value in content.parameters.items():
        file.attrs[name] = float(value)


def _write_dimensions(file: h5py.File, content: FileContent) -> None:
    group = file.create_group("dimensions")
    group.attrs["spatial_dims"] = _texts(content.system.axes)
    times = content.times.astype(np.float32)
    _write_array(group, "time", times, sample_varying=False, time_varying=True)
    for axis, points in zip(content.system.axes, content.coordinates, strict=True):
        _write_array(group, axis, points.astype(np.float32), sample_varying=False, time_varying=False)


def _write_boundaries(file: h5py.File, content: FileContent) -> None:
    """One condition per axis, at both of its ends."""
    parent = file.create_group("boundary_conditions")
    boundary = content.system.boundary
    for axis, points in zip(content.system.axes, content.coordinates, strict=True):
        group = parent.create_group(f"{axis}_{boundary.lower()}")
        group.attrs["associated_dims"] = _texts([axis])
        group.attrs["associated_fields"] = _texts([])
        group.attrs["bc_type"] = boundary
        group.attrs["sample_varying"] = False
        group.attrs["time_varying"] = False
        mask = np.zeros(points.size, dtype=bool)
        mask[[0, -1]] = True
        group.create_dataset("mask", data=mask, track_times=False)


def _write_scalars(file: h5py.File, content: FileContent) -> None:
    group = file.create_group("scalars")
    group.attrs["field_names"] = _texts(content.parameters)
    for name, value in content.parameters.items():
        _write_array(group, name, np.asarray(np.float32(value)), sample_varying=False, time_varying=False)


def _create_fields(file: h5py.File, content: FileContent) -> dict[str, h5py.Dataset]:
    """Empty datasets of every field, by name: (trajectories, frames, *space, …) float32, contiguous."""
    system = content.system
    num_axes = len(system.axes)
    space = tuple(points.size for points in content.coordinates)
    leading = (content.num_trajectories, content.times.size, *space)
    fields = {}
    for rank, names in enumerate((system.scalar_fields, system.vector_fields, ())):
        group = file.create_group(FIELD_GROUPS[rank])
        group.attrs["field_names"] = _texts(names)
        for name in names:
            shape = leading + (num_axes,) * rank
            dataset = group.create_dataset(name, shape=shape, dtype=np.float32, track_times=False)
            dataset.attrs["dim_varying"] = np.ones(num_axes, dtype=bool)
            dataset.attrs["sample_varying"] = True
            dataset.attrs["time_varying"] = True
            fields[name] = dataset
    return fields


def _write_content(file: h5py.File, content: FileContent, trajectories: Iterable[Trajectory]) -> None:
    for part in (_write_root, _write_dimensions, _write_boundaries, _write_scalars):
        part(file, content)
    fields = _create_fields(file, content)
    for index, trajectory in zip(range(content.num_trajectories), trajectories, strict=True):
        for name, dataset in fields.items():
            values = trajectory[name]
            assert values.shape == dataset.shape[1:], (name, values.shape, dataset.shape)
            dataset[index] = values.astype(np.float32)


def write_file(path: Path, content: FileContent, trajectories: Iterable[Trajectory]) -> None:
    """Write as many trajectories as `content` says, as they come, and give the file its name when it is whole.

    Until then it is `NAME.part`: removed when the writing fails, overwritten by the next run when it is killed.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with h5py.File(part, "w") as file:
            _write_content(file, content, trajectories)
        with open(part, "rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_trajectories(path: Path) -> Iterator[Trajectory]:
    """The trajectories of a file that `write_file` wrote, one at a time, fields in their order."""
    with h5py.File(path, "r") as file:
        for index in range(int(file.attrs["n_trajectories"])):
            yield {
                name: file[group][name][index] for group in FIELD_GROUPS for name in file[group].attrs["field_names"]
            }
