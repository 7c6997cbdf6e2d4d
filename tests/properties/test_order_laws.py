"""Laws of the order, for any sizes."""

from bisect import bisect_right
from collections import Counter
from fractions import Fraction
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from trainer.data.order import Order, RankOrder, evaluation_order, evaluation_windows, place
from trainer.data.shuffle import GroupedShuffle
from trainer.data.windows import Window, WindowSet, WindowShape
from trainer.permutation import Permutation

SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=6).filter(lambda lengths: max(lengths) >= 3)
KEYS = st.integers(0, 2**64 - 1)
STRIDES = st.lists(st.integers(1, 3), min_size=1, max_size=3, unique=True)
WEIGHTS = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=9)


@given(total=st.integers(1, 3000), key=KEYS)
def test_a_permutation_reaches_everything_once(total: int, key: int) -> None:
    assert sorted(map(Permutation(total, key=key), range(total))) == list(range(total))


@given(lengths=LENGTHS, frames=st.integers(1, 3), strides=STRIDES, start_every=st.integers(1, 4))
def test_windows_are_those_that_plain_loops_find(
    lengths: list[int], frames: int, strides: list[int], start_every: int
) -> None:
    expected = [
        Window(trajectory, start, stride)
        for trajectory, length in enumerate(lengths)
        for stride in strides
        for start in range(0, length, start_every)
        if start + (frames - 1) * stride < length
    ]
    windows = WindowSet(lengths, *(WindowShape(frames, stride, start_every) for stride in strides))
    assert [windows[number] for number in range(windows.total)] == expected


@given(lengths=LENGTHS, strides=STRIDES, start_every=st.integers(1, 4), data=st.data())
def test_a_run_of_windows_begins_in_one_shard_and_could_not_be_longer(
    lengths: list[int], strides: list[int], start_every: int, data: st.DataObject
) -> None:
    """Further strides may cut a run in two."""
    shards = list(accumulate(data.draw(st.booleans()) for _ in range(sum(lengths))))
    firsts = [0, *accumulate(lengths)]
    shard_of = [shards[first : first + length] for first, length in zip(firsts, lengths, strict=False)]
    starts = [
        [frame for frame in range(length) if first + frame == 0 or shards[first + frame] != shards[first + frame - 1]]
        for first, length in zip(firsts, lengths, strict=False)
    ]
    windows = WindowSet(lengths, *(WindowShape(2, stride, start_every) for stride in strides), shard_starts=starts)
    begins = [shard_of[windows[number].trajectory][windows[number].start] for number in range(windows.total)]
    changes = {number for number in range(1, len(begins)) if begins[number] != begins[number - 1]} | {windows.total}
    if windows.total:
        assert set(windows.shard_ends) >= changes
        assert len(strides) > 1 or set(windows.shard_ends) == changes


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=40), group=st.integers(1, 50), key=KEYS)
def test_a_grouped_shuffle_reaches_everything_once_and_each_shard_in_one_stretch(
    sizes: list[int], group: int, key: int
) -> None:
    ends = list(accumulate(sizes))
    shuffle = GroupedShuffle(ends, group=group, key=key)
    found = [shuffle(position) for position in range(ends[-1])]
    assert sorted(found) == list(range(ends[-1]))
    shards, at = [bisect_right(ends, number) for number in found], 0
    while at < len(shards):
        together = set(dict.fromkeys(shards[at:])) if len(set(shards[at:])) <= group else set()
        if not together:  # the next `group` shards to appear, and nothing else until all of them are through
            together = set(list(dict.fromkeys(shards[at:]))[:group])
        length = sum(sizes[shard] for shard in together)
        assert set(shards[at : at + length]) == together
        at += length


GROUPS = st.none() | st.integers(1, 4)


@given(
    seed=SEEDS,
    lengths=st.lists(LENGTHS, min_size=1, max_size=4),
    batch_size=st.integers(1, 20),
    parts=st.integers(1, 3),
    group=GROUPS,
    data=st.data(),
)
def test_each_epoch_of_each_dataset_has_every_window_once(
    seed: int, lengths: list[list[int]], batch_size: int, parts: int, group: int | None, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(lengths), max_size=len(lengths)))
    sizes = data.draw(st.lists(st.integers(1, batch_size), min_size=len(lengths), max_size=len(lengths)))
    sets = [WindowSet(one, WindowShape(3), WindowShape(2, 2)) for one in lengths]
    order = Order(
        seed,
        sets,
        weights=weights,
        batch_size=batch_size * parts,
        batch_sizes=[size * parts for size in sizes],
        parts=parts,
        shards_in_group=group,
    )
    seen: list[list[Window]] = [[] for _ in sets]
    for step in range(40):
        found = [(order.dataset_of(step, part=part), order.windows(step, part=part)) for part in range(parts)]
        assert sum(len(windows) for _, windows in found) == order.num_windows(step)
        for dataset, windows in found:
            seen[dataset] += windows
    for windows, found in zip(sets, seen, strict=True):
        for first in range(0, len(found) - windows.total + 1, windows.total):
            assert len(set(found[first : first + windows.total])) == windows.total


