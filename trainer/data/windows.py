"""The windows of one dataset: how trajectories are cut, how windows are numbered, and which lie in the same shard.

Pure arithmetic on the lengths of trajectories; knows no storage and no order in time.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Window:
    """Frames `start`, `start + stride`, … of one trajectory of a split."""

    trajectory: int
    """Its number among the trajectories of the split."""
    start: int
    stride: int = 1
    corner: tuple[int, ...] = ()
    """First point that it shows along each axis of space; () where it shows all of space."""


@dataclass(frozen=True, slots=True)
class WindowShape:
    """How windows are cut; they start at every frame, or every so many frames, at which they fit."""

    frames: int
    stride: int = 1
    start_every: int = 1
    """Stored frames from one window's start to the next one's."""

    @property
    def span(self) -> int:
        """Stored frames from the first to the last, both included."""
        return (self.frames - 1) * self.stride + 1

    def count(self, num_steps: int) -> int:
        """Windows of a trajectory of so many frames."""
        return max(0, (num_steps - self.span) // self.start_every + 1)


class WindowSet:
    """All windows of one split of one dataset, numbered trajectory by trajectory, and within one shape by shape.

    Several shapes, which differ in stride, are several ways to see the same frames: each window of each is one
    window of the set. `shard_starts` has for each trajectory the frames at which another shard begins (its first
    frame too, unless it lies in the shard of the trajectory before it); without it each trajectory counts as one.
    """

    def __init__(
        self,
        num_steps: Sequence[int],
        *shapes: WindowShape,
        shard_starts: Sequence[Sequence[int]] | None = None,
        num_corners: Sequence[int] = (),
    ) -> None:
        """`num_corners`: places of a crop along each axis of space; () where windows show all of space."""
        assert shapes
        assert len({shape.start_every for shape in shapes}) == 1
        self.shapes, self.num_corners = shapes, tuple(num_corners)
        self._ends = array("q", accumulate(shape.count(steps) for steps in num_steps for shape in shapes))
        self._shard_starts = shard_starts
        self.total = self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Window:
        """The window of this number in [0, total)."""
        slot = bisect_right(self._ends, number)
        trajectory, which = divmod(slot, len(self.shapes))
        shape = self.shapes[which]
        return Window(trajectory, (number - self._first(slot)) * shape.start_every, shape.stride)

    @cached_property
    def shard_ends(self) -> "array[int]":
        """For each run of windows whose first frames lie in one shard, the number after its last window."""
        firsts = sorted({first for first in self._shard_firsts() if 0 < first < self.total})
        return array("q", [*firsts, self.total] if self.total else [])

    def _first(self, slot: int) -> int:
        return self._ends[slot - 1] if slot else 0

    def _shard_firsts(self) -> Iterator[int]:
        """Numbers of windows with which a run begins, in no order, some more than once."""
        for slot in range(len(self._ends)):
            trajectory, which = divmod(slot, len(self.shapes))
            starts = (0,) if self._shard_starts is None else tuple(self._shard_starts[trajectory])
            if which and any(starts):  # a further shape goes back to the trajectory's first shard
                starts = (0, *starts)
            elif which:
                continue
            for frame in starts:
                yield min(self._first(slot) - (-frame // self.shapes[which].start_every), self._ends[slot])
