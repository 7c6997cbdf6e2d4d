"""One work unit: some segments of a source -> one shard in memory, its records and its moments."""

from collections.abc import Callable

import numpy as np

from data_prep.contract.checksum import checksum
from data_prep.contract.errors import RefusedError
from data_prep.contract.manifest import Shard
from data_prep.contract.sample import FrameArray
from data_prep.journal import UnitResult
from data_prep.plan import Plan, Segment, Unit
from data_prep.shard import BuiltShard, ShardBuilder
from data_prep.source import InputFile, Reader, Source, SourceTrajectory
from data_prep.statistics import FrameMoments

SCAN_BYTES = 2**25
"""Frames that are read at once to count what is not finite."""


def convert_unit(
    source: Source,
    reader: Reader,
    *,
    plan: Plan,
    unit: Unit,
    builder: ShardBuilder,
    known: dict[str, int | None],
    advance: Callable[[int], None],
) -> tuple[bytes | bytearray | memoryview, UnitResult]:
    """Read, check and encode. `known`: checksums of source files that need not be computed any more."""
    files = _files_of(source, plan, unit)
    # right before the file is read for the first time, so that the disk is asked only once
    checksums = {file.path: source.checksum_of(file) for file in files if file.path not in known}
    moments, constant_moments = _encode_segments(reader, plan=plan, unit=unit, builder=builder, advance=advance)
    for file in files:
        if source.fingerprint_of(file) != file.fingerprint:
            raise RefusedError(
                f"{source.url}/data/{file.path}: changed while it was read; start again when it is complete"
            )
    built = builder.finish()
    return built.data, UnitResult(_shard(unit, built), built.records, moments, constant_moments, checksums)


def _shard(unit: Unit, built: BuiltShard) -> Shard:
    return Shard(path=unit.path, bytes=len(built.data), crc32c=checksum(built.data))


def _files_of(source: Source, plan: Plan, unit: Unit) -> list[InputFile]:
    paths = {plan.trajectories[segment.trajectory].file for segment in unit.segments}
    return [file for file in source.files if file.path in paths]


def _encode_segments(
    reader: Reader, *, plan: Plan, unit: Unit, builder: ShardBuilder, advance: Callable[[int], None]
) -> tuple[FrameMoments | None, FrameMoments | None]:
    """(moments of frames, moments of constants): of the train split, each trajectory's constants once."""
    is_train = unit.split == "train"
    moments = FrameMoments.none(len(plan.spec.channels)) if is_train else None
    constant_moments = FrameMoments.none(len(plan.spec.constant_channels)) if is_train else None
    before: tuple[tuple[int, int], FrameArray] | None = None
    for segment in unit.segments:
        run = plan.trajectories[segment.trajectory]
        frames = read_frames(reader, run, segment.start, shape=(segment.num_steps, *plan.spec.frame_shape))
        _refuse_bad_frames(reader, run, plan=plan, frames=frames)
        constants = _read_constants(reader, run, plan) if segment.with_constants else None
        if moments and segment.num_steps:
            moments = moments.merge(
                FrameMoments.of(frames, _previous(reader, run, plan=plan, segment=segment, before=before))
            )
            before = ((segment.trajectory, segment.stop), frames[-1].copy())
        if constant_moments and constants is not None and segment.start == 0:
            constant_moments = constant_moments.merge(FrameMoments.of(constants[np.newaxis]))
        builder.add(segment, frames, constants=constants)
        advance(frames.nbytes + (0 if constants is None else constants.nbytes))
    return moments, constant_moments


def _previous(
    reader: Reader,
    run: SourceTrajectory,
    *,
    plan: Plan,
    segment: Segment,
    before: tuple[tuple[int, int], FrameArray] | None,
) -> FrameArray | None:
    """The frame before a segment, read only where it was not the last one of the segment before."""
    if segment.start == 0:
        return None
    if before and before[0] == (segment.trajectory, segment.start):
        return before[1]
    frame: FrameArray = read_frames(reader, run, segment.start - 1, shape=(1, *plan.spec.frame_shape))[0]
    return frame


def read_frames(reader: Reader, run: SourceTrajectory, start: int, *, shape: tuple[int, ...]) -> FrameArray:
    """Frames from `start` on in a new buffer of `shape`: (time, channel, *space)."""
    frames: FrameArray = np.empty(shape, np.float32)
    if len(frames):
        reader.read_frames(run, start, out=frames)
    return frames


def _read_constants(reader: Reader, run: SourceTrajectory, plan: Plan) -> FrameArray:
    constants: FrameArray = np.empty(plan.spec.constant_shape, np.float32)
    reader.read_constants(run, out=constants)
    if not np.isfinite(constants).all():
        counts = _describe_bad(constants[np.newaxis], plan.spec.constant_channels)
        raise RefusedError(f"{run.name}: constant fields are not finite: {', '.join(counts)}")
    return constants


def _refuse_bad_frames(reader: Reader, run: SourceTrajectory, *, plan: Plan, frames: FrameArray) -> None:
    """Raises RefusedError with the counts of the whole trajectory, not only of these frames."""
    if np.isfinite(frames).all():
        return
    nans = np.zeros(len(plan.spec.channels), int)
    infinities = np.zeros_like(nans)
    first: int | None = None
    step = max(1, SCAN_BYTES // (4 * int(np.prod(plan.spec.frame_shape))))
    for start in range(0, run.num_steps, step):
        part = read_frames(reader, run, start, shape=(min(step, run.num_steps - start), *plan.spec.frame_shape))
        others = (0, *range(2, part.ndim))
        nans += np.isnan(part).sum(axis=others)
        infinities += np.isinf(part).sum(axis=others)
        bad_steps = np.flatnonzero(~np.isfinite(part).all(axis=tuple(range(1, part.ndim))))
        first = start + int(bad_steps[0]) if first is None and len(bad_steps) else first
    counts = _counts(plan.spec.channels, nans, infinities)
    raise RefusedError(
        f"{run.name}: values that are not finite, from frame {first} on: {', '.join(counts)}; "
        "repair the file or take it out of the dataset"
    )


def _describe_bad(frames: FrameArray, channels: tuple[str, ...]) -> list[str]:
    others = (0, *range(2, frames.ndim))
    return _counts(channels, np.isnan(frames).sum(axis=others), np.isinf(frames).sum(axis=others))


def _counts(channels: tuple[str, ...], nans: np.ndarray, infinities: np.ndarray) -> list[str]:
    return [
        f"`{channel}` has {num_nans} NaN and {num_infinities} infinite values"
        for channel, num_nans, num_infinities in zip(channels, nans, infinities, strict=True)
        if num_nans or num_infinities
    ]