@given(
    seed=SEEDS,
    lengths=LENGTHS,
    world_size=st.sampled_from([1, 2, 3, 4, 8]),
    micro_batch_size=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    parts=st.integers(1, 3),
    group=GROUPS,
    step=st.integers(0, 10**6),
)
def test_shares_of_all_ranks_make_up_the_global_batch(
    seed: int,
    lengths: list[int],
    world_size: int,
    micro_batch_size: int,
    accumulation: int,
    parts: int,
    group: int | None,
    step: int,
) -> None:
    """The dataset of larger windows has half as many in each micro-batch."""
    batch_size = world_size * 2 * micro_batch_size * accumulation * parts
    sets = [WindowSet(lengths, WindowShape(2)), WindowSet([30], WindowShape(3))]
    order = Order(
        seed,
        sets,
        weights=[1, 2],
        batch_size=batch_size,
        batch_sizes=[batch_size, batch_size // 2],
        parts=parts,
        shards_in_group=group,
    )
    shares = [RankOrder(order, rank, world_size, 2 * micro_batch_size) for rank in range(world_size)]
    found: dict[int, Window] = {}
    for number in range(step * shares[0].micro_batches, (step + 1) * shares[0].micro_batches):
        together = [share.micro_batch(number) for share in shares]
        assert len({(one.dataset, one.draw, len(one.windows)) for one in together}) == 1
        for one in together:
            assert len(one.windows) == micro_batch_size * (1 if one.dataset else 2)
            found.update(zip(one.positions, one.windows, strict=True))
    expected = [window for part in range(parts) for window in order.windows(step, part=part)]
    assert [found[position] for position in sorted(found)] == expected
    assert step * batch_size <= min(found) <= max(found) < (step + 1) * batch_size


@given(seed=SEEDS, weights=WEIGHTS)
def test_each_dataset_counts_its_own_steps_without_a_gap(seed: int, weights: list[float]) -> None:
    counts = [0] * len(weights)
    for step in range(200):
        dataset, earlier = place(seed, step, weights=weights)
        assert earlier == counts[dataset]
        counts[dataset] += 1


@given(seed=SEEDS, weights=WEIGHTS, step=st.integers(1, 10**9))
def test_after_any_number_of_steps_each_dataset_has_had_its_share(seed: int, weights: list[float], step: int) -> None:
    dataset, earlier = place(seed, step, weights=weights)
    levels = (len(weights) - 1).bit_length()
    exact = step * Fraction(weights[dataset]) / sum(map(Fraction, weights))
    assert abs(earlier - exact) <= levels * (1 + step * Fraction(1, 2**39))


@given(lengths=LENGTHS, count=st.integers(1, 50))
def test_evaluation_windows_are_different_and_in_order(lengths: list[int], count: int) -> None:
    windows = WindowSet(lengths, WindowShape(3))
    numbers = [_number(windows, window) for window in evaluation_windows(windows, count)]
    assert len(numbers) == min(count, windows.total)
    assert numbers == sorted(set(numbers))


def _number(windows: WindowSet, window: Window) -> int:
    return next(number for number in range(windows.total) if windows[number] == window)


@given(
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    world_size=st.integers(1, 9),
    micro_batch_size=st.integers(1, 4),
)
def test_evaluation_scores_each_window_once_and_ranks_work_alike(
    counts: list[int], world_size: int, micro_batch_size: int
) -> None:
    datasets = [[Window(0, start) for start in range(count)] for count in counts]
    shares = [
        evaluation_order(
            datasets, rank=rank, world_size=world_size, micro_batch_sizes=[micro_batch_size] * len(datasets)
        )
        for rank in range(world_size)
    ]
    shapes = [[(one.dataset, len(one.windows)) for one in share] for share in shares]
    assert all(shape == shapes[0] for shape in shapes)
    scored = Counter(
        (one.dataset, window) for share in shares for one in share for window in one.windows[: one.num_scored]
    )
    assert scored == Counter((number, window) for number, windows in enumerate(datasets) for window in windows)
