"""Laws of the order, for any sizes."""

from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from trainer.data.order import (
    Order,
    RankOrder,
    Window,
    WindowSet,
    WindowShape,
    evaluation_order,
    evaluation_windows,
    place,
)
from trainer.data.permutation import Permutation

SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=6).filter(lambda lengths: max(lengths) >= 3)
WEIGHTS = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=9)


@given(total=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_a_permutation_reaches_everything_once(total: int, key: int) -> None:
    assert sorted(map(Permutation(total, key=key), range(total))) == list(range(total))


@given(lengths=LENGTHS, frames=st.integers(1, 3), stride=st.integers(1, 3))
def test_windows_are_those_that_plain_loops_find(lengths: list[int], frames: int, stride: int) -> None:
    expected = [
        Window(trajectory, start)
        for trajectory, length in enumerate(lengths)
        for start in range(length)
        if start + (frames - 1) * stride < length
    ]
    windows = WindowSet(lengths, WindowShape(frames, stride))
    assert [windows[number] for number in range(windows.total)] == expected


@given(seed=SEEDS, lengths=st.lists(LENGTHS, min_size=1, max_size=4), batch_size=st.integers(1, 20), data=st.data())
def test_each_epoch_of_each_dataset_has_every_window_once(
    seed: int, lengths: list[list[int]], batch_size: int, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(lengths), max_size=len(lengths)))
    sets = [WindowSet(one, WindowShape(3)) for one in lengths]
    order = Order(seed, sets, weights=weights, batch_size=batch_size)
    seen: list[list[Window]] = [[] for _ in sets]
    for step in range(60):
        seen[order.dataset_of(step)] += order.windows(step)
    for windows, found in zip(sets, seen, strict=True):
        for first in range(0, len(found) - windows.total + 1, windows.total):
            assert len(set(found[first : first + windows.total])) == windows.total


@given(
    seed=SEEDS,
    lengths=LENGTHS,
    world_size=st.sampled_from([1, 2, 3, 4, 8]),
    micro_batch_size=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    step=st.integers(0, 10**6),
)
def test_shares_of_all_ranks_make_up_the_global_batch(
    seed: int, lengths: list[int], world_size: int, micro_batch_size: int, accumulation: int, step: int
) -> None:
    batch_size = world_size * micro_batch_size * accumulation
    sets = [WindowSet(lengths, WindowShape(2)), WindowSet([30], WindowShape(3))]
    order = Order(seed, sets, weights=[1, 2], batch_size=batch_size)
    found: dict[int, Window] = {}
    for rank in range(world_size):
        share = RankOrder(order, rank, world_size, micro_batch_size)
        for number in range(step * share.micro_batches, (step + 1) * share.micro_batches):
            micro_batch = share.micro_batch(number)
            assert (micro_batch.dataset, micro_batch.draw) == (order.dataset_of(step), order.draw(step))
            found.update(zip(micro_batch.positions, micro_batch.windows, strict=True))
    assert [found[position] for position in sorted(found)] == order.windows(step)
    assert min(found) == step * batch_size


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
        evaluation_order(datasets, rank=rank, world_size=world_size, micro_batch_size=micro_batch_size)
        for rank in range(world_size)
    ]
    shapes = [[(one.dataset, len(one.windows)) for one in share] for share in shares]
    assert all(shape == shapes[0] for shape in shapes)
    scored = Counter(
        (one.dataset, window) for share in shares for one in share for window in one.windows[: one.num_scored]
    )
    assert scored == Counter((number, window) for number, windows in enumerate(datasets) for window in windows)
