"""What the converter asks of a corpus, whatever its format: the protocol that `well.py` fulfils.

Another format is brought in by one more class of this shape; nothing else of this package needs to know it.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from data_prep.contract.entries import SourceName
from data_prep.contract.errors import RefusedError
from data_prep.contract.fields import DatasetSpec
from data_prep.contract.manifest import Split
from data_prep.contract.sample import FrameArray
from data_prep.sources.stretches import Stretch


@dataclass(frozen=True)
class SourceTrajectory:
    """One simulation run, before it is read. Times and scalars come from the headers alone."""

    split: Split
    file: str
    """Path of its file relative to the source's data: `train/a.hdf5`."""
    number: int
    """Which run of that file."""
    times: tuple[float, ...]
    scalars: dict[str, float | tuple[float, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`train/a.hdf5#3`, the same text as in the manifest."""
        return f"{self.file}#{self.number}"

    @property
    def num_steps(self) -> int:
        """Frames of the run."""
        return len(self.times)


def refuse_unspeakable(where: str, name: str) -> None:
    """Raises RefusedError for a file or run at `where` whose name no manifest can have."""
    try:
        _SOURCE_NAME.validate_python(name)
    except ValidationError as error:
        raise RefusedError(
            f"{where}: its name is too long, or holds control characters or what is no UTF-8; rename it"
        ) from error


_SOURCE_NAME: TypeAdapter[str] = TypeAdapter(SourceName)


@dataclass(frozen=True)
class InputFile:
    """One file of a corpus, as it is found before conversion."""

    path: str
    """As in `SourceTrajectory.file`."""
    bytes: int
    fingerprint: str
    """Changes when the file does."""


class Reader(Protocol):
    """Reads values; keeps at most one file open, so trajectories are best asked for in order."""

    def locate(self, trajectory: SourceTrajectory) -> str:
        """Where a trajectory is, for messages: its file's path or URL in full, and its number there."""

    def read_frames(
        self, trajectory: SourceTrajectory, start: int, *, out: FrameArray, read: list[Stretch] | None = None
    ) -> None:
        """Fill `out`: (time, channel, *space), with the frames from `start` on.

        What was read of the file and can be told at no cost is added to `read`; `Source.unread_of` counts on it.
        """

    def read_constants(self, trajectory: SourceTrajectory, *, out: FrameArray) -> None:
        """Fill `out`: (constant channel, *space)."""


class Source(Protocol):
    """A corpus whose headers have been read and agree with each other."""

    url: str
    spec: DatasetSpec
    trajectories: tuple[SourceTrajectory, ...]
    """By split (train, valid, test), then file name, then number."""
    files: tuple[InputFile, ...]
    warnings: tuple[str, ...]
    """What a person should know, though it does not keep the corpus from being converted."""

    def reader(self) -> AbstractContextManager[Reader]:
        """A reader for this thread."""

    def checksum_of(self, file: InputFile) -> int | None:
        """crc32c of a whole file, None where that would mean to download it once more."""

    def unread_of(self, file: InputFile, trajectories: Iterable[SourceTrajectory]) -> tuple[Stretch, ...]:
        """What of a file its reader does not tell when it reads all frames of these trajectories.

        Nothing at all where `checksum_of` is None.
        """

    def fingerprint_of(self, file: InputFile) -> str:
        """The fingerprint as it is now."""
