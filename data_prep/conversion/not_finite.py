"""`--not-finite skip`: the trajectories that have values which are not finite, found and left out.

It must be known before a plan is made, so the source is read once more beforehand. What each file has is noted in the
journal's folder, so that a run that goes on, or another part of the same conversion, need not read the file again.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial

import numpy as np

from data_prep.contract.fields import DatasetSpec
from data_prep.contract.manifest import MANIFEST_NAME, LeftOut, load_manifest
from data_prep.contract.storage import Storage
from data_prep.conversion.convert import Progress
from data_prep.conversion.journal import FOLDER, read_note
from data_prep.conversion.scan import segments_of
from data_prep.conversion.unit import Advance
from data_prep.conversion.workers import share
from data_prep.planning.part import Part
from data_prep.sources.protocol import InputFile, Reader, Source, SourceTrajectory
from data_prep.sources.reading import (
    ByChannel,
    Counts,
    by_channel,
    count_not_finite,
    describe_counts,
    read_constants,
)
from data_prep.sources.stretches import Stretch

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


def find_not_finite(
    source: Source, destination: Storage, *, part: Part, num_workers: int, bar: Progress
) -> tuple[LeftOut, ...]:
    """The trajectories to leave out of a conversion to `destination`, where it is noted what the files have.

    Each part begins at another file, so that those which run at once read the source about once together.
    """
    first = part.number * len(source.files) // part.count
    files = source.files[first:] + source.files[:first]
    found = {file.path: _noted(source, file, destination) for file in files}
    unknown = [file for file in files if found[file.path] is None]
    known = {file.path for file in files} - {file.path for file in unknown}
    bar.skip(sum(_num_bytes(run, source.spec) for run in source.trajectories if run.file in known))
    job = partial(_look_through, source, destination)
    for file, left_out in share(job, unknown, num_workers=num_workers, advance=bar.advance):
        found[file.path] = left_out
    by_name = {run.source: run for runs in found.values() for run in runs or ()}
    return tuple(by_name[run.name] for run in source.trajectories if run.name in by_name)


def forget_not_finite(destination: Storage) -> None:
    """Remove what was noted for a conversion that will not be, and the journal's folder if that was all in it."""
    destination.delete_folder(NOTES_FOLDER)
    if not destination.list(FOLDER):
        destination.delete_folder(FOLDER)


def _noted(source: Source, file: InputFile, destination: Storage) -> list[LeftOut] | None:
    """By the note of an earlier scan, if there is one of this very file."""
    note = read_note(destination, _note_path(file))
    if note is None or note.get("digest") != _digest(source, file):
        return None
    return [LeftOut.model_validate(item) for item in note["left_out"]]


def _look_through(
    source: Source, destination: Storage, files: Iterable[InputFile], *, advance: Advance
) -> Iterator[tuple[InputFile, list[LeftOut]]]:
    """Read files that another part has not read meanwhile, and note what they have."""
    with source.reader() as reader:
        for file in files:
            found = _noted(source, file, destination)
            if found is None:
                runs = [run for run in source.trajectories if run.file == file.path]
                counted = [(run, count_trajectory(reader, run, source.spec, advance=advance)) for run in runs]
                found = [LeftOut(source=run.name, not_finite=counts) for run, counts in counted if counts]
                note = {"digest": _digest(source, file), "left_out": [item.model_dump() for item in found]}
                destination.put(_note_path(file), json.dumps(note).encode())
            yield file, found


def _note_path(file: InputFile) -> str:
    return f"{NOTES_FOLDER}/{file.path}.json"


def _digest(source: Source, file: InputFile) -> str:
    """Of all that a file's note depends on."""
    steps = [run.num_steps for run in source.trajectories if run.file == file.path]
    facts = [file.path, file.fingerprint, source.spec.model_dump(mode="json"), steps]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


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
