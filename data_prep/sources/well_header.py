"""What the header of one file in The Well's format says, every attribute checked. Reads no field data, knows no h5py.

Follows the semantics of the-well's own reader, apart from its defects: an axis along which a field does not vary may
be absent or kept with length 1, and type names may have any case. Raises RefusedError naming file and place.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from data_prep.contract.errors import RefusedError
from data_prep.contract.fields import Boundary, DatasetSpec, Field
from data_prep.contract.strict_yaml.explain import faults_of
from data_prep.sources.well_attributes import (
    FloatArray,
    Node,
    finite,
    flag_of,
    integer_of,
    names_of,
    plain,
    required,
    wrong,
)

MAX_TIMES = 2**24
"""Bound on the frames of a file, hence on the entries of a time axis or a scalar that we read into memory."""


@dataclass(frozen=True)
class FieldLayout:
    """Where a field lies in the file and where its components go in the fused buffer."""

    place: str
    """`t1_fields/velocity`."""
    first_channel: int
    num_components: int
    is_sample_varying: bool
    kept_shape: tuple[int, ...]
    """The spatial shape as stored, with 1 for each axis along which the field does not vary."""

    @property
    def step_bytes(self) -> int:
        """Of one step of one trajectory, stored as float32."""
        return 4 * math.prod(self.kept_shape) * self.num_components


@dataclass(frozen=True)
class Header:
    """One file, without its field data."""

    spec: DatasetSpec
    num_trajectories: int
    times: FloatArray
    """(trajectory, time)."""
    scalars: dict[str, FloatArray]
    """(trajectory,) or (trajectory, time)."""
    fields: tuple[FieldLayout, ...]
    constant_fields: tuple[FieldLayout, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Sizes:
    trajectories: int
    steps: int
    dims: tuple[str, ...]
    resolution: tuple[int, ...]


def read_header(root: Node, dataset_name: str) -> Header:
    """Check one file and say what is in it."""
    warnings: list[str] = []
    dimensions = root.group("dimensions")
    dims = names_of(dimensions, "spatial_dims")
    if len(dims) != integer_of(root, "n_spatial_dims"):
        raise wrong(
            dimensions, "spatial_dims", found=dims, expected=f"n_spatial_dims={integer_of(root, 'n_spatial_dims')}"
        )
    coordinates = tuple(_coordinates(dimensions, dim) for dim in dims)
    time_node = dimensions.array("time")
    num_trajectories = integer_of(root, "n_trajectories")
    num_steps = _num_steps(time_node, num_trajectories=num_trajectories)
    sizes = _Sizes(num_trajectories, num_steps, dims, tuple(len(axis) for axis in coordinates))
    varying, constant = _field_layouts(root, sizes, warnings)
    scalars = _scalars(root, sizes, warnings)
    spec = _spec_of(
        root,
        {
            "name": dataset_name,
            "grid_type": str(plain(root.attribute("grid_type"))).lower(),
            "spatial_dims": dims,
            "resolution": sizes.resolution,
            "boundaries": _boundaries(root.group("boundary_conditions"), sizes, warnings),
            "fields": tuple(field for field, _ in varying),
            "constant_fields": tuple(field for field, _ in constant),
            "scalars": tuple(scalars),
            "coordinates": coordinates,
        },
    )
    return Header(
        spec=spec,
        num_trajectories=num_trajectories,
        times=_times(time_node, sizes),
        scalars=scalars,
        fields=tuple(layout for _, layout in varying),
        constant_fields=tuple(layout for _, layout in constant),
        warnings=tuple(warnings),
    )


def _spec_of(root: Node, facts: dict[str, Any]) -> DatasetSpec:
    try:
        return DatasetSpec.model_validate(facts)
    except ValidationError as error:
        if any(each["loc"] == ("name",) for each in error.errors()):
            raise RefusedError(
                f"{root.place}: its dataset's folder, which names the dataset, is called `{facts['name']}`; rename it "
                "to letters, digits, `_`, `.` and `-`, the first a letter or digit"
            ) from error
        raise RefusedError(f"{root.place}: {faults_of(error, facts, DatasetSpec)[0]}") from error


def _coordinates(dimensions: Node, dim: str) -> tuple[float, ...]:
    node = dimensions.array(dim)
    for flag in ("sample_varying", "time_varying"):
        if flag_of(node, flag, default=False):
            raise RefusedError(f"{node.place}: {flag} is true, but grids that move or differ are not supported")
    if len(node.shape) != 1 or not 1 <= node.shape[0] <= 2**20:
        raise RefusedError(f"{node.place}: has shape {node.shape}, expected one axis of at most {2**20} points")
    return tuple(finite(node, node.read()).tolist())


def _num_steps(node: Node, *, num_trajectories: int) -> int:
    """The length of the time axis. Every array of times and scalars is at most this times the trajectories."""
    if not node.shape or not node.shape[-1]:
        raise RefusedError(f"{node.place}: has shape {node.shape}, expected one axis, or two, of at least one step")
    if num_trajectories * node.shape[-1] > MAX_TIMES:
        raise RefusedError(
            f"{node.place}: {num_trajectories} trajectories (n_trajectories) of {node.shape[-1]} steps are more than "
            f"{MAX_TIMES} frames, which no file of sense holds; correct the header, or split the file"
        )
    return node.shape[-1]


def _times(node: Node, sizes: _Sizes) -> FloatArray:
    """(trajectory, time)."""
    is_sample_varying = flag_of(node, "sample_varying", default=len(node.shape) == 2)
    expected = (sizes.trajectories, sizes.steps) if is_sample_varying else (sizes.steps,)
    if node.shape != expected:
        raise RefusedError(f"{node.place}: has shape {node.shape}, expected {expected}")
    times = np.broadcast_to(finite(node, node.read()), (sizes.trajectories, sizes.steps))
    not_later = np.argwhere(np.diff(times) <= 0)
    if len(not_later):
        run, frame = not_later[0].tolist()
        raise RefusedError(
            f"{node.place}: time of frame {frame + 1} of trajectory {run} is {times[run, frame + 1]:.9g}, expected one "
            f"after {times[run, frame]:.9g}, that of the frame before"
        )
    return times


def _scalars(root: Node, sizes: _Sizes, warnings: list[str]) -> dict[str, FloatArray]:
    group = root.group("scalars")
    names = names_of(group, "field_names")
    missing = [name for name in names_of(root, "simulation_parameters") if name not in names]
    if missing:
        warnings.append(f"{root.place}: simulation_parameters {missing} have no array in /scalars and are left out")
    scalars = {}
    for name in names:
        node = group.array(name)
        is_sample_varying, is_time_varying = flag_of(node, "sample_varying"), flag_of(node, "time_varying")
        kept = (sizes.trajectories if is_sample_varying else 1, sizes.steps if is_time_varying else 1)
        expected = kept[0 if is_sample_varying else 1 : 2 if is_time_varying else 1]
        if node.shape not in (expected, kept, kept[:1]) or math.prod(node.shape) != math.prod(kept):
            raise RefusedError(f"{node.place}: has shape {node.shape}, expected {expected} by its attributes")
        values = finite(node, node.read()).reshape(kept if is_time_varying else kept[:1])
        scalars[name] = np.broadcast_to(values, (sizes.trajectories, *values.shape[1:]))
    return scalars


def _field_layouts(
    root: Node, sizes: _Sizes, warnings: list[str]
) -> tuple[list[tuple[Field, FieldLayout]], list[tuple[Field, FieldLayout]]]:
    """(varying in time, constant), each in channel order: scalars, vectors, tensors, as named by `field_names`."""
    varying: list[tuple[Field, FieldLayout]] = []
    constant: list[tuple[Field, FieldLayout]] = []
    for rank in (0, 1, 2):
        group = root.group(f"t{rank}_fields")
        names = names_of(group, "field_names")
        if unnamed := [name for name in group.children() if name not in names]:
            warnings.append(f"{group.place}: `field_names` does not name {unnamed}, which are left out")
        for name in names:
            node = group.array(name)
            target = varying if flag_of(node, "time_varying") else constant
            first_channel = sum(layout.num_components for _, layout in target)
            layout = _field_layout(node, sizes, rank=rank, place=f"t{rank}_fields/{name}", first_channel=first_channel)
            target.append((_field(node, name, rank), layout))
            if node.dtype.itemsize > 4:
                warnings.append(f"{node.place}: is {node.dtype}; its values are rounded to float32")
    if not varying:
        raise RefusedError(f"{root.place}: no field varies in time, so there is nothing to learn from")
    return varying, constant


def _field(node: Node, name: str, rank: int) -> Field:
    try:
        return Field(name=name, rank=rank)  # type: ignore[arg-type]  # the model checks the rank's value
    except ValidationError as error:
        raise RefusedError(
            f"{node.place}: `{name}` cannot be a field's name; expected {error.errors()[0]['msg']}"
        ) from error


def _field_layout(node: Node, sizes: _Sizes, *, rank: int, place: str, first_channel: int) -> FieldLayout:
    if node.dtype.kind not in "fbui":
        raise RefusedError(f"{node.place}: has values of type {node.dtype}, expected float32")
    is_sample_varying = flag_of(node, "sample_varying")
    leading: tuple[int, ...] = (sizes.trajectories,) if is_sample_varying else ()
    leading += (sizes.steps,) if flag_of(node, "time_varying") else ()
    num_dims = len(sizes.dims)
    found = np.atleast_1d(required(node, "dim_varying"))
    flags = tuple(bool(flag) for flag in found)
    if len(flags) != num_dims or found.dtype.kind not in "bui":
        raise wrong(node, "dim_varying", found=found.tolist(), expected=f"one flag for each of {sizes.dims}")
    kept = tuple(size if flag else 1 for size, flag in zip(sizes.resolution, flags, strict=True))
    absent = tuple(size for size, flag in zip(sizes.resolution, flags, strict=True) if flag)
    tensor = (num_dims,) * rank
    accepted = {leading + kept + tensor: kept, leading + absent + tensor: kept}
    accepted[leading + sizes.resolution + tensor] = sizes.resolution
    if node.shape not in accepted:
        raise RefusedError(
            f"{node.place}: has shape {node.shape}, expected {leading + kept + tensor}: n_trajectories, the length of "
            "dimensions/time and the dimensions, as far as sample_varying, time_varying and dim_varying say"
        )
    return FieldLayout(place, first_channel, num_dims**rank, is_sample_varying, accepted[node.shape])


def _boundaries(group: Node, sizes: _Sizes, warnings: list[str]) -> tuple[tuple[Boundary, Boundary], ...]:
    """(low, high) of each axis: a side is open unless a group's mask claims it, as in the-well's reader."""
    sides: dict[tuple[str, str], Boundary] = {}
    for name in group.children():
        node = group.group(name)
        dims = names_of(node, "associated_dims")
        kind = _boundary_kind(node)
        claimed = _claimed_sides(_mask(node, dims, sizes), dims, kind)
        if not claimed:
            warnings.append(f"{node.place}: its mask covers no whole side, so the {kind} boundary is not used")
        for dim, side in claimed:
            other = sides.get((dim, side), kind)
            if other is not kind:
                warnings.append(f"{node.place}: claims the {side} side of {dim}, which another group makes {other}")
        sides |= dict.fromkeys(claimed, kind)
    pairs = {dim: tuple(sides.get((dim, side), Boundary.OPEN) for side in ("low", "high")) for dim in sizes.dims}
    return tuple((low, high) for low, high in pairs.values())


def _claimed_sides(
    mask: np.ndarray[Any, np.dtype[np.bool_]], dims: tuple[str, ...], kind: Boundary
) -> list[tuple[str, str]]:
    """(axis, `low` or `high`) of the sides that a mask covers: walls wholly, others somewhere."""
    claimed = []
    for axis, dim in enumerate(dims):
        for side, index in (("low", 0), ("high", -1)):
            points = np.take(mask, index, axis=axis)
            if points.all() if kind is Boundary.WALL else points.any():
                claimed.append((dim, side))
    return claimed


def _boundary_kind(node: Node) -> Boundary:
    text = str(plain(required(node, "bc_type")))
    try:
        return Boundary(text.lower())
    except ValueError:
        raise wrong(node, "bc_type", found=text, expected="WALL, OPEN or PERIODIC") from None


def _mask(node: Node, dims: tuple[str, ...], sizes: _Sizes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    unknown = [dim for dim in dims if dim not in sizes.dims]
    if unknown or not dims:
        raise wrong(node, "associated_dims", found=dims, expected=f"some of {sizes.dims}")
    mask = node.array("mask")
    expected = tuple(sizes.resolution[sizes.dims.index(dim)] for dim in dims)
    if mask.shape != expected:
        raise RefusedError(f"{mask.place}: has shape {mask.shape}, expected {expected} for {dims}")
    if mask.dtype.kind not in "buif":
        raise RefusedError(f"{mask.place}: has values of type {mask.dtype}, expected true or false")
    values = mask.read()
    return (values if values.dtype.kind == "b" else finite(mask, values)).astype(bool)
