"""What the order costs: processor time and memory for a window, from a thousand windows to a billion.

    python -m tests.benchmarks.test_order_cost

As an ordinary test it runs once, small, and asserts no time.
"""

import json
import time
import tracemalloc
from dataclasses import asdict, dataclass

from trainer.data.order import Order
from trainer.data.windows import WindowSet, WindowShape

TRAJECTORIES, BATCH_SIZE = 1000, 64


@dataclass(frozen=True)
class OrderCost:
    windows: int
    shards_in_group: int | None
    microseconds_per_window: float
    """Processor time, the least of the rounds."""
    peak_kilobytes: float
    """Of the order at work, the lengths of the trajectories included."""


def measure(windows: int, *, shards_in_group: int | None, rounds: int, steps: int) -> OrderCost:
    tracemalloc.start()
    windows_of_dataset = WindowSet([windows // TRAJECTORIES + 1] * TRAJECTORIES, WindowShape(2))
    order = Order(0, [windows_of_dataset], weights=[1.0], batch_size=BATCH_SIZE, shards_in_group=shards_in_group)
    order.windows(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    seconds = min(_seconds(order, steps) for _ in range(rounds))
    return OrderCost(windows, shards_in_group, seconds / steps / BATCH_SIZE * 1e6, peak / 1e3)


def _seconds(order: Order, steps: int) -> float:
    begin = time.process_time()
    for step in range(steps):
        order.windows(step)
    return time.process_time() - begin


def test_a_billion_windows_take_no_more_memory_than_a_thousand_times_fewer() -> None:
    for group in (None, 8):
        few, many = (measure(total, shards_in_group=group, rounds=1, steps=2) for total in (10**6, 10**9))
        assert many.microseconds_per_window > 0
        assert many.peak_kilobytes < 1.2 * few.peak_kilobytes


if __name__ == "__main__":
    for size in (10**3, 10**6, 10**9):
        for shards in (None, 8):
            print(json.dumps(asdict(measure(size, shards_in_group=shards, rounds=5, steps=100))))
