"""The order of windows: what it promises, on examples; its laws are in tests/properties."""

import sys

import pytest

from trainer.config.share import micro_batches_of_rank
from trainer.data.order import Order, RankOrder, draw, evaluation_order, evaluation_windows, place
from trainer.data.shuffle import GroupedShuffle
from trainer.data.windows import Window, WindowSet, WindowShape
from trainer.errors import RefusedError
from trainer.permutation import Permutation

# Printed once by this very test; a change here is a change of every run that is under way.
GOLDEN_ORDER = [(1, [(2, 5), (2, 4), (1, 17)]), (0, [(0, 3), (0, 297), (0, 358)]), (0, [(0, 21), (0, 495), (0, 94)])]
GOLDEN_GROUPS = [10, 9, 6, 8, 5, 7, 11, 2, 1, 3, 4, 0]
GOLDEN_DRAWS = [3581076760418740226, 3724819092938951071]


def test_windows_start_at_every_frame_at_which_they_fit() -> None:
    windows = WindowSet([5, 2, 4], WindowShape(frames=2, stride=2))
    assert [windows[number] for number in range(windows.total)] == [
        Window(0, 0, 2), Window(0, 1, 2), Window(0, 2, 2), Window(2, 0, 2), Window(2, 1, 2),
    ]  # fmt: skip


def test_a_trajectory_shorter_than_the_window_contributes_none() -> None:
    assert WindowSet([3, 4], WindowShape(frames=4)).total == 1


def test_a_window_of_one_frame_ignores_the_stride() -> None:
    assert WindowSet([3], WindowShape(frames=1, stride=5)).total == 3


def test_the_order_of_a_seed_never_changes() -> None:
    order = Order(
        11, [WindowSet([500], WindowShape(4)), WindowSet([30] * 3, WindowShape(2))], weights=[2, 1], batch_size=3
    )
    found = [(order.dataset_of(step), [(w.trajectory, w.start) for w in order.windows(step)]) for step in range(3)]
    assert found == GOLDEN_ORDER
    assert [order.draw(step) for step in range(2)] == GOLDEN_DRAWS


def test_the_grouped_order_of_a_seed_never_changes() -> None:
    shuffle = GroupedShuffle([3, 5, 9, 12], group=2, key=7)
    assert [shuffle(position) for position in range(12)] == GOLDEN_GROUPS


def test_a_grouped_order_reads_each_shard_in_one_stretch_of_the_epoch() -> None:
    windows = WindowSet([21] * 30, WindowShape(2))
    order = Order(3, [windows], weights=[1.0], batch_size=50, shards_in_group=5)
    groups = [{window.trajectory for step in (2 * g, 2 * g + 1) for window in order.windows(step)} for g in range(6)]
    assert [len(group) for group in groups] == [5] * 6
    assert set().union(*groups) == set(range(30))


def test_a_rank_meets_few_of_the_shards_of_a_grouped_batch() -> None:
    order = Order(0, [WindowSet([101] * 64, WindowShape(2))], weights=[1.0], batch_size=160, shards_in_group=16)
    shares = [RankOrder(order, rank, 16, 10).micro_batch(0) for rank in range(16)]
    assert max(len({window.trajectory for window in share.windows}) for share in shares) <= 4


def test_a_grouped_order_of_a_billion_windows_holds_two_numbers_a_shard() -> None:
    shuffle = GroupedShuffle([10**6 * number for number in range(1, 1001)], group=10, key=1)
    assert sum(sys.getsizeof(value) for value in vars(shuffle).values()) < 3 * 8 * 1000
    assert {shuffle(position) // 10**6 for position in range(5 * 10**7, 5 * 10**7 + 300)} == {
        shuffle(position) // 10**6 for position in range(5 * 10**7 + 300, 5 * 10**7 + 600)
    }


def test_strides_that_are_drawn_come_about_as_often() -> None:
    windows = WindowSet([40] * 20, WindowShape(4, 1), WindowShape(4, 2), WindowShape(4, 4))
    order = Order(0, [windows], weights=[1.0], batch_size=300)
    counts = [sum(window.stride == stride for window in order.windows(0)) for stride in (1, 2, 4)]
    assert min(counts) > 70


def test_parts_of_a_step_draw_their_datasets_apart() -> None:
    order = Order(1, [WindowSet([50], WindowShape(2))] * 2, weights=[1.0, 1.0], batch_size=8, parts=4)
    assert {tuple(order.dataset_of(step, part=part) for part in range(4)) for step in range(3)} <= {
        (0, 1, 0, 1),
        (1, 0, 1, 0),
    }
    assert order.num_windows(0) == 8


