"""One work unit: some segments of a source -> one shard in memory, its records and its moments."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_prep.contract.checksum import checksum
from data_prep.contract.errors import RefusedError
from data_prep.contract.manifest import Shard
from data_prep.contract.sample import FrameArray
from data_prep.journal import UnitResult
from data_prep.plan import Plan, Segment, Unit
from data_prep.reading import read_constants, read_frames
from data_prep.shard import ShardBuilder
from data_prep.source import InputFile, Reader, Source
from data_prep.statistics import FrameMoments

Advance = Callable[[int], None]
"""Told the decoded bytes of each piece of work that is done."""


@dataclass(frozen=True)
class UnitWork:
    """All that one unit needs."""

    source: Source
    reader: Reader
    plan: Plan
    unit: Unit
    known_checksums: dict[str, int | None]
    """Of source files that need not be computed any more."""
    advance: Advance


def convert_unit(work: UnitWork, builder: ShardBuilder) -> tuple[bytes | bytearray | memoryview, UnitResult]:
    """Read, check and encode: the bytes of the shard, and what is kept of it."""
    source, files = work.source, _files_of(work)
    # right before a file is read for the first time, so that the disk is asked only once
    checksums = {file.path: source.checksum_of(file) for file in files if file.path not in work.known_checksums}
    moments, constant_moments = _encode_segments(work, builder)
    for file in files:
        if source.fingerprint_of(file) != file.fingerprint:
            raise RefusedError(f"{file.path} of {source.url}: changed while it was read; convert when it is complete")
    built = builder.finish()
    shard = Shard(path=work.unit.path, bytes=len(built.data), crc32c=checksum(built.data))
    return built.data, UnitResult(shard, built.records, moments, constant_moments, checksums)


def _files_of(work: UnitWork) -> list[InputFile]:
    paths = {work.plan.trajectories[segment.trajectory].file for segment in work.unit.segments}
    return [file for file in work.source.files if file.path in paths]


def _encode_segments(work: UnitWork, builder: ShardBuilder) -> tuple[FrameMoments, FrameMoments]:
    """(moments of frames, moments of constants), of the train split alone; each trajectory's constants once."""
    spec, reader = work.plan.spec, work.reader
    moments = FrameMoments.none(len(spec.channels))
    constant_moments = FrameMoments.none(len(spec.constant_channels))
    last: tuple[Segment, FrameArray] | None = None
    for segment in work.unit.segments:
        run = work.plan.trajectories[segment.trajectory]
        frames = read_frames(reader, run, spec, start=segment.start, stop=segment.stop)
        constants = read_constants(reader, run, spec) if segment.with_constants else None
        if work.unit.split == "train":
            previous = _frame_before(work, segment, last)
            moments = moments.merge(FrameMoments.of(frames, previous))
            if constants is not None and segment.start == 0:
                constant_moments = constant_moments.merge(FrameMoments.of(constants[np.newaxis]))
        last = (segment, frames[-1:].copy())
        builder.add(segment, frames, constants=constants)
        work.advance(frames.nbytes + (0 if constants is None else constants.nbytes))
    return moments, constant_moments


def _frame_before(work: UnitWork, segment: Segment, last: tuple[Segment, FrameArray] | None) -> FrameArray | None:
    """(1, channel, *space) for the first time difference; read again only at the beginning of a unit."""
    if segment.start == 0:
        return None
    if last and (last[0].trajectory, last[0].stop) == (segment.trajectory, segment.start):
        return last[1]
    run = work.plan.trajectories[segment.trajectory]
    return read_frames(work.reader, run, work.plan.spec, start=segment.start - 1, stop=segment.start)
