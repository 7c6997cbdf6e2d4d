"""Moments of fields that merge: computed by parts, in float64, equal to those of the whole but for rounding.

Used by the converter (each work unit's part, merged at the end) and by the simulator (`stats.yaml`).
Means and sums of squared distances merge without the loss of digits that sums of squares suffer (T. F. Chan,
G. H. Golub, R. J. LeVeque, The American Statistician 37 (1983)).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moments:
    """Number of values, their mean, and the sum of squared distances from it, by component (both `(components,)`)."""

    count: int
    mean: NDArray[np.float64]
    squared_distance: NDArray[np.float64]

    @staticmethod
    def none(num_components: int) -> "Moments":
        """The moments of no values: merging them changes nothing."""
        return Moments(count=0, mean=np.zeros(num_components), squared_distance=np.zeros(num_components))

    @staticmethod
    def of(values: NDArray[np.floating]) -> "Moments":
        """The moments of `values`, `(…, components)`: every axis but the last is averaged over."""
        rows = np.asarray(values, dtype=np.float64).reshape(-1, values.shape[-1])
        if not len(rows):
            return Moments.none(rows.shape[1])
        mean = rows.mean(axis=0)
        return Moments(count=len(rows), mean=mean, squared_distance=np.square(rows - mean).sum(axis=0))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both groups of values together."""
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        share = other.count / count
        return Moments(
            count=count,
            mean=self.mean + share * apart,
            squared_distance=self.squared_distance + other.squared_distance + self.count * share * apart * apart,
        )

    @property
    def std(self) -> NDArray[np.float64]:
        """The biased standard deviation: divided by the count."""
        return np.sqrt(self.squared_distance / max(self.count, 1))

    @property
    def rms(self) -> NDArray[np.float64]:
        return np.sqrt(np.square(self.mean) + np.square(self.std))