def test_epochs_differ_in_order() -> None:
    order = Order(0, [WindowSet([1001], WindowShape(2))], weights=[1.0], batch_size=1000)
    assert order.windows(0) != order.windows(1)


def test_seeds_differ_in_order() -> None:
    windows = WindowSet([1001], WindowShape(2))
    first, second = (Order(seed, [windows], weights=[1.0], batch_size=50).windows(0) for seed in (0, 1))
    assert first != second


def test_datasets_of_equal_length_differ_in_order() -> None:
    windows = WindowSet([1001], WindowShape(2))
    order = Order(0, [windows, windows], weights=[1.0, 1.0], batch_size=50)
    steps = {order.dataset_of(step): step for step in (1, 0)}
    assert order.windows(steps[0]) != order.windows(steps[1])


def test_an_epoch_of_a_billion_windows_holds_no_more_memory_than_one_of_ten() -> None:
    def size(length: int) -> int:
        permutation = Permutation(length, key=3)
        permutation(7)
        return sum(sys.getsizeof(value) for value in vars(permutation).values())

    assert size(10**9) <= size(10) + 64


def test_a_billion_windows_scatter() -> None:
    order = Order(0, [WindowSet([10**8 + 1] * 10, WindowShape(2))], weights=[1.0], batch_size=64)
    windows = order.windows(5)
    assert len(set(windows)) == 64
    assert {window.trajectory for window in windows} == set(range(10))


def test_every_arrangement_of_four_windows_is_about_as_likely() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for key in range(4800):
        arrangement = tuple(map(Permutation(4, key=key), range(4)))
        counts[arrangement] = counts.get(arrangement, 0) + 1
    chi_square = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert len(counts) == 24
    assert chi_square < 52.0  # 99.95 % of fair draws with 23 degrees of freedom


def test_a_window_goes_anywhere_in_the_epoch() -> None:
    counts = [0] * 16
    for key in range(8000):
        counts[Permutation(4000, key=key)(17) // 250] += 1
    assert sum((count - 500) ** 2 / 500 for count in counts) < 40.0  # 99.95 % with 15 degrees of freedom


def test_neighbours_do_not_stay_neighbours() -> None:
    permutation = Permutation(10_000, key=1)
    close = sum(abs(permutation(index) - permutation(index + 1)) < 100 for index in range(2000))
    assert close < 80  # 40 are expected of 2000


def test_weights_are_shares_of_the_steps() -> None:
    counts = [0, 0, 0]
    for step in range(1000):
        counts[place(5, step, weights=[0.5, 0.3, 0.2])[0]] += 1
    assert all(abs(count - share) <= 2 for count, share in zip(counts, (500, 300, 200), strict=True))


def test_draws_are_63_bit_and_differ_from_step_to_step() -> None:
    draws = {draw(0, step) for step in range(1000)}
    assert len(draws) == 1000
    assert all(0 <= value < 2**63 for value in draws)
    assert max(draws) > 2**62


def test_a_batch_that_ranks_cannot_share_is_refused_with_what_to_change() -> None:
    with pytest.raises(RefusedError, match=r"data\.batch_size is 12.*5 ranks.*multiple of 10"):
        micro_batches_of_rank(12, world_size=5, micro_batch_size=2)


def test_micro_batches_of_a_rank_fill_the_global_batch() -> None:
    assert micro_batches_of_rank(24, world_size=3, micro_batch_size=2) == 4


def test_a_rank_begins_its_next_step_after_its_last_micro_batch() -> None:
    order = Order(0, [WindowSet([100], WindowShape(2))], weights=[1.0], batch_size=8)
    share = RankOrder(order, rank=1, world_size=2, micro_batch_size=2)
    assert share.micro_batch(3).positions == (14, 15)


def test_evaluation_takes_every_window_of_a_small_split() -> None:
    windows = WindowSet([4, 3], WindowShape(2))
    assert evaluation_windows(windows, 64) == [windows[number] for number in range(5)]


def test_evaluation_windows_spread_evenly() -> None:
    windows = WindowSet([101], WindowShape(2))
    assert [window.start for window in evaluation_windows(windows, 4)] == [12, 37, 62, 87]


def test_ranks_without_a_window_of_their_own_repeat_one_unscored() -> None:
    windows = [[Window(0, 0), Window(0, 1), Window(0, 2)]]
    [micro_batch] = evaluation_order(windows, rank=3, world_size=4, micro_batch_sizes=[2])
    assert (micro_batch.windows, micro_batch.num_scored) == ((Window(0, 2),), 0)
