"""The one loop that every value of a conversion goes through, compiled: sums, squares and squared changes at once.

NumPy would pass over the values five times. Imported where something is counted and no sooner: it takes half a second,
and two more where the compiled code is not kept from an earlier run.
No number is rounded otherwise on another processor: sums run over points, each in an order of its own, and nothing is
reordered to make them fast.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

LANES = 512
"""Points that are summed side by side; their sums stay in a core's nearest cache."""

SUM, SQUARES, CHANGE, SQUARED_CHANGES = range(4)
"""Columns of `block_sums`, rows of the sums of lanes."""

READ = types.Array(types.float32, 1, "C", readonly=True)
SIGNATURE = types.float64[:, ::1](READ, *(types.int64,) * 3, READ, *(types.int64,) * 2)

Values = NDArray[np.float32]
Sums = NDArray[np.float64]


def _part(function: Callable[..., None]) -> Any:
    """Compiled into what calls it."""
    return njit(function)


def _compiled(function: Callable[..., Any]) -> Any:
    """Kept on disk for later processes, where there is a folder for it."""
    try:
        return njit(SIGNATURE, nogil=True, cache=True)(function)
    except RuntimeError:  # neither beside this file nor in the user's own folder
        return njit(SIGNATURE, nogil=True)(function)


@_part
def _add_change(lanes: Sums, last: Values, final: Values) -> None:
    """What the values change by from the step before a block to its final one."""
    change = lanes[CHANGE]
    for lane in range(final.size):
        change[lane] += np.float64(final[lane]) - np.float64(last[lane])


@_part
def _add_step(lanes: Sums, last: Values, step: Values) -> None:
    total, squares, squared_changes = lanes[SUM], lanes[SQUARES], lanes[SQUARED_CHANGES]
    for lane in range(step.size):
        value = np.float64(step[lane])
        change = value - np.float64(last[lane])
        total[lane] += value
        squares[lane] += value * value
        squared_changes[lane] += change * change


@_part
def _add_four_steps(lanes: Sums, last: Values, one: Values, two: Values, three: Values, four: Values) -> None:
    """As four times `_add_step`, with a quarter of its reads and writes of sums."""
    total, squares, squared_changes = lanes[SUM], lanes[SQUARES], lanes[SQUARED_CHANGES]
    for lane in range(one.size):
        a, b = np.float64(one[lane]), np.float64(two[lane])
        c, d = np.float64(three[lane]), np.float64(four[lane])
        to_a, to_b, to_c, to_d = a - np.float64(last[lane]), b - a, c - b, d - c
        total[lane] += (a + b) + (c + d)
        squares[lane] += (a * a + b * b) + (c * c + d * d)
        squared_changes[lane] += (to_a * to_a + to_b * to_b) + (to_c * to_c + to_d * to_d)


@_part
def _add_steps(lanes: Sums, last: Values, values: Values, row: int, num_steps: int, count: int) -> None:
    """The first `count` points of each step: step t lies in `values` at t * `row`; `last` is the step before them."""
    _add_change(lanes, last, values[(num_steps - 1) * row :][:count])
    step = 0
    while step + 4 <= num_steps:
        at = step * row
        one, two = values[at : at + count], values[at + row : at + row + count]
        three = values[at + 2 * row : at + 2 * row + count]
        four = values[at + 3 * row : at + 3 * row + count]
        _add_four_steps(lanes, last, one, two, three, four)
        last = four
        step += 4
    while step < num_steps:
        one = values[step * row : step * row + count]
        _add_step(lanes, last, one)
        last = one
        step += 1


@_part
def _close(lanes: Sums, sums: Sums) -> None:
    """Sums the lanes into `sums`: (4,), one lane after the other, and sets them to nothing."""
    for column in range(4):
        found = 0.0
        for lane in range(LANES):
            found += lanes[column, lane]
        sums[column] = found
    lanes[:] = 0.0


@_compiled
def block_sums(
    values: Values,
    row: int,
    num_steps: int,
    num_points: int,
    before: Values,
    block_steps: int,
    block_points: int,
) -> Sums:
    """One row for each block of steps and points, steps running faster: see `SUM` and those after it.

    Step t lies in `values` at t * `row`; `before`: (points,), the step before the first.
    """
    along_points = (num_points + block_points - 1) // block_points
    along_steps = (num_steps + block_steps - 1) // block_steps
    sums = np.empty((along_points * along_steps, 4))
    lanes = np.zeros((4, LANES))
    block = 0
    for first in range(0, num_points, block_points):
        behind = min(first + block_points, num_points)
        for start in range(0, num_steps, block_steps):
            stop = min(start + block_steps, num_steps)
            for low in range(first, behind, LANES):
                count = min(LANES, behind - low)
                last = values[(start - 1) * row + low :] if start else before[low:]
                _add_steps(lanes, last, values[start * row + low :], row, stop - start, count)
            _close(lanes, sums[block])
            block += 1
    return sums
