"""Bring data of your own: one class with two methods, named on the command line as SOURCE.

    python -m data_prep show waves.py:Waves              # the class Waves of the file waves.py
    python -m data_prep convert waves.py:Waves@/scratch/run7 shards/waves --format zarr

`FILE.py:CLASS` or `package.module:CLASS`; what follows `@` is handed to the class when it is made. It is your code that
runs: only a SOURCE on the command line can name some, never a file, a manifest or a URL. This module is all that a
corpus needs to import; `corpus_source` makes a `Source` of it, and checks everything that it says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from numpy.typing import ArrayLike

from data_prep.contract.fields import Field
from data_prep.contract.manifest import Split

__all__ = ["Axis", "Corpus", "Description", "Field", "Run"]

Side = Literal["open", "wall", "periodic"]


@dataclass(frozen=True)
class Axis:
    """One axis of space."""

    name: str
    coordinates: Sequence[float] | ArrayLike
    """Of the grid points, evenly spaced or not."""
    boundary: Side | tuple[Side, Side] = "open"
    """At both ends, or (at the low end, at the high end)."""


@dataclass(frozen=True)
class Run:
    """One simulation run: a trajectory."""

    split: Split
    """`train`, `valid` or `test`."""
    name: str
    """Once in its split: `run-007`; `a.nc#3` for the fourth run of a file, which has the files of the others."""
    times: Sequence[float] | ArrayLike
    """Of each frame."""
    scalars: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    """Parameters, the same ones for every run; a sequence has one value for each frame."""
    files: Sequence[str] = ()
    """Paths or URLs that it is read from: noted with their checksums, and watched for changes."""


@dataclass(frozen=True)
class Description:
    """Everything that there is to say of a dataset before its values are read."""

    name: str
    axes: Sequence[Axis]
    fields: Sequence[Field]
    """What changes in time: `Field(name="density")`, `Field(name="velocity", rank=1)` for a vector, 2 for a tensor."""
    runs: Sequence[Run]
    constant_fields: Sequence[Field] = ()
    """What does not."""
    grid_type: Literal["cartesian", "spherical", "equiangular"] = "cartesian"
    warnings: Sequence[str] = ()
    """What a person should know."""


class Corpus(Protocol):
    """What you write. It need not derive from this class."""

    def describe(self) -> Description:
        """Asked once, when the corpus is opened."""

    def read(self, run: Run, name: str, start: int, stop: int) -> ArrayLike | Any:
        """Frames `start` to `stop` of a field: (time, *axes), then a vector's components or a tensor's rows, columns.

        A constant field is asked for with 0 and 1, and has no time: (*axes). Runs are read in their order, frames in
        theirs, a few megabytes at a time.
        """
