"""Moments of fields that merge: computed by parts, in float64, equal to those of the whole but for rounding.

Used by the converter (each work unit's part, merged at the end) and by the simulator (`stats.yaml`).
Means and sums of squared distances merge without the loss of digits that sums of squares suffer (T. F. Chan,
G. H. Golub, R. J. LeVeque, The American Statistician 37 (1983)). Values that are not finite are left out, and so are
differences to or from them: each channel counts its own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.contract import manifest
from data_prep.contract.sample import FrameArray

BLOCK_VALUES = 2**17
"""Values of one channel that are worked on at once: in float64 they stay in a core's own cache."""

STRIPE_POINTS = 2**15
"""Points of space that are worked on at once, so that a block has several steps: the first needs the one before it."""


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
        return _stack([_moments_of_one(column) for column in rows.T.copy()])

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
            channels = [_channel_moments(frames, previous, channel) for channel in range(frames.shape[1])]
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


def _channel_moments(frames: FrameArray, previous: FrameArray | None, channel: int) -> tuple[Moments, Moments]:
    """(of the values, of the differences) of one channel, stripe by stripe of its points."""
    num_points = int(np.prod(frames.shape[2:]))
    points = frames[:, channel].reshape(-1, num_points)
    before = None if previous is None else previous[0, channel].reshape(num_points)
    values, deltas = Moments.none(1), Moments.none(1)
    for low in range(0, num_points, STRIPE_POINTS):
        stripe = slice(low, low + STRIPE_POINTS)
        more_values, more_deltas = _stripe_moments(points[:, stripe], None if before is None else before[stripe])
        values, deltas = values.merge(more_values), deltas.merge(more_deltas)
    return values, deltas


def _stripe_moments(points: FrameArray, before: FrameArray | None) -> tuple[Moments, Moments]:
    """(of the values, of the differences), block by block of steps. `points`: (time, points), `before`: (points,)."""
    num_steps, num_points = points.shape
    block_steps = max(1, BLOCK_VALUES // num_points)
    values, deltas = Moments.none(1), Moments.none(1)
    chains, room = np.empty((block_steps + 1, num_points)), np.empty((block_steps, num_points))
    for start in range(0, num_steps, block_steps):
        block = points[start : start + block_steps]
        chain = chains[: len(block) + 1]
        chain[1:] = block
        if before is not None:
            chain[0] = before
        linked = chain[1:] if before is None else chain
        with np.errstate(invalid="ignore"):  # infinite values are left out below
            changes = np.subtract(linked[1:], linked[:-1], out=room[: len(linked) - 1])
        deltas = deltas.merge(_moments_of_one(changes))
        values = values.merge(_moments_of_one(chain[1:]))
        before = block[-1]
    return values, deltas


def _moments_of_one(values: NDArray[np.float64]) -> Moments:
    """Of the finite ones in an array that may be overwritten."""
    flat = values.reshape(-1)
    if not flat.size:
        return Moments.none(1)
    mean = flat.mean()
    if not np.isfinite(mean) and not (finite := np.isfinite(flat)).all():
        return _moments_of_one(flat[finite])
    squared_distance = _sum_of_squares(flat) - flat.size * mean * mean
    if squared_distance < flat.size * mean * mean:  # the difference has lost digits: a second pass
        flat -= mean
        squared_distance = _sum_of_squares(flat)
    return Moments(np.array([flat.size]), np.array([mean]), np.array([squared_distance]))


def _sum_of_squares(flat: NDArray[np.float64]) -> float:
    """Not by BLAS, whose sums depend on the number of threads."""
    return float(np.einsum("i,i->", flat, flat))


def _stack(parts: list[Moments]) -> Moments:
    """Moments of one channel each -> moments of all."""
    return Moments(
        count=np.concatenate([part.count for part in parts]),
        mean=np.concatenate([part.mean for part in parts]),
        squared_distance=np.concatenate([part.squared_distance for part in parts]),
    )
