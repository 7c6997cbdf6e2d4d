"""Which windows come when: arithmetic on (seed, step), nothing else.

Knows no storage, no torch and no ranks until a rank asks for its share. A global batch, the windows of one optimiser
step over all ranks, is all of one dataset and is the same for any world size, micro-batch size and number of
threads; so the whole state of a stream is the step. Each dataset passes each of its windows exactly once before any
comes again. Nothing is held but one number for each trajectory, whatever the number of windows.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from trainer.config.share import micro_batches_of_rank
from trainer.data.permutation import Permutation, keyed_hash

SHARE_BITS = 40
"""Weights are compared as whole multiples of 2**-40, so that the mixture is exact and alike on every machine."""

MIXTURE, DRAW, SHUFFLE = 1, 2, 3
"""First words of the hash keys, so that no two uses of the seed share random numbers."""


@dataclass(frozen=True, slots=True)
class Window:
    """Frames `start`, `start + stride`, … of one trajectory of a split."""

    trajectory: int
    """Its number among the trajectories of the split."""
    start: int


@dataclass(frozen=True, slots=True)
class WindowShape:
    """How windows are cut; they start at every frame at which they fit."""

    frames: int
    stride: int = 1

    @property
    def span(self) -> int:
        """Stored frames from the first to the last, both included."""
        return (self.frames - 1) * self.stride + 1


class WindowSet:
    """All windows of one split of one dataset, numbered trajectory by trajectory."""

    def __init__(self, num_steps: Sequence[int], shape: WindowShape) -> None:
        counts = (max(0, steps - shape.span + 1) for steps in num_steps)
        self._ends = array("q", accumulate(counts))
        self.total = self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Window:
        """The window of this number in [0, total)."""
        trajectory = bisect_right(self._ends, number)
        return Window(trajectory, start=number - (self._ends[trajectory - 1] if trajectory else 0))


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The windows of one forward on one rank."""

    dataset: int
    """Its number in the config."""
    windows: tuple[Window, ...]
    positions: tuple[int, ...]
    """Of each window in the global order."""
    draw: int
    """Random 63-bit integer, the same on every rank at this step."""
    num_scored: int
    """Leading windows that count in evaluation; the rest repeat others, so that all ranks have equal work."""


class Order:
    """The endless sequence of global batches over weighted datasets."""

    def __init__(self, seed: int, datasets: Sequence[WindowSet], *, weights: Sequence[float], batch_size: int) -> None:
        assert len(datasets) == len(weights)
        assert all(dataset.total for dataset in datasets)
        self.batch_size = batch_size
        self._seed, self._datasets, self._weights = seed, tuple(datasets), tuple(weights)

    def dataset_of(self, step: int) -> int:
        """Number of the dataset that the global batch of this step is of."""
        return place(self._seed, step, weights=self._weights)[0]

    def windows(self, step: int, *, first: int = 0, count: int | None = None) -> list[Window]:
        """`count` windows of the global batch of this step, from its window `first` on; without `count`, all."""
        dataset, earlier_batches = place(self._seed, step, weights=self._weights)
        count = self.batch_size - first if count is None else count
        position = earlier_batches * self.batch_size + first
        numbers = self._shuffled(dataset, range(position, position + count))
        return [self._datasets[dataset][number] for number in numbers]

    def draw(self, step: int) -> int:
        """Random 63-bit integer of this step."""
        return draw(self._seed, step)

    def _shuffled(self, dataset: int, positions: range) -> Iterator[int]:
        """Window numbers at these positions of the dataset's own endless sequence, epoch after epoch."""
        total = self._datasets[dataset].total
        for epoch in range(positions.start // total, -(-positions.stop // total)):
            permutation = Permutation(total, key=keyed_hash(SHUFFLE, self._seed, dataset, epoch))
            start = epoch * total
            yield from map(permutation, range(max(0, positions.start - start), min(total, positions.stop - start)))


@dataclass(frozen=True, slots=True)
class RankOrder:
    """One rank's micro-batches of an order, numbered from step 0 on: `micro_batches` to a step, for ever."""

    order: Order
    rank: int
    world_size: int
    micro_batch_size: int

    @property
    def micro_batches(self) -> int:
        """Of one rank in one step."""
        return micro_batches_of_rank(
            self.order.batch_size, world_size=self.world_size, micro_batch_size=self.micro_batch_size
        )

    def micro_batch(self, number: int) -> MicroBatch:
        step, part = divmod(number, self.micro_batches)
        first = (part * self.world_size + self.rank) * self.micro_batch_size
        windows = self.order.windows(step, first=first, count=self.micro_batch_size)
        position = step * self.order.batch_size + first
        return MicroBatch(
            dataset=self.order.dataset_of(step),
            windows=tuple(windows),
            positions=tuple(range(position, position + len(windows))),
            draw=self.order.draw(step),
            num_scored=len(windows),
        )


def draw(seed: int, step: int) -> int:
    """Random 63-bit integer, the same on every rank: the source of all stochastic choices of a step."""
    return keyed_hash(DRAW, seed, step) >> 1


def place(seed: int, step: int, *, weights: Sequence[float]) -> tuple[int, int]:
    """The dataset of a step, and how many earlier steps were of the same dataset.

    The datasets are the leaves of a binary tree. At each node the steps that arrive go left or right in exact
    proportion, as evenly as whole numbers can, from a phase drawn by the seed; so after any number of steps each
    dataset has had its share up to one step for each level of the tree.
    """
    low, high, position = 0, len(weights), step
    while high - low > 1:
        middle = (low + high) // 2
        share = round(sum(weights[low:middle]) / sum(weights[low:high]) * 2**SHARE_BITS)
        phase = keyed_hash(MIXTURE, seed, low, high) % 2**SHARE_BITS
        left_before, left_after = ((count * share + phase) >> SHARE_BITS for count in (position, position + 1))
        if left_after > left_before:
            high, position = middle, left_before
        else:
            low, position = middle, position - left_before
    return low, position


def evaluation_windows(windows: WindowSet, count: int) -> list[Window]:
    """At most `count` windows, spread evenly over the split; the same ones each time."""
    count = min(count, windows.total)
    return [windows[(2 * number + 1) * windows.total // (2 * count)] for number in range(count)]


def evaluation_order(
    datasets: Sequence[Sequence[Window]], *, rank: int, world_size: int, micro_batch_size: int
) -> list[MicroBatch]:
    """One rank's share of the windows of each dataset: every rank gets as many micro-batches, of the same shapes.

    Where the windows do not divide, the last ranks repeat the last window, and do not score it.
    """
    return [
        micro_batch
        for number, windows in enumerate(datasets)
        for micro_batch in _evaluation_share(number, windows, slice(rank, None, world_size), micro_batch_size)
    ]


def _evaluation_share(
    dataset: int, windows: Sequence[Window], mine: slice, micro_batch_size: int
) -> Iterator[MicroBatch]:
    missing = -len(windows) % mine.step
    positions = [*range(len(windows)), *[len(windows) - 1] * missing][mine]
    num_scored = len(range(len(windows))[mine])
    for first in range(0, len(positions), micro_batch_size):
        chosen = positions[first : first + micro_batch_size]
        yield MicroBatch(
            dataset=dataset,
            windows=tuple(windows[position] for position in chosen),
            positions=tuple(chosen),
            draw=0,
            num_scored=min(len(chosen), max(0, num_scored - first)),
        )
