"""What a short YAML file says of NetCDF files and zarr stores, so that they can be read as a corpus."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from data_prep.contract.fields import Boundary, Contract, Name

Variable = Annotated[str, Field(min_length=1)]
"""The name of a variable in the files."""


class Section(Contract):
    """Base of the sections of the file."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class AxisDescription(Section):
    """One axis of space. Its coordinates are the variable of its dimension's name; without one, points are counted."""

    boundary: Boundary | tuple[Boundary, Boundary] = Boundary.OPEN
    """`open`, `wall` or `periodic` at both ends, or two of them: at the low end, at the high end."""
    dimension: Variable | None = None
    """The dimension's name in the files, if it is another."""


class Along(Section):
    """A vector or tensor in one variable, with its components along dimensions of their own."""

    variable: Variable
    along: Annotated[tuple[Variable, ...], Field(min_length=1, max_length=2)]
    """The dimension of a vector's components, or of a tensor's rows and of its columns."""


Variables = Variable | tuple[Variable, ...] | tuple[tuple[Variable, ...], ...] | Along
"""A scalar names its variable; a vector lists one for each axis, a tensor a list of lists, row by row."""


class XarrayDescription(Section):
    """A dataset in files that xarray reads."""

    name: Name
    """Of the dataset."""
    files: Annotated[
        dict[Literal["train", "valid", "test"], Annotated[tuple[str, ...], Field(min_length=1)]], Field(min_length=1)
    ]
    """Of each split: paths relative to this file, or URLs; `*` in the last part stands for anything."""
    axes: Annotated[dict[Name, AxisDescription], Field(min_length=1, max_length=3)]
    """Axes of space, in the order in which they shall be stored."""
    fields: Annotated[dict[Name, Variables], Field(min_length=1)]
    """What changes in time, in the order of the stored channels."""
    constant_fields: dict[Name, Variables] = Field(default_factory=dict)
    """What does not."""
    scalars: tuple[Variable, ...] = ()
    """Parameters: variables without axes of space, or attributes of the files."""
    time: Variable = "time"
    """The dimension of time."""
    trajectory: Variable | None = None
    """The dimension that counts the runs in a file; without it a file is one run."""
    grid: Literal["cartesian", "spherical", "equiangular"] = "cartesian"

    @model_validator(mode="after")
    def _components_match_axes(self) -> "XarrayDescription":
        num_axes = len(self.axes)
        wrong = [
            f"{section}.{name}: lists {sorted(lengths)} components, but there are {num_axes} axes"
            for section in ("fields", "constant_fields")
            for name, variables in self.__dict__[section].items()
            if (lengths := _lengths(variables) or {num_axes}) != {num_axes}
        ]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self


def _lengths(variables: Variables) -> set[int]:
    """Of the lists that there are."""
    if isinstance(variables, str | Along):
        return set()
    return {len(variables), *(len(row) for row in variables if not isinstance(row, str))}


def rank_of(variables: Variables) -> Literal[0, 1, 2]:
    """0 for a scalar, 1 for a vector, 2 for a tensor."""
    if isinstance(variables, Along):
        return 1 if len(variables.along) == 1 else 2
    return 0 if isinstance(variables, str) else 1 if isinstance(variables[0], str) else 2
