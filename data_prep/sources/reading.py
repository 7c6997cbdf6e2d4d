"""Reads of a source into new buffers, and what is not finite in them: counted, and refused where it may not be."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.contract.errors import RefusedError
from data_prep.contract.fields import DatasetSpec
from data_prep.contract.manifest import NotFinite
from data_prep.contract.sample import FrameArray
from data_prep.sources.protocol import Reader, SourceTrajectory
from data_prep.sources.stretches import Stretch

SCAN_BYTES = 2**25
"""Frames that are read at once to count what is not finite."""

Counts = np.ndarray[Any, np.dtype[np.int64]]
"""(channel, 2): NaN and infinite values."""
ByChannel = dict[str, NotFinite]
"""Of the channels that have any."""


def read_frames(
    reader: Reader,
    run: SourceTrajectory,
    spec: DatasetSpec,
    *,
    start: int,
    stop: int,
    out: FrameArray | None = None,
    read: list[Stretch] | None = None,
) -> FrameArray:
    """(time, channel, *space): `out` itself, where it is given. `read`: as in `Reader`."""
    frames: FrameArray = np.empty((stop - start, *spec.frame_shape), np.float32) if out is None else out
    if len(frames):
        reader.read_frames(run, start, out=frames, read=read)
    return frames


def read_constants(reader: Reader, run: SourceTrajectory, spec: DatasetSpec) -> FrameArray:
    """(constant channel, *space)."""
    constants: FrameArray = np.empty(spec.constant_shape, np.float32)
    reader.read_constants(run, out=constants)
    return constants


def count_not_finite(records: FrameArray) -> Counts | None:
    """Of `records`: (record, channel, *space); None, after one pass, where every value is finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(records.sum()) or np.isfinite(records).all():  # a sum is finite only where every value is
            return None
    others = (0, *range(2, records.ndim))
    return np.stack([np.isnan(records).sum(axis=others), np.isinf(records).sum(axis=others)], axis=1)


def by_channel(channels: tuple[str, ...], counts: Counts | None) -> ByChannel:
    """The counts by name."""
    rows = [] if counts is None else zip(channels, counts.tolist(), strict=True)
    return {name: NotFinite(nan=nan, infinite=infinite) for name, (nan, infinite) in rows if nan or infinite}


def disordered_axes(where: str, spec: DatasetSpec) -> Iterator[str]:
    """A warning for each axis of space whose points go neither up nor down throughout."""
    for name, points in zip(spec.spatial_dims, spec.coordinates, strict=True):
        steps = np.diff(points)
        if not ((steps > 0).all() or (steps < 0).all()):
            shown = ", ".join(f"{point:g}" for point in points[:4])
            yield f"{where}: axis `{name}` goes neither up nor down throughout, it begins with {shown}; is it the grid?"


def refuse_frames(reader: Reader, run: SourceTrajectory, spec: DatasetSpec) -> None:
    """Raises RefusedError with the counts of the whole trajectory, so that one message says all."""
    total: Counts = np.zeros((len(spec.channels), 2), np.int64)
    bad_frames: list[int] = []
    step = max(1, SCAN_BYTES // (4 * int(np.prod(spec.frame_shape))))
    for start in range(0, run.num_steps, step):
        part = read_frames(reader, run, spec, start=start, stop=min(start + step, run.num_steps))
        counts = count_not_finite(part)
        if counts is not None:
            total += counts
            is_bad = ~np.isfinite(part).all(axis=tuple(range(1, part.ndim)))
            bad_frames += (start + np.flatnonzero(is_bad)).tolist()
    place = f"{len(bad_frames)} frames, the first of them {bad_frames[0]},"
    raise RefusedError(_refusal(reader.locate(run), by_channel(spec.channels, total), place=place))


def refuse_constants(reader: Reader, run: SourceTrajectory, spec: DatasetSpec, counts: Counts) -> None:
    """Raises RefusedError."""
    found = by_channel(spec.constant_channels, counts)
    raise RefusedError(_refusal(reader.locate(run), found, place="constant fields"))


def _refusal(where: str, found: ByChannel, *, place: str) -> str:
    return (
        f"{where}: {place} have values that are not finite as float32 ({describe_counts(found)}); repair the file, or "
        "convert with `--not-finite skip` (leaves such trajectories out) or `--not-finite keep` (training masks them)"
    )


def describe_counts(found: ByChannel) -> str:
    """`pressure`: 3 NaN and 0 infinite; …"""
    return "; ".join(f"`{name}`: {count.nan} NaN and {count.infinite} infinite" for name, count in found.items())
