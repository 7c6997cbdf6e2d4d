"""One pass over all values of a source, a segment at a time: what `show --scan` and `statistics` know of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.contract.checksum import checksum, extend_checksum
from data_prep.contract.fields import DatasetSpec
from data_prep.contract.manifest import SPLITS, Moments, Split
from data_prep.contract.sample import FrameArray
from data_prep.conversion.unit import Advance
from data_prep.numbers.statistics import FrameMoments
from data_prep.planning.plan import SEGMENT_BYTES, cut_evenly
from data_prep.sources.protocol import Reader, Source, SourceTrajectory
from data_prep.sources.reading import ByChannel, Counts, by_channel, count_not_finite, read_constants, read_frames


@dataclass(frozen=True)
class RunScan:
    """What one trajectory turns out to be."""

    run: SourceTrajectory
    not_finite: ByChannel
    first_frame: int
    """crc32c of its values, as the two below."""
    last_frame: int
    all_frames: int


@dataclass(frozen=True)
class Scan:
    """What a source turns out to be."""

    runs: tuple[RunScan, ...]
    statistics: dict[str, Moments]
    """Of the train split, by channel."""


def scan(source: Source, *, advance: Advance, splits: Sequence[Split] = SPLITS) -> Scan:
    """Read every value of these splits once."""
    spec = source.spec
    moments, constant_moments = FrameMoments.none(len(spec.channels)), FrameMoments.none(len(spec.constant_channels))
    found = []
    with source.reader() as reader:
        for run in (run for run in source.trajectories if run.split in splits):
            result, more, more_constant = _scan_run(reader, run, spec, advance)
            found.append(result)
            if run.split == "train":
                moments, constant_moments = moments.merge(more), constant_moments.merge(more_constant)
    return Scan(tuple(found), moments.records(spec.channels) | constant_moments.records(spec.constant_channels))


def _scan_run(
    reader: Reader, run: SourceTrajectory, spec: DatasetSpec, advance: Advance
) -> tuple[RunScan, FrameMoments, FrameMoments]:
    moments, constant_moments = FrameMoments.none(len(spec.channels)), FrameMoments.none(len(spec.constant_channels))
    counts: Counts = np.zeros((len(spec.channels), 2), np.int64)
    previous: FrameArray | None = None
    first_frame = all_frames = 0
    for frames in segments_of(reader, run, spec):
        counts += _zero_if_none(count_not_finite(frames))
        moments = moments.merge(FrameMoments.of(frames, previous))
        first_frame = checksum(frames[0]) if previous is None else first_frame
        all_frames = extend_checksum(all_frames, frames.tobytes())
        previous = frames[-1:].copy()
        advance(frames.nbytes)
    not_finite = by_channel(spec.channels, counts)
    if spec.constant_fields:
        constants = read_constants(reader, run, spec)[np.newaxis]
        not_finite |= by_channel(spec.constant_channels, count_not_finite(constants))
        constant_moments = FrameMoments.of(constants)
    assert previous is not None, "a trajectory has at least one frame"
    return RunScan(run, not_finite, first_frame, checksum(previous), all_frames), moments, constant_moments


def segments_of(reader: Reader, run: SourceTrajectory, spec: DatasetSpec) -> Iterator[FrameArray]:
    """The frames of a trajectory in bounded stretches: (time, channel, *space)."""
    longest = SEGMENT_BYTES // (4 * int(np.prod(spec.frame_shape)))
    for start, stop in cut_evenly(run.num_steps, longest=longest):
        yield read_frames(reader, run, spec, start=start, stop=stop)


def _zero_if_none(counts: Counts | None) -> Counts | int:
    return 0 if counts is None else counts
