"""Moments of fields that merge: computed by parts, in float64, equal to those of the whole but for rounding.

Used by the converter (each work unit's part, merged at the end) and by the simulator (`stats.yaml`).
Means and sums of squared distances merge without the loss of digits that sums of squares suffer (T. F. Chan,
G. H. Golub, R. J. LeVeque, The American Statistician 37 (1983)). Values that are not finite are left out, and so are
differences to or from them: each channel counts its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from signal import SIGINT, SIGTERM
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.contract import manifest
from data_prep.contract.sample import FrameArray
from data_prep.interrupts import signals_held

BLOCK_VALUES = 2**17
"""Values of one channel that are worked on at once. Fewer would stay in a core's own cache, more calls cost more."""

BLOCK_STEPS = 8
"""Steps that they are of, where there are so many: the first of them needs the one before it once more."""

LEAST_SPREAD = 2.0**-10
"""Least variance, against the square of the mean, that a sum of squares tells: of its 52 digits ten are lost then."""

Wide = NDArray[np.float64]
Part = tuple[int, float, float]
"""Of some values of one channel: how many there are, their mean, the sum of squared distances from it."""


@dataclass(frozen=True)
class Moments:
    """Number of values, their mean, and the sum of squared distances from it, by component (all `(components,)`)."""

    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    squared_distance: NDArray[np.float64]

    @staticmethod
    def none(num_components: int) -> "Moments":
        """The moments of no values: merging them changes nothing."""
        return Moments(np.zeros(num_components, np.int64), np.zeros(num_components), np.zeros(num_components))

    @staticmethod
    def of(values: NDArray[np.floating]) -> "Moments":
        """The moments of `values`, `(…, components)`: every axis but the last is averaged over."""
        rows = np.asarray(values, dtype=np.float64).reshape(-1, values.shape[-1])
        return _stack([_merged(np.array([_part_of(column)])) for column in rows.T])

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both groups of values together."""
        count = self.count + other.count
        apart = other.mean - self.mean
        share = other.count / np.maximum(count, 1)
        return Moments(
            count=count,
            mean=self.mean + share * apart,
            squared_distance=self.squared_distance + other.squared_distance + self.count * share * apart * apart,
        )

    @property
    def std(self) -> NDArray[np.float64]:
        """The biased standard deviation: divided by the count."""
        return np.asarray(np.sqrt(self.squared_distance / np.maximum(self.count, 1)))

    @property
    def rms(self) -> NDArray[np.float64]:
        rms: NDArray[np.float64] = np.sqrt(np.square(self.mean) + np.square(self.std))
        return rms


@dataclass(frozen=True)
class FrameMoments:
    """Moments of frames and of the differences between neighbouring ones, for each channel."""

    values: Moments
    deltas: Moments

    @staticmethod
    def none(num_channels: int) -> "FrameMoments":
        """The moments of no frames."""
        return FrameMoments(Moments.none(num_channels), Moments.none(num_channels))

    @staticmethod
    def of(frames: FrameArray, previous: FrameArray | None = None) -> "FrameMoments":
        """The moments of `frames`: (time, channel, *space). `previous`: (1, channel, *space), the frame before them."""
        with np.errstate(invalid="ignore"):  # NaN, and differences of infinities, are left out knowingly
            channels = [_channel_moments(frames, channel, previous) for channel in range(frames.shape[1])]
        return FrameMoments(_stack([values for values, _ in channels]), _stack([deltas for _, deltas in channels]))

    def merge(self, other: "FrameMoments") -> "FrameMoments":
        """The moments of both groups of frames together."""
        return FrameMoments(self.values.merge(other.values), self.deltas.merge(other.deltas))

    def records(self, channels: tuple[str, ...]) -> dict[str, manifest.Moments]:
        """What the manifest keeps, by channel name."""
        columns = [column for part in (self.values, self.deltas) for column in (part.mean, part.std, part.rms)]
        rows = np.stack(columns, axis=1).tolist()
        keys = tuple(manifest.Moments.model_fields)
        return {
            name: manifest.Moments(**dict(zip(keys, row, strict=True)))
            for name, row in zip(channels, rows, strict=True)
        }

    def dump(self) -> dict[str, Any]:
        """JSON from which `load` makes the same moments to the last bit."""
        return {
            key: {
                "count": part.count.tolist(),
                "mean": part.mean.tolist(),
                "squared_distance": part.squared_distance.tolist(),
            }
            for key, part in (("values", self.values), ("deltas", self.deltas))
        }

    @staticmethod
    def load(stored: dict[str, Any]) -> "FrameMoments":
        """The inverse of `dump`."""
        parts = (stored["values"], stored["deltas"])
        values, deltas = (
            Moments(
                np.array(part["count"], np.int64),
                np.array(part["mean"], float),
                np.array(part["squared_distance"], float),
            )
            for part in parts
        )
        return FrameMoments(values, deltas)


def _channel_moments(frames: FrameArray, channel: int, previous: FrameArray | None) -> tuple[Moments, Moments]:
    """(of the values, of the differences), block by block."""
    with signals_held(SIGINT, SIGTERM):  # the compiler calls back Python code, where what a signal raises is lost
        from data_prep.numbers.sums import CHANGE, SQUARED_CHANGES, SQUARES, SUM, block_sums

    points = _points(frames, channel)
    num_steps, num_points = points.shape
    if not points.size:
        return Moments.none(1), Moments.none(1)
    before = points[0] if previous is None else _points(previous, channel)[-1]  # no change to itself
    block_steps = min(num_steps, BLOCK_STEPS)
    block_points = min(num_points, BLOCK_VALUES // block_steps)
    row = points.strides[0] // points.itemsize if num_steps > 1 else num_points
    flat = np.lib.stride_tricks.as_strided(points, ((num_steps - 1) * row + num_points,), (points.itemsize,))
    sums = block_sums(flat, row, num_steps, num_points, np.ascontiguousarray(before), block_steps, block_points)
    blocks = [
        (slice(start, min(start + block_steps, num_steps)), slice(low, min(low + block_points, num_points)))
        for low in range(0, num_points, block_points)
        for start in range(0, num_steps, block_steps)
    ]
    counts = np.array([(steps.stop - steps.start) * (places.stop - places.start) for steps, places in blocks])
    unchanged = np.array(
        [places.stop - places.start if previous is None and steps.start == 0 else 0 for steps, places in blocks]
    )

    def values_of(block: int) -> Wide:
        return points[blocks[block]].astype(np.float64)

    def deltas_of(block: int) -> Wide:
        steps, places = blocks[block]
        if steps.start:
            return np.diff(points[steps.start - 1 : steps.stop, places].astype(np.float64), axis=0)
        first = [] if previous is None else [before[np.newaxis, places]]
        return np.diff(np.concatenate([*first, points[steps, places]]).astype(np.float64), axis=0)

    return (
        _merged(_parts(counts, sums[:, SUM], sums[:, SQUARES], values_of)),
        _merged(_parts(counts - unchanged, sums[:, CHANGE], sums[:, SQUARED_CHANGES], deltas_of)),
    )


def _points(frames: FrameArray, channel: int) -> FrameArray:
    """(time, points) of one channel, those of a step side by side."""
    points = frames[:, channel].reshape(len(frames), math.prod(frames.shape[2:]))
    is_plain = points.flags.aligned and points.strides[1] == points.itemsize and not points.strides[0] % points.itemsize
    return points if is_plain else np.ascontiguousarray(points)


def _parts(counts: NDArray[np.int64], sums: Wide, squares: Wide, values_of: Callable[[int], Wide]) -> Wide:
    """(block, 3): count, mean and squared distance of each, of which `squares` are sums too.

    Those of which they do not tell enough, or which are not finite, are looked at again.
    """
    means = sums / np.maximum(counts, 1)
    least = counts * means * means
    parts = np.stack([counts, means, squares - least], axis=1)
    is_certain = np.isfinite(parts[:, 2]) & (parts[:, 2] >= LEAST_SPREAD * least)
    for block in np.flatnonzero(~is_certain).tolist():
        parts[block] = _part_of(values_of(block))
    return parts


def _part_of(values: Wide) -> Part:
    """Of the finite ones alone. Squares beyond float64 make the distance infinite."""
    finite = values[np.isfinite(values)]
    mean = _sum(finite) / max(1, finite.size)  # in this order a constant is its own mean
    return finite.size, mean, _sum(np.square(finite - mean))


def _sum(values: Wide) -> float:
    return float(np.add.reduce(values, axis=None))


def _merged(parts: Wide) -> Moments:
    """Of the values of all parts, each a `Part`, together: one component."""
    counts, means, squared_distances = parts.T
    count = counts.sum()
    mean = (counts * means).sum() / max(1, count)
    squared_distance = squared_distances.sum() + (counts * np.square(means - mean)).sum()
    return Moments(np.array([count], np.int64), np.array([mean]), np.array([squared_distance]))


def _stack(parts: list[Moments]) -> Moments:
    """Moments of one channel each -> moments of all."""
    return Moments(
        count=np.concatenate([part.count for part in parts]),
        mean=np.concatenate([part.mean for part in parts]),
        squared_distance=np.concatenate([part.squared_distance for part in parts]),
    )
