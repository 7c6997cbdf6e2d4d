"""Keyed hashes and pseudo-random permutations of any size, in constant memory.

Their numbers are part of what a run is: they must never change, so nothing here rests on a library's random
generator. Plain integers, since batches are small: a window costs microseconds, whatever the size of the set.
"""

from functools import lru_cache

ROUNDS = 6
"""Even, so that halves of unequal width return to their places; four already look random (Luby and Rackoff, 1988)."""

SORTED_TOTAL = 256
"""Sets up to this size are sorted by hash: halves of so few bits mix too little, and the walk would be long."""

_WORD = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Constants of splitmix64 (Steele, Lea and Flood, 2014)."""


def keyed_hash(*words: int) -> int:
    """64 random bits for this sequence of non-negative integers below 2**64."""
    state = len(words)
    for word in words:
        state = _mix(state ^ _mix((word + _GOLDEN) & _WORD))
    return state


class Permutation:
    """A random permutation of [0, total), chosen by `key`.

    A Feistel network over the next power of two, walked along its cycles until it falls inside (Black and Rogaway,
    "Ciphers with arbitrary finite domains", 2002): less than two passes through it on average.
    """

    def __init__(self, total: int, *, key: int) -> None:
        self.total = total
        self._key = key
        bits = (total - 1).bit_length()
        self._widths = (bits // 2, bits - bits // 2)
        keys = [_mix((key + number * _GOLDEN) & _WORD) for number in range(1, ROUNDS + 1)]
        self._key_pairs = tuple(zip(keys[::2], keys[1::2], strict=True))

    def __call__(self, index: int) -> int:
        """Where it takes `index`."""
        if self.total <= SORTED_TOTAL:
            return _by_hash(self.total, self._key)[index]
        index = self._scramble(index)
        while index >= self.total:
            index = self._scramble(index)
        return index

    def _scramble(self, value: int) -> int:
        """A permutation of the next power of two."""
        right_bits, left_bits = self._widths
        right_mask, left_mask = (1 << right_bits) - 1, (1 << left_bits) - 1
        left, right = value >> right_bits, value & right_mask
        for first_key, second_key in self._key_pairs:  # `_mix`, written out: most of what the order of a run costs
            word = (right + first_key) & _WORD
            word = ((word ^ (word >> 30)) * _FIRST) & _WORD
            word = ((word ^ (word >> 27)) * _SECOND) & _WORD
            left ^= (word ^ (word >> 31)) & left_mask
            word = (left + second_key) & _WORD
            word = ((word ^ (word >> 30)) * _FIRST) & _WORD
            word = ((word ^ (word >> 27)) * _SECOND) & _WORD
            right ^= (word ^ (word >> 31)) & right_mask
        return (left << right_bits) | right


@lru_cache(maxsize=64)
def _by_hash(total: int, key: int) -> tuple[int, ...]:
    return tuple(sorted(range(total), key=lambda index: (keyed_hash(key, index), index)))


def _mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * _FIRST) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND) & _WORD
    return word ^ (word >> 31)
