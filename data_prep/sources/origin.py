"""Where the values of a source lie in its own files, if they lie there plainly: what `convert --reference` notes."""

from dataclasses import dataclass

from data_prep.contract.manifest import Reference


@dataclass(frozen=True)
class FieldPlace:
    """One field in one file: contiguous little-endian float32."""

    offset: int
    """Of the first byte of the first frame of the first run."""
    run_bytes: int
    """From one run to the next; 0 where all runs share the values."""
    step_bytes: int
    """From one frame to the next; 0 for a constant field."""

    def offset_of(self, run: int, step: int) -> int:
        """Of the first byte of one frame."""
        return self.offset + run * self.run_bytes + step * self.step_bytes


@dataclass(frozen=True)
class FilePlaces:
    """One file: its fields in the order of the dataset."""

    bytes: int
    fields: tuple[FieldPlace, ...]
    constant_fields: tuple[FieldPlace, ...]


@dataclass(frozen=True)
class Origin:
    """A whole source."""

    reference: Reference
    folder: str
    """Of the files, inside the reference's: `data`."""
    files: dict[str, FilePlaces]
    """By `SourceTrajectory.file`."""

    def shard_path(self, file: str) -> str:
        """The path of a file, relative to the reference's URL."""
        return f"{self.folder}/{file}"
