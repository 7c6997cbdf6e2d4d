"""What a snapshot's manifest says, and what makes it safe to believe.

It is checked before a byte of a tensor is read: names stay in the folder, and no size exceeds the file that is there.
"""

import math
from typing import Annotated, Final, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainer.errors import SnapshotError

MANIFEST = "manifest.json"
FORMAT: Final = "wellspring snapshot"
"""The first value of every manifest of ours."""
MAX_BYTES = 2**28
"""Of a manifest; a model of 100 000 parameter tensors needs a quarter."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""By safetensors' names."""

Size = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    """Frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileRecord(Record):
    """One safetensors file."""

    path: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\.safetensors$")]
    bytes: Size


class TensorRecord(Record):
    """Where one tensor lies."""

    file: Size
    """Index into `files`."""
    offset: Size
    bytes: Size
    dtype: Literal["F64", "F32", "BF16", "F16", "I64", "I32", "U8", "BOOL"]
    shape: tuple[Size, ...] = Field(max_length=16)
    crc32c: Annotated[int, Field(ge=0, lt=2**32)]

    @model_validator(mode="after")
    def _size_is_that_of_the_shape(self) -> Self:
        expected = math.prod(self.shape) * DTYPES[self.dtype].itemsize
        if self.bytes != expected:
            raise ValueError(f"a {self.dtype} tensor of shape {self.shape} has {expected} bytes, not {self.bytes}")
        return self


class TransformRecord(Record):
    """What becomes of a channel's values before they are scaled: log(x / unit) or asinh(x / unit)."""

    channel: Annotated[int, Field(ge=0)]
    name: Name
    """Of the channel."""
    kind: Literal["log", "asinh"]
    unit: Annotated[Finite, Field(gt=0)]
    """In the units of the source."""


class DatasetRecord(Record):
    """A dataset that the run learns from, and the map that makes its channels numbers near one."""

    name: Name
    digest: Annotated[int, Field(ge=0, lt=2**32)]
    """crc32c of its index, which holds those of all records."""
    channels: tuple[Name, ...]
    is_target: tuple[bool, ...]
    """For each channel, whether it changes in time."""
    boundary: tuple[tuple[Name, Name], ...] = Field(max_length=3)
    """(low, high) side of each axis of space."""
    scale: tuple[Finite, ...]
    """For each channel, in the units of the source: normalised = (physical - shift) / scale."""
    shift: tuple[Finite, ...]
    quiet_scale: tuple[Finite, ...] | None = None
    """Where the scale is the rms of a window's own first frame, the least that it may be."""
    transforms: tuple[TransformRecord, ...] = ()
    """Before all else; of the transformed values are then scale and shift."""
    shared_scales: tuple[tuple[int, int], ...] = ()
    """Channels from a first one to before another, whose own scale is one for all of them."""

    @model_validator(mode="after")
    def _is_of_its_channels(self) -> Self:
        count = len(self.channels)
        for name in ("is_target", "scale", "shift", "quiet_scale"):
            values = getattr(self, name)
            if values is not None and len(values) != count:
                raise ValueError(f"{name} has {len(values)} values for {count} channels")
        if len(set(self.channels)) != count:
            raise ValueError("two channels have one name")
        if min((*self.scale, *(self.quiet_scale or ())), default=1.0) <= 0:
            raise ValueError("a scale is not above 0")
        if any(transform.channel >= count for transform in self.transforms):
            raise ValueError(f"a transform is of a channel beyond the {count}")
        if any(not 0 <= first < last <= count for first, last in self.shared_scales):
            raise ValueError(f"shared_scales are not of the {count} channels")
        return self


class About(Record):
    """What a snapshot says of its run; the same in all snapshots of one process."""

    config: str
    """The resolved config, YAML."""
    field_names: tuple[Name, ...]
    """The model's field vocabulary, by row."""
    space_rank: Annotated[int, Field(ge=1, le=3)]
    """Space axes of the data."""
    datasets: tuple[DatasetRecord, ...] = ()
    versions: dict[Name, Name] = Field(default_factory=dict)
    """Of Python and the libraries that the numbers depend on."""
    git_revision: Name | None = None
    """Of the code, with `-dirty` where it was changed since; None outside of a checkout."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len(set(self.field_names)) != len(self.field_names):
            raise ValueError("two fields have one name")
        return self


class Manifest(Record):
    """All of a snapshot but its tensors."""

    format: Literal["wellspring snapshot"] = FORMAT
    version: Literal[2] = 2
    step: Size
    samples_seen: Size
    is_export: bool = False
    """Weights alone, for others: no run goes on from it."""
    about: About
    scores: dict[Name, Finite] = Field(default_factory=dict)
    """Of the evaluation at this step, where there was one."""
    files: tuple[FileRecord, ...]
    entries: dict[Name, dict[Name, TensorRecord]]
    """Parameter or buffer name -> `weight`, and the names of its optimiser states."""

    @model_validator(mode="after")
    def _tensors_lie_in_their_files(self) -> Self:
        for name, tensors in self.entries.items():
            if "weight" not in tensors:
                raise ValueError(f"entries.{name} has no weight")
            for state, tensor in tensors.items():
                if tensor.file >= len(self.files):
                    raise ValueError(f"entries.{name}.{state} is in file {tensor.file} of {len(self.files)}")
                if tensor.offset + tensor.bytes > self.files[tensor.file].bytes:
                    raise ValueError(f"entries.{name}.{state} ends behind {self.files[tensor.file].path}")
        return self


def parse_manifest(data: bytes, *, place: str) -> Manifest:
    """Raises SnapshotError for anything but a manifest that was written whole by this version."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        if FORMAT.encode() not in data[:100]:
            raise SnapshotError(
                f"{place} is not of a snapshot; name the `output` of a run that has written one, or, where it was "
                "damaged, remove its folder to go on from the one before"
            ) from error
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SnapshotError(
            f"{place}: {where}: {first['msg']}; this snapshot is not intact; "
            "remove its folder to go on from the snapshot before"
        ) from error
