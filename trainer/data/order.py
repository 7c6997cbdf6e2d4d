"""Which windows come when: arithmetic on (seed, step), nothing else.

Knows no storage, no torch and no ranks until a rank asks for its share. A global batch, the windows of one optimiser
step over all ranks, is all of one dataset and is the same for any world size, micro-batch size and number of
threads; so the whole state of a stream is the step. Each dataset passes each of its windows exactly once before any
comes again. Nothing is held but one number for each trajectory, whatever the number of windows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from trainer.config.share import micro_batch_size_of, micro_batches_of_rank
from trainer.data.shuffle import GroupedShuffle, Shuffle
from trainer.data.windows import Window, WindowSet
from trainer.permutation import Permutation, keyed_hash

SHARE_BITS = 40
"""Weights are compared as whole multiples of 2**-40, so that the mixture is exact and alike on every machine."""

MIXTURE, DRAW, SHUFFLE, SPARE, CROP = 1, 2, 3, 4, 5
"""First words of the hash keys, so that no two uses of the seed share random numbers."""


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
    step: int = 0
    """Optimiser steps taken before it, in training."""


class Order:
    """The endless sequence of global batches over weighted datasets.

    A global batch has `parts` parts of equal work, each of one dataset; of dataset d it holds `batch_sizes[d]`
    windows where all parts are of it. With `shards_in_group`, windows come from so many shards of a dataset at a
    time, and are dealt to the ranks so that each rank meets few of the shards; without, from anywhere.
    """

    def __init__(
        self,
        seed: int,
        datasets: Sequence[WindowSet],
        *,
        weights: Sequence[float],
        batch_size: int,
        batch_sizes: Sequence[int] | None = None,
        parts: int = 1,
        shards_in_group: int | None = None,
    ) -> None:
        self.batch_size, self.parts, self.shards_in_group = batch_size, parts, shards_in_group
        self.batch_sizes = tuple(batch_sizes or [batch_size] * len(datasets))
        assert len(datasets) == len(weights) == len(self.batch_sizes)
        assert all(dataset.total for dataset in datasets)
        assert all(size <= batch_size and size % parts == 0 for size in self.batch_sizes)
        self._seed, self._datasets, self._weights = seed, tuple(datasets), tuple(weights)
        self._shuffle = lru_cache(maxsize=2 * len(datasets))(self._shuffle_of)  # the last epoch ends as the next begins

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the parts that are of each dataset, in the long run."""
        return tuple(weight / sum(self._weights) for weight in self._weights)

    def dataset_of(self, step: int, *, part: int = 0) -> int:
        """Number of the dataset that this part of the global batch of this step is of."""
        return self._place(step, part)[0]

    def num_windows(self, step: int) -> int:
        """Windows of the global batch of this step."""
        return sum(self.batch_sizes[self.dataset_of(step, part=part)] // self.parts for part in range(self.parts))

    def windows(self, step: int, *, part: int = 0, first: int = 0, count: int | None = None) -> list[Window]:
        """`count` windows of a part of the global batch, from its window `first` on; without `count`, all."""
        dataset, earlier_parts = self._place(step, part)
        size = self.batch_sizes[dataset] // self.parts
        position = earlier_parts * size + first
        numbers = self._shuffled(dataset, range(position, position + (size - first if count is None else count)))
        return [self._window(dataset, number, place) for place, number in enumerate(numbers, start=position)]

    def draw(self, step: int) -> int:
        """Random 63-bit integer of this step."""
        return draw(self._seed, step)

    def spare(self, dataset: int, position: int, attempt: int) -> Window:
        """What stands in for the window at this position of the global order where that cannot be read."""
        number = keyed_hash(SPARE, self._seed, position, attempt) % self._datasets[dataset].total
        return self._window(dataset, number, position, attempt)

    def _window(self, dataset: int, number: int, *place: int) -> Window:
        """The window of this number; where it is cropped, its place in the order draws the corner."""
        windows = self._datasets[dataset]
        if not windows.num_corners:
            return windows[number]
        corner = [
            keyed_hash(CROP, self._seed, dataset, axis, *place) % count
            for axis, count in enumerate(windows.num_corners)
        ]
        return replace(windows[number], corner=tuple(corner))

    def _place(self, step: int, part: int) -> tuple[int, int]:
        return place(self._seed, step * self.parts + part, weights=self._weights)

    def _shuffled(self, dataset: int, positions: range) -> Iterator[int]:
        """Window numbers at these positions of the dataset's own endless sequence, epoch after epoch."""
        total = self._datasets[dataset].total
        for epoch in range(positions.start // total, -(-positions.stop // total)):
            start = epoch * total
            inside = range(max(0, positions.start - start), min(total, positions.stop - start))
            yield from map(self._shuffle(dataset, epoch), inside)

    def _shuffle_of(self, dataset: int, epoch: int) -> Shuffle:
        windows, key = self._datasets[dataset], keyed_hash(SHUFFLE, self._seed, dataset, epoch)
        if self.shards_in_group is None:
            return Permutation(windows.total, key=key)
        return GroupedShuffle(windows.shard_ends, group=self.shards_in_group, key=key)


class RankOrder:
    """One rank's micro-batches of an order, numbered from step 0 on: `micro_batches` to a step, for ever.

    At any number all ranks are at the same part, hence the same dataset: sharded weights are gathered by all alike.
    """

    def __init__(self, order: Order, rank: int, world_size: int, micro_batch_size: int) -> None:
        """Raises RefusedError when the ranks cannot share the global batch in micro-batches of this size."""
        self.order, self.rank, self.world_size = order, rank, world_size
        self.micro_batches = micro_batches_of_rank(
            order.batch_size, world_size=world_size, micro_batch_size=micro_batch_size, parts=order.parts
        )
        """Of one rank in one step."""
        self.micro_batch_sizes = tuple(
            micro_batch_size_of(size, batch_size=order.batch_size, micro_batch_size=micro_batch_size)
            for size in order.batch_sizes
        )
        """Windows of a micro-batch of each dataset."""
        self._dealt = lru_cache(maxsize=2)(self._deal)

    def micro_batch(self, number: int) -> MicroBatch:
        step, turn = divmod(number, self.micro_batches)
        turns = self.micro_batches // self.order.parts
        part, turn = divmod(turn, turns)
        dataset = self.order.dataset_of(step, part=part)
        size = self.micro_batch_sizes[dataset]
        if self.order.shards_in_group is None:
            first = (turn * self.world_size + self.rank) * size
            places = list(enumerate(self.order.windows(step, part=part, first=first, count=size), start=first))
        else:
            first = (self.rank * turns + turn) * size
            places = self._dealt(step, part)[first : first + size]
        position = step * self.order.batch_size + part * (self.order.batch_size // self.order.parts)
        return MicroBatch(
            dataset=dataset,
            windows=tuple(window for _, window in places),
            positions=tuple(position + place for place, _ in places),
            draw=self.order.draw(step),
            num_scored=size,
            step=step,
        )

    def _deal(self, step: int, part: int) -> list[tuple[int, Window]]:
        """(place in the part, window), neighbours in storage together: a rank gets a stretch of them, of few shards."""
        return sorted(enumerate(self.order.windows(step, part=part)), key=lambda one: (one[1].trajectory, one[1].start))


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
    datasets: Sequence[Sequence[Window]], *, rank: int, world_size: int, micro_batch_sizes: Sequence[int]
) -> list[MicroBatch]:
    """One rank's share of the windows of each dataset: every rank gets as many micro-batches, of the same shapes.

    Where the windows do not divide, the last ranks repeat the last window, and do not score it.
    """
    return [
        micro_batch
        for number, (windows, size) in enumerate(zip(datasets, micro_batch_sizes, strict=True))
        for micro_batch in _evaluation_share(number, windows, slice(rank, None, world_size), size)
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
