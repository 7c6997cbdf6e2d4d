"""Reads of a source into new buffers, refused where a value is not finite."""

from typing import Any

import numpy as np

from data_prep.contract.errors import RefusedError
from data_prep.contract.fields import DatasetSpec
from data_prep.contract.sample import FrameArray
from data_prep.source import Reader, SourceTrajectory

SCAN_BYTES = 2**25
"""Frames that are read at once to count what is not finite."""

Counts = np.ndarray[Any, np.dtype[np.int64]]


def read_frames(reader: Reader, run: SourceTrajectory, spec: DatasetSpec, *, start: int, stop: int) -> FrameArray:
    """(time, channel, *space), every value finite."""
    frames = _read(reader, run, spec, start=start, stop=stop)
    if not np.isfinite(frames).all():
        _refuse(reader, run, spec)
    return frames


def read_constants(reader: Reader, run: SourceTrajectory, spec: DatasetSpec) -> FrameArray:
    """(constant channel, *space), every value finite."""
    constants: FrameArray = np.empty(spec.constant_shape, np.float32)
    reader.read_constants(run, out=constants)
    if not np.isfinite(constants).all():
        nans, infinities, _ = _count(constants[np.newaxis])
        raise RefusedError(
            _message(reader.locate(run), spec.constant_channels, nans, infinities, place="constant fields")
        )
    return constants


def _read(reader: Reader, run: SourceTrajectory, spec: DatasetSpec, *, start: int, stop: int) -> FrameArray:
    frames: FrameArray = np.empty((stop - start, *spec.frame_shape), np.float32)
    if len(frames):
        reader.read_frames(run, start, out=frames)
    return frames


def _refuse(reader: Reader, run: SourceTrajectory, spec: DatasetSpec) -> None:
    """Raises RefusedError with the counts of the whole trajectory, so that one message says all."""
    nans, infinities = np.zeros(len(spec.channels), np.int64), np.zeros(len(spec.channels), np.int64)
    bad_frames: list[int] = []
    step = max(1, SCAN_BYTES // (4 * int(np.prod(spec.frame_shape))))
    for start in range(0, run.num_steps, step):
        part = _read(reader, run, spec, start=start, stop=min(start + step, run.num_steps))
        more_nans, more_infinities, bad = _count(part)
        nans, infinities = nans + more_nans, infinities + more_infinities
        bad_frames += [start + frame for frame in bad]
    place = f"{len(bad_frames)} frames, the first of them {bad_frames[0]},"
    raise RefusedError(_message(reader.locate(run), spec.channels, nans, infinities, place=place))


def _count(frames: FrameArray) -> tuple[Counts, Counts, list[int]]:
    """(NaNs, infinities) of each channel, and the frames that have any."""
    space = tuple(range(2, frames.ndim))
    bad_frames = np.flatnonzero(~np.isfinite(frames).all(axis=(1, *space)))
    return np.isnan(frames).sum(axis=(0, *space)), np.isinf(frames).sum(axis=(0, *space)), bad_frames.tolist()


def _message(where: str, channels: tuple[str, ...], nans: Counts, infinities: Counts, *, place: str) -> str:
    counts = [
        f"`{channel}`: {num_nans} NaN and {num_infinities} infinite"
        for channel, num_nans, num_infinities in zip(channels, nans, infinities, strict=True)
        if num_nans or num_infinities
    ]
    return (
        f"{where}: {place} have values that are not finite ({'; '.join(counts)}); "
        "repair the file or take it out of the dataset"
    )
