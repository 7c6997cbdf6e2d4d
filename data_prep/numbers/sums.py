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
"""Columns of `block_sums`."""

READ = types.Array(types.float32, 1, "C", readonly=True)
SIGNATURE = types.float64[:, ::1](READ, *(types.int64,) * 3, READ, *(types.int64,) * 2)


def _compiled(function: Callable[..., Any]) -> Any:
    """Kept on disk for later processes, where there is a folder for it."""
    try:
        return njit(SIGNATURE, nogil=True, cache=True)(function)
    except RuntimeError:  # neither beside this file nor in the user's own folder
        return njit(SIGNATURE, nogil=True)(function)


@_compiled
def block_sums(
    values: NDArray[np.float32],
    row: int,
    num_steps: int,
    num_points: int,
    before: NDArray[np.float32],
    block_steps: int,
    block_points: int,
) -> NDArray[np.float64]:
    """One row for each block of steps and points, steps running faster: see `SUM` and those after it.

    Step t lies in `values` at t * `row`; `before`: (points,), the step before the first.
    """
    along_points = (num_points + block_points - 1) // block_points
    along_steps = (num_steps + block_steps - 1) // block_steps
    sums = np.empty((along_points * along_steps, 4))
    lanes = np.empty((4, LANES))
    block = 0
    for first in range(0, num_points, block_points):
        for start in range(0, num_steps, block_steps):
            stop = min(start + block_steps, num_steps)
            lanes[:] = 0.0
            total, squares, change, squared_changes = lanes[0], lanes[1], lanes[2], lanes[3]
            for low in range(first, min(first + block_points, num_points), LANES):
                count = min(LANES, first + block_points - low, num_points - low)
                last = before[low : low + count]
                if start:
                    last = values[(start - 1) * row + low : (start - 1) * row + low + count]
                final = values[(stop - 1) * row + low : (stop - 1) * row + low + count]
                for lane in range(count):
                    change[lane] += np.float64(final[lane]) - np.float64(last[lane])
                step = start
                while step + 4 <= stop:
                    at = step * row + low
                    one, two = values[at : at + count], values[at + row : at + row + count]
                    three = values[at + 2 * row : at + 2 * row + count]
                    four = values[at + 3 * row : at + 3 * row + count]
                    for lane in range(count):
                        a, b = np.float64(one[lane]), np.float64(two[lane])
                        c, d = np.float64(three[lane]), np.float64(four[lane])
                        to_a, to_b, to_c, to_d = a - np.float64(last[lane]), b - a, c - b, d - c
                        total[lane] += (a + b) + (c + d)
                        squares[lane] += (a * a + b * b) + (c * c + d * d)
                        squared_changes[lane] += (to_a * to_a + to_b * to_b) + (to_c * to_c + to_d * to_d)
                    last = four
                    step += 4
                while step < stop:
                    at = step * row + low
                    one = values[at : at + count]
                    for lane in range(count):
                        a = np.float64(one[lane])
                        to_a = a - np.float64(last[lane])
                        total[lane] += a
                        squares[lane] += a * a
                        squared_changes[lane] += to_a * to_a
                    last = one
                    step += 1
            for column in range(4):
                found = 0.0
                for lane in range(LANES):
                    found += lanes[column, lane]
                sums[block, column] = found
            block += 1
    return sums
