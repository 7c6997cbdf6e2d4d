"""Kept mantissa bits: rounds float32 values so that they compress, and measures what that costs.

Rounding is to nearest, ties to even, of the 23 stored bits of the mantissa, and deterministic: whoever rounds the same
values gets the same bits. It is relative, thus kind to positive fields of large range, and unkind to small differences
on a large offset; which is why its cost is measured, on the values and on their change from frame to frame.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.contract.errors import RefusedError
from data_prep.contract.fields import DatasetSpec
from data_prep.contract.manifest import MANTISSA_BITS, Rounding
from data_prep.contract.sample import FrameArray

KeptBits = dict[str, int]
"""By field; a field that is not in it is exact."""

_EXPONENT = np.uint32(0x7F800000)


def kept_of(spec: DatasetSpec, wanted: int | KeptBits | None) -> KeptBits:
    """What a person asked for, by field: one number is for all fields that change in time.

    Raises RefusedError for a field that the dataset does not have.
    """
    if wanted is None:
        return {}
    if isinstance(wanted, int):
        return {field.name: wanted for field in spec.fields}
    names = [field.name for field in spec.fields + spec.constant_fields]
    for name in wanted:
        if name not in names:
            raise RefusedError(f"--keep-bits {name}={wanted[name]}: {spec.name} has no such field; it has {names}")
    return {name: wanted[name] for name in names if name in wanted}


def channel_bits(spec: DatasetSpec, kept: KeptBits) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Kept bits of each channel of a frame, and of each constant channel; all of them where a field is exact."""
    of_frame, of_constants = (
        tuple(kept.get(field.name, MANTISSA_BITS) for field in fields for _ in field.component_names(spec.spatial_dims))
        for fields in (spec.fields, spec.constant_fields)
    )
    return of_frame, of_constants


def round_channels(records: FrameArray, bits: tuple[int, ...]) -> FrameArray:
    """(time, channel, *space), rounded as `bits` says of each channel; the same array where nothing is to be done."""
    if all(kept == MANTISSA_BITS for kept in bits):
        return records
    rounded = records.copy()
    for channel, kept in enumerate(bits):
        round_mantissa(rounded[:, channel], kept)
    return rounded


def round_mantissa(values: FrameArray, kept_bits: int) -> None:
    """Round in place. NaN and infinite values stay what they are; none that is finite becomes infinite."""
    dropped = MANTISSA_BITS - kept_bits
    if not dropped:
        return
    bits = values.view(np.uint32)
    keep = np.uint32((0xFFFFFFFF << dropped) & 0xFFFFFFFF)
    tie = (bits >> np.uint32(dropped)) & np.uint32(1)
    rounded = (bits + (tie + np.uint32((1 << (dropped - 1)) - 1))) & keep
    odd = (rounded & _EXPONENT) == _EXPONENT  # beyond the largest number, or never a number
    odd |= (bits & _EXPONENT) == _EXPONENT
    if odd.any():
        rounded[odd] = np.where(np.isfinite(values[odd]), bits[odd] & keep, bits[odd])
    bits[...] = rounded


@dataclass(frozen=True)
class Rounded:
    """Frames before and after rounding, both (time, channel, *space); the same array where all is exact."""

    exact: FrameArray
    stored: FrameArray

    @staticmethod
    def of(records: FrameArray, bits: tuple[int, ...]) -> "Rounded":
        return Rounded(records, round_channels(records, bits))


@dataclass(frozen=True)
class RoundingCost:
    """Sums over frames, by channel, from which the VRMSE follows; they add. All (channels,) in float64."""

    error: NDArray[np.float64]
    """Of squared errors."""
    variation: NDArray[np.float64]
    """Of squared distances from the mean over space, frame by frame."""
    delta_error: NDArray[np.float64]
    """Of the difference between neighbouring frames, as is the one below."""
    delta_variation: NDArray[np.float64]

    @staticmethod
    def none(num_channels: int) -> "RoundingCost":
        """The cost of no frames."""
        return RoundingCost(*(np.zeros(num_channels) for _ in range(4)))

    @staticmethod
    def of(frames: Rounded, before: Rounded | None = None) -> "RoundingCost":
        """The cost in neighbouring frames. `before`: the one frame before them, for the first difference."""
        num_channels = frames.exact.shape[1]
        if frames.stored is frames.exact:
            return RoundingCost.none(num_channels)
        with np.errstate(invalid="ignore"):  # what is not finite counts for nothing
            rows = [_channel_cost(frames, before, channel) for channel in range(num_channels)]
        return RoundingCost(*np.array(rows).T)

    def __add__(self, other: "RoundingCost") -> "RoundingCost":
        return RoundingCost(
            self.error + other.error,
            self.variation + other.variation,
            self.delta_error + other.delta_error,
            self.delta_variation + other.delta_variation,
        )

    def records(self, channels: tuple[str, ...], bits: tuple[int, ...]) -> dict[str, Rounding]:
        """What the manifest keeps, of the channels that are rounded."""
        return {
            name: Rounding(
                kept_bits=kept,
                vrmse=_ratio(self.error[number], self.variation[number]),
                vrmse_delta=_ratio(self.delta_error[number], self.delta_variation[number]),
            )
            for number, (name, kept) in enumerate(zip(channels, bits, strict=True))
            if kept < MANTISSA_BITS
        }

    def dump(self) -> dict[str, Any]:
        """JSON from which `load` makes the same sums to the last bit."""
        return {key: values.tolist() for key, values in self.__dict__.items()}

    @staticmethod
    def load(stored: dict[str, Any]) -> "RoundingCost":
        """The inverse of `dump`."""
        keys = ("error", "variation", "delta_error", "delta_variation")
        return RoundingCost(*(np.array(stored[key], float) for key in keys))


def _channel_cost(frames: Rounded, before: Rounded | None, channel: int) -> NDArray[np.float64]:
    """The four sums of one channel."""
    sums = np.zeros(4)
    last = None if before is None else (_wide(before.exact[-1, channel]), _wide(before.stored[-1, channel]))
    for exact, stored in zip(frames.exact[:, channel], frames.stored[:, channel], strict=True):
        wide = _wide(exact), _wide(stored)
        sums[:2] += _sums(*wide)
        if last is not None:
            sums[2:] += _sums(wide[0] - last[0], wide[1] - last[1])
        last = wide
    return sums


def _wide(values: FrameArray) -> NDArray[np.float64]:
    return values.astype(np.float64).reshape(-1)


def _sums(exact: NDArray[np.float64], stored: NDArray[np.float64]) -> tuple[float, float]:
    """(squared error, squared distance from the mean) of one channel of one frame, of what is finite in it."""
    finite = np.isfinite(exact)
    if not finite.all():
        exact, stored = exact[finite], stored[finite]
    if not exact.size:
        return 0.0, 0.0
    error, shifted = stored - exact, exact - exact[0]
    distance = shifted - shifted.mean()  # exactly zero where all values are the same
    # not BLAS, whose sums depend on the number of threads
    return float(np.einsum("i,i->", error, error)), float(np.einsum("i,i->", distance, distance))


def _ratio(error: float, variation: float) -> float | None:
    """VRMSE; None where nothing varies in space, so that no error is large or small."""
    return float(np.sqrt(error / variation)) if variation > 0 else None
