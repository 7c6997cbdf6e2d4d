"""What is summed over the values of a conversion, part by part: moments of the train split, and costs of rounding."""

from dataclasses import dataclass
from typing import Any

from data_prep.contract.fields import DatasetSpec
from data_prep.contract.manifest import Moments, Rounding
from data_prep.numbers.rounding import Rounded, RoundingCost
from data_prep.numbers.statistics import FrameMoments


@dataclass(frozen=True)
class Tally:
    """Sums that merge, of any number of frames and of trajectories' constants."""

    moments: FrameMoments
    constant_moments: FrameMoments
    cost: RoundingCost
    constant_cost: RoundingCost

    @staticmethod
    def none(spec: DatasetSpec) -> "Tally":
        """Of nothing."""
        num_channels, num_constants = len(spec.channels), len(spec.constant_channels)
        return Tally(
            FrameMoments.none(num_channels),
            FrameMoments.none(num_constants),
            RoundingCost.none(num_channels),
            RoundingCost.none(num_constants),
        )

    def with_frames(self, frames: Rounded, before: Rounded | None, *, is_train: bool) -> "Tally":
        """Count neighbouring frames too. `before`: the one frame before them, for the first difference."""
        moments = self.moments
        if is_train:
            moments = moments.merge(FrameMoments.of(frames.stored, None if before is None else before.stored))
        cost = self.cost + RoundingCost.of(frames, before)
        return Tally(moments, self.constant_moments, cost, self.constant_cost)

    def with_constants(self, constants: Rounded, *, is_train: bool) -> "Tally":
        """Count the constants of one trajectory too; (1, constant channel, *space)."""
        moments = self.constant_moments
        if is_train:
            moments = moments.merge(FrameMoments.of(constants.stored))
        return Tally(self.moments, moments, self.cost, self.constant_cost + RoundingCost.of(constants))

    def merge(self, other: "Tally") -> "Tally":
        """Of both together."""
        return Tally(
            self.moments.merge(other.moments),
            self.constant_moments.merge(other.constant_moments),
            self.cost + other.cost,
            self.constant_cost + other.constant_cost,
        )

    @property
    def num_finite(self) -> int:
        """Values of frames that were found to be finite."""
        return int(self.moments.values.count.sum())

    def statistics(self, spec: DatasetSpec) -> dict[str, Moments]:
        """What the manifest keeps, by channel."""
        return self.moments.records(spec.channels) | self.constant_moments.records(spec.constant_channels)

    def rounding(self, spec: DatasetSpec, bits: tuple[tuple[int, ...], tuple[int, ...]]) -> dict[str, Rounding]:
        """What the manifest keeps, by channel that is not exact. `bits`: of frames, of constants."""
        of_frames, of_constants = bits
        return self.cost.records(spec.channels, of_frames) | self.constant_cost.records(
            spec.constant_channels, of_constants
        )

    def dump(self) -> dict[str, Any]:
        """JSON from which `load` makes the same sums to the last bit."""
        return {key: part.dump() for key, part in self.__dict__.items()}

    @staticmethod
    def load(stored: dict[str, Any]) -> "Tally":
        """The inverse of `dump`."""
        return Tally(
            FrameMoments.load(stored["moments"]),
            FrameMoments.load(stored["constant_moments"]),
            RoundingCost.load(stored["cost"]),
            RoundingCost.load(stored["constant_cost"]),
        )
