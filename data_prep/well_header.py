"""What the header of one file in The Well's format says, every attribute checked. Reads no field data, knows no h5py.

Follows the semantics of the-well's own reader, apart from its defects: an axis along which a field does not vary may
be absent or kept with length 1, and type names may have any case. Raises RefusedError naming file and place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError

from data_prep.contract.errors import RefusedError
from data_prep.contract.fields import Boundary, DatasetSpec, Field

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

MAX_TIMES = 2**24
"""Bound on the entries of a time axis or a scalar that we read into memory."""


class Node(Protocol):
    """A group or an array of an HDF5 file; each method raises RefusedError naming the place."""

    @property
    def place(self) -> str:
        """File and path, for messages."""

    def group(self, name: str) -> "Node":
        """A child that must be a group."""

    def array(self, name: str) -> "Node":
        """A child that must be an array inside this very file."""

    def children(self) -> list[str]:
        """Names, sorted."""

    def attribute(self, name: str) -> Any:
        """The value of an attribute, None when there is none."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an array."""

    def read(self) -> np.ndarray[Any, Any]:
        """A whole (small) array."""


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
    dims = _names(dimensions, "spatial_dims")
    if len(dims) != _integer(root, "n_spatial_dims"):
        raise _wrong(
            dimensions, "spatial_dims", found=dims, expected=f"n_spatial_dims={_integer(root, 'n_spatial_dims')}"
        )
    coordinates = tuple(_coordinates(dimensions, dim) for dim in dims)
    time_node = dimensions.array("time")
    num_trajectories = _integer(root, "n_trajectories")
    sizes = _Sizes(num_trajectories, (time_node.shape or (0,))[-1], dims, tuple(len(axis) for axis in coordinates))
    varying, constant = _field_layouts(root, sizes, warnings)
    scalars = _scalars(root, sizes, warnings)
    try:
        spec = DatasetSpec(
            name=dataset_name,
            grid_type=str(_plain(root.attribute("grid_type"))).lower(),  # type: ignore[arg-type]
            spatial_dims=dims,
            resolution=sizes.resolution,
            boundaries=_boundaries(root.group("boundary_conditions"), sizes, warnings),
            fields=tuple(field for field, _ in varying),
            constant_fields=tuple(field for field, _ in constant),
            scalars=tuple(scalars),
            coordinates=coordinates,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise RefusedError(f"{root.place}: {key}: {first['msg']} (found {str(first['input'])[:200]})") from error
    return Header(
        spec=spec,
        num_trajectories=num_trajectories,
        times=_times(time_node, sizes),
        scalars=scalars,
        fields=tuple(layout for _, layout in varying),
        constant_fields=tuple(layout for _, layout in constant),
        warnings=tuple(warnings),
    )


def _coordinates(dimensions: Node, dim: str) -> tuple[float, ...]:
    node = dimensions.array(dim)
    for flag in ("sample_varying", "time_varying"):
        if _flag(node, flag, default=False):
            raise RefusedError(f"{node.place}: {flag} is true, but grids that move or differ are not supported")
    if len(node.shape) != 1 or not 1 <= node.shape[0] <= 2**20:
        raise RefusedError(f"{node.place}: has shape {node.shape}, expected one axis of at most {2**20} points")
    return tuple(_finite(node, node.read()).tolist())


def _times(node: Node, sizes: _Sizes) -> FloatArray:
    """(trajectory, time)."""
    is_sample_varying = _flag(node, "sample_varying", default=False)
    expected = (sizes.trajectories, sizes.steps) if is_sample_varying else (sizes.steps,)
    if node.shape != expected or node.shape[-1] > MAX_TIMES:
        raise RefusedError(f"{node.place}: has shape {node.shape}, expected {expected}")
    return np.broadcast_to(_finite(node, node.read()), (sizes.trajectories, sizes.steps))


def _scalars(root: Node, sizes: _Sizes, warnings: list[str]) -> dict[str, FloatArray]:
    group = root.group("scalars")
    names = _names(group, "field_names")
    missing = [name for name in _names(root, "simulation_parameters") if name not in names]
    if missing:
        warnings.append(f"{root.place}: simulation_parameters {missing} have no array in /scalars and are left out")
    scalars = {}
    for name in names:
        node = group.array(name)
        is_time_varying = _flag(node, "time_varying")
        leading: tuple[int, ...] = (sizes.trajectories,) if _flag(node, "sample_varying") else ()
        expected = leading + ((sizes.steps,) if is_time_varying else ())
        if node.shape != expected:
            raise RefusedError(f"{node.place}: has shape {node.shape}, expected {expected} by its attributes")
        values = _finite(node, node.read())
        values = values if leading else values[np.newaxis]
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
        for name in _names(group, "field_names"):
            node = group.array(name)
            target = varying if _flag(node, "time_varying") else constant
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
        return Field(name=name, rank=rank)  # type: ignore[arg-type]
    except ValidationError as error:
        raise RefusedError(f"{node.place}: `{name}` cannot be a field's name: {error.errors()[0]['msg']}") from error


def _field_layout(node: Node, sizes: _Sizes, *, rank: int, place: str, first_channel: int) -> FieldLayout:
    if node.dtype.kind not in "fbui":
        raise RefusedError(f"{node.place}: has values of type {node.dtype}, expected float32")
    is_sample_varying = _flag(node, "sample_varying")
    leading: tuple[int, ...] = (sizes.trajectories,) if is_sample_varying else ()
    leading += (sizes.steps,) if _flag(node, "time_varying") else ()
    num_dims = len(sizes.dims)
    flags = tuple(bool(flag) for flag in np.atleast_1d(_required(node, "dim_varying")))
    if len(flags) != num_dims:
        raise _wrong(node, "dim_varying", found=flags, expected=f"one flag for each of {sizes.dims}")
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
    sides = {dim: [Boundary.OPEN, Boundary.OPEN] for dim in sizes.dims}
    for name in group.children():
        node = group.group(name)
        dims = _names(node, "associated_dims")
        kind = _boundary_kind(node)
        mask = _mask(node, dims, sizes)
        claimed = False
        for axis, dim in enumerate(dims):
            for side, index in enumerate((0, -1)):
                points = np.take(mask, index, axis=axis)
                if points.all() if kind is Boundary.WALL else points.any():
                    sides[dim][side] = kind
                    claimed = True
        if not claimed:
            warnings.append(f"{node.place}: its mask covers no whole side, so the {kind} boundary is not used")
    return tuple((low, high) for low, high in sides.values())


def _boundary_kind(node: Node) -> Boundary:
    text = str(_plain(_required(node, "bc_type")))
    try:
        return Boundary(text.lower())
    except ValueError:
        raise _wrong(node, "bc_type", found=text, expected="WALL, OPEN or PERIODIC") from None


def _mask(node: Node, dims: tuple[str, ...], sizes: _Sizes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    unknown = [dim for dim in dims if dim not in sizes.dims]
    if unknown or not dims:
        raise _wrong(node, "associated_dims", found=dims, expected=f"some of {sizes.dims}")
    mask = node.array("mask")
    expected = tuple(sizes.resolution[sizes.dims.index(dim)] for dim in dims)
    if mask.shape != expected:
        raise RefusedError(f"{mask.place}: has shape {mask.shape}, expected {expected} for {dims}")
    return mask.read().astype(bool)


def _required(node: Node, name: str) -> Any:
    value = node.attribute(name)
    if value is None:
        raise RefusedError(f"{node.place}: has no attribute `{name}`; The Well's format demands it")
    return value


def _plain(value: Any) -> Any:
    """Strings come as str, bytes or arrays of one."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else value


def _names(node: Node, attribute: str) -> tuple[str, ...]:
    """A list of names; a bare string is one name, and an empty list is stored as an array of float64."""
    value = _required(node, attribute)
    values: Sequence[Any] = [value] if isinstance(value, str | bytes) else list(np.atleast_1d(value))
    names = tuple(_plain(item) for item in values)
    if not all(isinstance(name, str) for name in names):
        raise _wrong(node, attribute, found=names, expected="names")
    if len(set(names)) != len(names):
        raise _wrong(node, attribute, found=names, expected="each name once")
    return names


def _integer(node: Node, attribute: str) -> int:
    value = _plain(_required(node, attribute))
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise _wrong(node, attribute, found=value, expected="a positive integer")
    return int(value)


def _flag(node: Node, attribute: str, *, default: bool | None = None) -> bool:
    value = node.attribute(attribute)
    value = default if value is None else _plain(value)
    value = _required(node, attribute) if value is None else value
    if not isinstance(value, bool | np.bool_ | int | np.integer) or value not in (0, 1):
        raise _wrong(node, attribute, found=value, expected="true or false")
    return bool(value)


def _finite(node: Node, values: np.ndarray[Any, Any]) -> FloatArray:
    if values.dtype.kind not in "fui" or not np.isfinite(values).all():
        raise RefusedError(f"{node.place}: holds values that are no finite numbers")
    return np.asarray(values, np.float64)


def _wrong(node: Node, attribute: str, *, found: object, expected: str) -> RefusedError:
    return RefusedError(f"{node.place}: attribute `{attribute}` is {found!r}, expected {expected}")
