"""Moments by parts are the moments of the whole, however it is cut; and those of plain NumPy."""

import json
from itertools import pairwise
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_prep.numbers.statistics import BLOCK_VALUES, FrameMoments, Moments

VALUES = st.floats(-1e3, 1e3, width=32)
FRAMES = st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=VALUES)
)
"""(time, channel, x, y)."""

WITH_GAPS = FRAMES.flatmap(
    lambda frames: st.tuples(
        st.just(frames), arrays(np.float32, frames.shape, elements=st.sampled_from([0, 0, 0, np.nan, np.inf, -np.inf]))
    )
).map(lambda pair: pair[0] + pair[1])
"""As FRAMES, about half of the values not finite."""


def assert_same(left: FrameMoments, right: FrameMoments) -> None:
    for ours, theirs in ((left.values, right.values), (left.deltas, right.deltas)):
        assert ours.count.tolist() == theirs.count.tolist()
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(ours.squared_distance, theirs.squared_distance, rtol=1e-11, atol=1e-9)


def by_parts(frames: np.ndarray, cuts: list[int]) -> list[FrameMoments]:
    edges = sorted({0, len(frames), *(cut % len(frames) for cut in cuts)})
    return [
        FrameMoments.of(frames[start:stop], frames[start - 1 : start] if start else None)
        for start, stop in pairwise(edges)
    ]


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 100), max_size=4))
def test_the_parts_together_are_the_whole(frames: np.ndarray, cuts: list[int]) -> None:
    total = FrameMoments.none(frames.shape[1])
    for part in by_parts(frames, cuts):
        total = total.merge(part)
    assert_same(total, FrameMoments.of(frames))


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 100), max_size=4), order=st.randoms())
def test_parts_merge_in_any_order(frames: np.ndarray, cuts: list[int], order: Random) -> None:
    parts = by_parts(frames, cuts)
    order.shuffle(parts)
    total = FrameMoments.none(frames.shape[1])
    for part in parts:
        total = part.merge(total)
    assert_same(total, FrameMoments.of(frames))


@given(frames=FRAMES)
def test_moments_are_those_of_numpy(frames: np.ndarray) -> None:
    exact = frames.astype(np.float64)
    moments = FrameMoments.of(frames)
    np.testing.assert_allclose(moments.values.mean, exact.mean((0, 2, 3)), rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(moments.values.std, exact.std((0, 2, 3)), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.values.rms, np.sqrt((exact**2).mean((0, 2, 3))), rtol=1e-9, atol=1e-9)
    if len(frames) > 1:
        change = np.diff(exact, axis=0)
        np.testing.assert_allclose(moments.deltas.mean, change.mean((0, 2, 3)), rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(moments.deltas.std, change.std((0, 2, 3)), rtol=1e-9, atol=1e-9)


def test_squares_beyond_float64_end_in_an_infinite_spread() -> None:
    """Of values that are finite: no second look could find fewer of them."""
    with np.errstate(over="ignore"):
        moments = Moments.of(np.array([[1e200, 1.0], [3e200, 3.0]]))
    assert moments.count.tolist() == [2, 2]
    np.testing.assert_allclose(moments.mean, [2e200, 2])
    assert moments.squared_distance.tolist() == [np.inf, 2]


def test_a_small_spread_on_a_large_mean_is_kept() -> None:
    """Where sums of squares in float64 would lose it: spread 1e-3 on a mean of 1e5."""
    generator = np.random.default_rng(0)
    steps = generator.integers(0, 2, (8, 1, 200, 200)).astype(np.float32) / 128
    moments = FrameMoments.of(np.float32(1e5) + steps)
    np.testing.assert_allclose(moments.values.std, steps.astype(np.float64).std(), rtol=1e-9)


def test_frames_larger_than_a_block_are_whole() -> None:
    frames = np.random.default_rng(1).standard_normal((3, 2, BLOCK_VALUES + 5)).astype(np.float32)
    np.testing.assert_allclose(FrameMoments.of(frames).values.std, frames.astype(float).std((0, 2)), rtol=1e-12)


@given(frames=FRAMES)
def test_moments_survive_json_to_the_last_bit(frames: np.ndarray) -> None:
    moments = FrameMoments.of(frames)
    again = FrameMoments.load(json.loads(json.dumps(moments.dump())))
    assert again.dump() == moments.dump()
    assert again.values.mean.tobytes() == moments.values.mean.tobytes()


@given(frames=FRAMES)
def test_a_single_frame_has_no_change(frames: np.ndarray) -> None:
    assert not FrameMoments.of(frames[:1]).deltas.count.any()


@given(frames=WITH_GAPS, cuts=st.lists(st.integers(0, 100), max_size=4))
def test_values_that_are_not_finite_are_left_out_however_it_is_cut(frames: np.ndarray, cuts: list[int]) -> None:
    total = FrameMoments.none(frames.shape[1])
    for part in by_parts(frames, cuts):
        total = total.merge(part)
    assert_same(total, FrameMoments.of(frames))
    exact = frames.astype(np.float64)
    with np.errstate(invalid="ignore"):
        change = np.diff(exact, axis=0)
    for found, values in ((total.values, exact), (total.deltas, change)):
        for channel in range(frames.shape[1]):
            finite = values[:, channel][np.isfinite(values[:, channel])]
            assert found.count[channel] == finite.size
            np.testing.assert_allclose(found.mean[channel], finite.mean() if finite.size else 0, rtol=1e-12, atol=1e-11)
            np.testing.assert_allclose(found.std[channel], finite.std() if finite.size else 0, rtol=1e-9, atol=1e-9)
