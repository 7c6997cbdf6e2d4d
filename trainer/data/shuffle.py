"""The order of one epoch of one dataset: a permutation of its windows, computed where it is asked for.

A full shuffle takes any window from anywhere. A grouped one goes through the shards in random order, so many at a
time, and shuffles the windows of the shards that it is at: each shard is read during one stretch of the epoch, and
never again in it, so that a cache need not hold more than two groups. It holds two numbers for each shard.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate

from trainer.permutation import Permutation, keyed_hash

Shuffle = Callable[[int], int]
"""Takes a position in [0, total) of an epoch to the number of the window that comes there."""

WITHIN = 1
"""First word of the keys inside a group, so that they share nothing with the key of the shards' own order."""


class GroupedShuffle:
    """`shard_ends`: for each shard the number after its last window. `group`: shards that are read at a time."""

    def __init__(self, shard_ends: Sequence[int], *, group: int, key: int) -> None:
        self._key = key
        permutation = Permutation(len(shard_ends), key=key)
        shards = [permutation(number) for number in range(len(shard_ends))]
        firsts = [shard_ends[shard - 1] if shard else 0 for shard in shards]
        self._firsts = array("q", firsts)
        self._ends = array("q", accumulate(shard_ends[s] - first for s, first in zip(shards, firsts, strict=True)))
        self._group_ends = array("q", [*self._ends[group - 1 : -1 : group], self._ends[-1]])
        self._within = lru_cache(maxsize=4)(self._permutation_of)

    def __call__(self, position: int) -> int:
        group = bisect_right(self._group_ends, position)
        first = self._group_ends[group - 1] if group else 0
        place = first + self._within(group)(position - first)
        shard = bisect_right(self._ends, place)
        return self._firsts[shard] + place - (self._ends[shard - 1] if shard else 0)

    def _permutation_of(self, group: int) -> Permutation:
        first = self._group_ends[group - 1] if group else 0
        return Permutation(self._group_ends[group] - first, key=keyed_hash(WITHIN, self._key, group))
