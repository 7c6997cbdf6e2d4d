"""`--not-finite skip`: the trajectories that have values which are not finite, found and left out.

It must be known before a plan is made, so the source is read once more beforehand. What each file has is noted in the
journal's folder, so that a run that goes on, or another part of the same conversion, need not read the file again.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

import numpy as np

from data_prep.contract.fields import DatasetSpec
from data_prep.contract.manifest import MANIFEST_NAME, LeftOut, load_manifest
from data_prep.contract.storage import Storage
from data_prep.convert import Progress
from data_prep.journal import FOLDER, read_note
from data_prep.part import Part
from data_prep.reading import (
    ByChannel,
    Counts,
    by_channel,
    count_not_finite,
    describe_counts,
    read_constants,
)
from data_prep.scan import segments_of
from data_prep.source import InputFile, Reader, Source, SourceTrajectory
from data_prep.stretches import Stretch
from data_prep.unit import Advance

NOTES_FOLDER = f"{FOLDER}/not_finite"


class PartialSource:
    """A source without some of its trajectories; otherwise as it is."""

    def __init__(self, whole: Source, left_out: Sequence[LeftOut]) -> None:
        names = {run.source for run in left_out}
        self.whole = whole
        self.url, self.spec, self.files = whole.url, whole.spec, whole.files
        self.trajectories = tuple(run for run in whole.trajectories if run.name not in names)
        self.warnings = (*whole.warnings, *(_warning(whole, run) for run in left_out))

    def reader(self) -> AbstractContextManager[Reader]:
        """The whole source's."""
        return self.whole.reader()

    def checksum_of(self, file: InputFile) -> int | None:
        """The whole source's."""
        return self.whole.checksum_of(file)

    def unread_of(self, file: InputFile, trajectories: Iterable[SourceTrajectory]) -> tuple[Stretch, ...]:
        """The whole source's."""
        return self.whole.unread_of(file, trajectories)

    def fingerprint_of(self, file: InputFile) -> str:
        """The whole source's."""
        return self.whole.fingerprint_of(file)


def _warning(source: Source, run: LeftOut) -> str:
    return f"{run.source} of {source.url}: left out; it has {describe_counts(run.not_finite)}"


def known_left_out(destination: Storage) -> tuple[LeftOut, ...] | None:
    """What a finished conversion at `destination` has left out; None where there is none."""
    return load_manifest(destination)[0].provenance.left_out if destination.exists(MANIFEST_NAME) else None


def find_not_finite(source: Source, destination: Storage, *, part: Part, bar: Progress) -> tuple[LeftOut, ...]:
    """The trajectories to leave out of a conversion to `destination`, where it is noted what the files have.

    Each part begins at another file, so that those which run at once read the source about once together.
    """
    found: dict[str, LeftOut] = {}
    first = part.number * len(source.files) // part.count
    with source.reader() as reader:
        for file in source.files[first:] + source.files[:first]:
            found |= {run.source: run for run in _of_file(source, reader, file, destination, bar=bar)}
    return tuple(found[run.name] for run in source.trajectories if run.name in found)


def forget_not_finite(destination: Storage) -> None:
    """Remove what was noted for a conversion that will not be, and the journal's folder if that was all in it."""
    destination.delete_folder(NOTES_FOLDER)
    if not destination.list(FOLDER):
        destination.delete_folder(FOLDER)


def _of_file(source: Source, reader: Reader, file: InputFile, destination: Storage, *, bar: Progress) -> list[LeftOut]:
    """By the note of an earlier scan, if it is of this very file; else by reading the file, which is noted then."""
    runs = [run for run in source.trajectories if run.file == file.path]
    facts = [file.path, file.fingerprint, source.spec.model_dump(mode="json"), [run.num_steps for run in runs]]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    path = f"{NOTES_FOLDER}/{file.path}.json"
    note = read_note(destination, path)
    if note is not None and note.get("digest") == digest:
        bar.skip(sum(_num_bytes(run, source.spec) for run in runs))
        return [LeftOut.model_validate(item) for item in note["left_out"]]
    counted = [(run, count_trajectory(reader, run, source.spec, advance=bar.advance)) for run in runs]
    found = [LeftOut(source=run.name, not_finite=counts) for run, counts in counted if counts]
    note = {"digest": digest, "left_out": [item.model_dump() for item in found]}
    destination.put(path, json.dumps(note).encode())
    return found


def count_trajectory(reader: Reader, run: SourceTrajectory, spec: DatasetSpec, *, advance: Advance) -> ByChannel:
    """What is not finite in a trajectory, its constants included."""
    counts: Counts = np.zeros((len(spec.channels), 2), np.int64)
    for frames in segments_of(reader, run, spec):
        more = count_not_finite(frames)
        counts += 0 if more is None else more
        advance(frames.nbytes)
    found = by_channel(spec.channels, counts)
    if spec.constant_fields:
        constants = read_constants(reader, run, spec)
        found |= by_channel(spec.constant_channels, count_not_finite(constants[np.newaxis]))
    return found


def _num_bytes(run: SourceTrajectory, spec: DatasetSpec) -> int:
    return 4 * run.num_steps * int(np.prod(spec.frame_shape))
