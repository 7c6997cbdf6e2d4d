"""Checksums of parts of a file, in whatever order they come, give that of the whole."""

from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from data_prep.contract.checksum import checksum
from data_prep.sources.stretches import Stretch, gaps, joined

FILES = st.binary(min_size=1, max_size=300)
CUTS = st.sets(st.integers(1, 299))


def cut(data: bytes, cuts: set[int]) -> list[Stretch]:
    edges = sorted({0, len(data), *(edge for edge in cuts if edge < len(data))})
    return [Stretch(start, stop - start, checksum(data[start:stop])) for start, stop in pairwise(edges)]


@given(data=FILES, cuts=CUTS, order=st.randoms(use_true_random=False))
def test_all_parts_together_are_the_file(data: bytes, cuts: set[int], order: Random) -> None:
    parts = cut(data, cuts)
    order.shuffle(parts)
    assert joined(parts) == [Stretch(0, len(data), checksum(data))]


@given(data=FILES, cuts=CUTS, chosen=st.sets(st.integers(0, 299)))
def test_what_some_parts_leave_are_the_gaps(data: bytes, cuts: set[int], chosen: set[int]) -> None:
    parts = cut(data, cuts)
    read = [part for number, part in enumerate(parts) if number in chosen]
    rest = [
        Stretch(start, stop - start, checksum(data[start:stop]))
        for start, stop in gaps([(part.offset, part.stop) for part in read], stop=len(data))
    ]
    assert sum(part.bytes for part in read + rest) == len(data)
    assert joined(read + rest) == [Stretch(0, len(data), checksum(data))]
