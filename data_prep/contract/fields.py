"""What a dataset contains, independent of how it is stored: fields, boundaries, grid.

Used by the converter (which fills it from a source) and the trainer (which builds its channels from it).
"""

from enum import StrEnum
from itertools import product
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import Field as Bounds

from data_prep.contract.texts import matching

Name = Annotated[
    str,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}",
        "letters, digits, `_`, `.` and `-`, at most 128, the first a letter or digit",
    ),
]
"""A name that is also safe as one path component."""


class Contract(BaseModel):
    """Base of everything that is stored: frozen, strict, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Boundary(StrEnum):
    """What happens at one side of the domain."""

    WALL = "wall"
    OPEN = "open"
    PERIODIC = "periodic"

    def __repr__(self) -> str:
        """As people write it: tuples of sides stand in messages."""
        return repr(self.value)


class Field(Contract):
    """One physical quantity: a scalar (rank 0), vector (1) or tensor (2) at each grid point."""

    name: Name
    rank: Literal[0, 1, 2] = 0
    unit: str | None = None

    def component_names(self, spatial_dims: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the channels that this field becomes, tensor components in row-major order."""
        suffixes = product(spatial_dims, repeat=self.rank)
        return tuple("_".join([self.name, "".join(suffix)]) if suffix else self.name for suffix in suffixes)


class DatasetSpec(Contract):
    """Facts that hold for every trajectory of a dataset.

    `fields` change in time and become the channels of the stored frames, in this order;
    `constant_fields` do not, and are stored once for each trajectory.
    """

    name: Name
    grid_type: Literal["cartesian", "spherical", "equiangular"]
    spatial_dims: tuple[Name, ...] = Bounds(min_length=1, max_length=3)
    resolution: tuple[Annotated[int, Bounds(ge=1, le=2**20)], ...]
    boundaries: tuple[tuple[Boundary, Boundary], ...]
    """(low side, high side) for each spatial axis; periodic at both or at none."""
    fields: tuple[Field, ...] = Bounds(min_length=1)
    constant_fields: tuple[Field, ...] = ()
    scalars: tuple[Name, ...] = ()
    """Names of the simulation's scalar parameters; their values stand with each trajectory."""
    coordinates: tuple[tuple[float, ...], ...]
    """Grid coordinates along each spatial axis, in the units of the source."""

    @model_validator(mode="after")
    def _axes_agree(self) -> "DatasetSpec":
        num_dims = len(self.spatial_dims)
        for key in ("resolution", "boundaries", "coordinates"):
            found = len(self.__dict__[key])
            if found != num_dims:
                raise ValueError(f"{key} has {found} axes, but spatial_dims has {num_dims}")
        lengths = tuple(len(axis) for axis in self.coordinates)
        if lengths != self.resolution:
            raise ValueError(f"coordinates have {lengths} points, but resolution is {self.resolution}")
        for axis, sides in zip(self.spatial_dims, self.boundaries, strict=True):
            if sides.count(Boundary.PERIODIC) == 1:
                raise ValueError(
                    f"boundaries of {axis} are {sides[0]} and {sides[1]}; expected periodic at both or none"
                )
        names = [field.name for field in self.fields + self.constant_fields]
        if len(set(names)) != len(names):
            raise ValueError(f"field names repeat: {names}")
        self._refuse_equal_channels()
        return self

    def _refuse_equal_channels(self) -> None:
        """A scalar `velocity_x` beside a vector `velocity` would be two channels of one name."""
        channels = self.channels + self.constant_channels
        repeated = sorted({name for name in channels if channels.count(name) > 1})
        if repeated:
            raise ValueError(f"two fields make channels of one name, {repeated}; rename one of the fields")

    @property
    def channels(self) -> tuple[str, ...]:
        """Component names of a stored frame's channels, in order."""
        return tuple(name for field in self.fields for name in field.component_names(self.spatial_dims))

    @property
    def constant_channels(self) -> tuple[str, ...]:
        """Component names of the stored constant record's channels, in order."""
        return tuple(name for field in self.constant_fields for name in field.component_names(self.spatial_dims))

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """(channel, *space) of one stored frame."""
        return (len(self.channels), *self.resolution)

    @property
    def constant_shape(self) -> tuple[int, ...]:
        """(channel, *space) of one trajectory's constant record."""
        return (len(self.constant_channels), *self.resolution)
