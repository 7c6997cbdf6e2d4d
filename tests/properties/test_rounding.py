"""Rounding of mantissas: to nearest, once and for all, and at the cost that is stated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numcodecs import BitRound

from data_prep.contract.manifest import MANTISSA_BITS
from data_prep.numbers.rounding import Rounded, RoundingCost, round_channels, round_mantissa

BITS = st.integers(1, MANTISSA_BITS - 1)
ANY = arrays(np.uint32, st.integers(1, 30), elements=st.integers(0, 2**32 - 1)).map(lambda bits: bits.view(np.float32))
"""Every bit pattern: NaNs with payloads, infinities, subnormal numbers."""
FINITE = ANY.map(lambda values: np.where(np.isfinite(values), values, np.float32(1)))


def rounded(values: np.ndarray, kept: int) -> np.ndarray:
    copy = values.copy()
    round_mantissa(copy, kept)
    return copy


@given(values=FINITE, kept=BITS)
def test_no_value_of_so_few_bits_is_nearer(values: np.ndarray, kept: int) -> None:
    """By plain search: the number cut off, and the one above it."""
    result, step = rounded(values, kept), 1 << (MANTISSA_BITS - kept)
    for value, found in zip(values, result, strict=True):
        below = np.uint32(int(value.view(np.uint32)) // step * step)
        above = np.uint32(min(int(below) + step, 2**32 - 1))
        candidates = [candidate.view(np.float32) for candidate in (below, above)]
        distances = [abs(float(candidate) - float(value)) for candidate in candidates if np.isfinite(candidate)]
        assert abs(float(found) - float(value)) == min(distances)


@given(values=FINITE, kept=BITS)
def test_rounding_again_changes_nothing(values: np.ndarray, kept: int) -> None:
    once = rounded(values, kept)
    np.testing.assert_array_equal(rounded(once, kept).view(np.uint32), once.view(np.uint32))
    assert not (once.view(np.uint32) & np.uint32((1 << (MANTISSA_BITS - kept)) - 1)).any()


@given(values=ANY, kept=BITS)
def test_what_is_finite_stays_so_and_what_is_not_stays_what_it_is(values: np.ndarray, kept: int) -> None:
    result, finite = rounded(values, kept), np.isfinite(values)
    np.testing.assert_array_equal(np.isfinite(result), finite)
    np.testing.assert_array_equal(result[~finite].view(np.uint32), values[~finite].view(np.uint32))


@given(values=FINITE, kept=BITS)
def test_it_is_the_rounding_of_numcodecs_where_that_stays_finite(values: np.ndarray, kept: int) -> None:
    theirs = BitRound(keepbits=kept).encode(values.copy())
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(rounded(values, kept)[finite].view(np.uint32), theirs[finite].view(np.uint32))


def test_exact_channels_are_left_alone() -> None:
    records = np.random.default_rng(0).standard_normal((3, 2, 4, 5)).astype(np.float32)
    before = records.copy()
    result = round_channels(records, (MANTISSA_BITS, 5))
    np.testing.assert_array_equal(records, before)
    np.testing.assert_array_equal(result[:, 0], records[:, 0])
    np.testing.assert_array_equal(result[:, 1], rounded(records[:, 1], 5))
    assert round_channels(records, (MANTISSA_BITS,) * 2) is records


def vrmse(exact: np.ndarray, stored: np.ndarray) -> float:
    """In plain loops, of one channel (time, x, y)."""
    error = variation = 0.0
    for one, other in zip(exact.astype(float), stored.astype(float), strict=True):
        error += sum((b - a) ** 2 for a, b in zip(one.flat, other.flat, strict=True))
        variation += sum((a - one.mean()) ** 2 for a in one.flat)
    return float(np.sqrt(error / variation))


FRAMES = (3 + np.random.default_rng(1).standard_normal((6, 2, 3, 4))).astype(np.float32)


def test_the_cost_is_the_vrmse_of_values_and_of_their_change() -> None:
    frames = Rounded.of(FRAMES, (4, 7))
    records = RoundingCost.of(frames).records(("a", "b"), (4, 7))
    for number, (name, kept) in enumerate((("a", 4), ("b", 7))):
        exact, stored = FRAMES[:, number], frames.stored[:, number]
        assert records[name].kept_bits == kept
        assert records[name].vrmse == pytest.approx(vrmse(exact, stored), rel=1e-12)
        changes = [np.diff(values.astype(float), axis=0) for values in (exact, stored)]
        assert records[name].vrmse_delta == pytest.approx(vrmse(*changes), rel=1e-12)


@given(cut=st.integers(1, 5))
def test_the_cost_of_parts_adds_up(cut: int) -> None:
    whole = RoundingCost.of(Rounded.of(FRAMES, (4, 7)))
    first, before, second = (
        Rounded.of(FRAMES[window], (4, 7)) for window in (slice(0, cut), slice(cut - 1, cut), slice(cut, 6))
    )
    parts = RoundingCost.of(first) + RoundingCost.of(second, before)
    for key, values in whole.__dict__.items():
        np.testing.assert_allclose(parts.__dict__[key], values, rtol=1e-12)
    assert RoundingCost.load(whole.dump()).dump() == whole.dump()


def test_a_uniform_channel_has_no_vrmse_and_divides_nothing() -> None:
    cost = RoundingCost.of(Rounded.of(np.full((3, 1, 4, 4), 1.2345678, np.float32), (3,)))
    assert cost.error[0] > 0
    assert cost.records(("a",), (3,))["a"].vrmse is None


def test_values_that_are_not_finite_count_for_nothing() -> None:
    holed = FRAMES.copy()
    holed[2:4, 0, 1, 1] = np.nan
    holed[2:4, 0, 1, 2] = np.inf
    cost = RoundingCost.of(Rounded.of(holed, (4, 7)))
    assert all(np.isfinite(values).all() for values in cost.__dict__.values())
    assert (cost.error > 0).all()
