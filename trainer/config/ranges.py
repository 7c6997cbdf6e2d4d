"""What values of a config may be: ranges as types, and the base of all sections."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from data_prep.contract.texts import matching as matching

LARGEST_COUNT, LARGEST_SIZE = 10**9, 2**16
"""Far beyond any run: steps and windows; what memory is set aside for. More is a slip of the finger."""
Positive = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
NotNegative = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Size = Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
SizeOrZero = Annotated[int, Field(ge=0, le=LARGEST_SIZE)]
Extent = Annotated[int, Field(ge=1, le=64)]
Depth = Annotated[int, Field(ge=1, le=1024)]
DepthOrZero = Annotated[int, Field(ge=0, le=1024)]
Bytes = Annotated[int, Field(ge=1, le=2**50)]
CacheBytes = Annotated[int, Field(ge=2**20, le=2**50)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PatienceSeconds = Annotated[float, Field(ge=1, le=10**6)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Stride = Annotated[int, Field(ge=1, le=16)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


RunName = Annotated[
    str,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}",
        "letters, digits, `_`, `.` and `-`, at most 128, the first a letter or digit",
    ),
]
"""Goes into paths, labels and job names."""


class Section(BaseModel):
    """Base of all sections: frozen, strict, no unknown keys, docstrings as descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
