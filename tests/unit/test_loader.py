"""Batches in order, from threads, in reused buffers; errors in their turn; no threads left."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.contract.fields import Field
from tests.unit.prepared import Prepared, prepare
from trainer.batch import Batch
from trainer.config.schema import DataConfig, WindowConfig
from trainer.data.loader import MOST_AHEAD, Loader
from trainer.data.stream import evaluation_loader, open_datasets, training_loader, training_order
from trainer.errors import IntegrityError, RefusedError

BATCH_BYTES, LARGEST_BATCH_BYTES = 4 * 2 * 3 * 4 * (4 * 6), 4 * 2 * 3 * 4 * (3 * 4 * 5)
"""Of two windows of `flat`, and of `deep`."""
FIELD_IDS = {"momentum_y": 0, "momentum_x": 1, "density": 2, "mask": 3, "momentum_z": 4}


@dataclass(frozen=True)
class Share:
    rank: int = 0
    size: int = 1


def config(datasets: Sequence[Prepared], **more: object) -> DataConfig:
    sections = [{"url": prepared.url, "weight": 1.0 + number} for number, prepared in enumerate(datasets)]
    window = {"frames": 3, "stride": 1}
    return DataConfig.model_validate({"datasets": tuple(sections), "window": window, "batch_size": 4, **more})


def stream(data: DataConfig, *, step: int = 0, share: Share | None = None, micro_batch_size: int = 2) -> Loader:
    return training_loader(
        data,
        open_datasets(data),
        seed=5,
        step=step,
        share=share or Share(),
        micro_batch_size=micro_batch_size,
        field_ids=FIELD_IDS,
        pin=False,
    )


def evaluation(data: DataConfig, *, share: Share | None = None, max_windows: int = 7) -> Loader:
    return evaluation_loader(
        data,
        open_datasets(data, split="valid"),
        frames=None,
        max_windows=max_windows,
        share=share or Share(),
        micro_batch_size=2,
        field_ids=FIELD_IDS,
        pin=False,
    )


def copied(batch: Batch) -> tuple[str, tuple[int, ...], int, bytes]:
    """What stays when the buffer is filled anew."""
    return batch.dataset, batch.windows, batch.draw, batch.fields.numpy().tobytes()


@pytest.fixture
def flat(tmp_path: Path) -> Prepared:
    return prepare(tmp_path / "flat", name="flat", constant_fields=(Field(name="mask"),), codec="blosc-lz4")


@pytest.fixture
def deep(tmp_path: Path) -> Prepared:
    return prepare(tmp_path / "deep", name="deep", resolution=(3, 4, 5), lengths=(6,))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_a_batch_is_the_stored_windows_normalised(flat: Prepared) -> None:
    data = config([flat])
    windows = training_order(data, open_datasets(data), seed=5).windows(0, count=2)
    with stream(data) as loader:
        [batch] = loader.take(1)
        for row, window in enumerate(windows):
            expected = flat.expected(window.trajectory, window.start, frames=3)
            np.testing.assert_allclose(batch.physical(batch.fields)[row].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_batch_says_what_it_is_of(flat: Prepared) -> None:
    with stream(config([flat])) as loader:
        [batch] = loader.take(1)
    assert (batch.dataset, batch.windows) == ("flat", (0, 1))
    assert batch.channels == ("density", "momentum_x", "momentum_y", "mask")
    assert batch.field_ids.tolist() == [2, 1, 0, 3]
    assert batch.is_target.tolist() == [True, True, True, False]
    assert batch.time_step.tolist() == [0.5, 0.5]
    assert batch.boundary == (("periodic", "periodic"), ("wall", "open"))
    assert batch.fields.shape == (2, 3, 4, 4, 6)


def test_fields_that_the_model_does_not_know_are_refused(flat: Prepared) -> None:
    data = config([flat])
    with pytest.raises(RefusedError, match=r"flat has fields that the model's table does not: momentum_x, mask;"):
        training_loader(
            data,
            open_datasets(data),
            seed=0,
            step=0,
            share=Share(),
            micro_batch_size=2,
            field_ids={"density": 0, "momentum_y": 1},
            pin=False,
        )


def test_datasets_of_different_shapes_share_the_ring(flat: Prepared, deep: Prepared) -> None:
    with stream(config([flat, deep])) as loader:
        shapes = {batch.dataset: tuple(batch.fields.shape) for _ in range(12) for batch in loader.take(2)}
    assert shapes == {"flat": (2, 3, 4, 4, 6), "deep": (2, 3, 4, 3, 4, 5)}


@pytest.mark.parametrize("threads", [0, 1, 2, 4])
@pytest.mark.parametrize("prefetch", [1, 3])
def test_threads_and_prefetch_change_nothing(flat: Prepared, deep: Prepared, threads: int, prefetch: int) -> None:
    with stream(config([flat, deep], threads=1, read_ahead_bytes=1)) as loader:
        expected = [copied(batch) for _ in range(8) for batch in loader.take(2)]
    with stream(config([flat, deep], threads=threads, read_ahead_bytes=prefetch * LARGEST_BATCH_BYTES)) as loader:
        assert [copied(batch) for _ in range(8) for batch in loader.take(2)] == expected


VARIED = {"parts_per_step": 2, "shards_in_group": 2, "temperature": 2.0, "batch_size": 96}


def varied(flat: Prepared, deep: Prepared) -> DataConfig:
    """Two dimensions together, with windows, strides and batch sizes of their own."""
    data = config([flat, deep], **VARIED)
    first, second = data.datasets
    window = WindowConfig(frames=2, stride=(1, 2), start_every=2)
    own = second.model_copy(update={"window": window, "batch_size": 48})
    return data.model_copy(update={"datasets": (first, own)})


def global_batches(data: DataConfig, *, world_size: int, micro_batch_size: int, steps: int) -> dict[int, bytes]:
    """Position in the global order -> its window, from all ranks."""
    found: dict[int, bytes] = {}
    for rank in range(world_size):
        share = Share(rank, world_size)
        with stream(data, share=share, micro_batch_size=micro_batch_size) as loader:
            for batch in (one for _ in range(steps) for one in loader.take(96 // world_size // micro_batch_size)):
                found |= dict(zip(batch.windows, map(np.ndarray.tobytes, batch.fields.numpy()), strict=True))
    return found


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 4), (2, 12), (3, 2), (3, 8), (4, 6), (8, 6)])
def test_ranks_and_accumulation_change_no_global_batch(
    flat: Prepared, deep: Prepared, world_size: int, micro_batch_size: int
) -> None:
    data = varied(flat, deep)
    expected = global_batches(data, world_size=1, micro_batch_size=24, steps=4)
    assert global_batches(data, world_size=world_size, micro_batch_size=micro_batch_size, steps=4) == expected


def test_a_dataset_of_larger_windows_takes_fewer_of_them(flat: Prepared, deep: Prepared) -> None:
    with stream(varied(flat, deep), micro_batch_size=4) as loader:
        shapes = {batch.dataset: tuple(batch.fields.shape) for _ in range(6) for batch in loader.take(24)}
    assert shapes == {"flat": (4, 3, 4, 4, 6), "deep": (2, 2, 4, 3, 4, 5)}


def test_the_time_step_follows_the_stride_of_each_window(flat: Prepared) -> None:
    data = config([flat], window={"frames": 3, "stride": (1, 2)}, batch_size=16)
    with stream(data, micro_batch_size=16) as loader:
        assert set(loader.take(1)[0].time_step.tolist()) == {0.5, 1.0}


def test_temperature_evens_out_sizes(flat: Prepared, deep: Prepared) -> None:
    """flat has 13 windows, deep 4; the config weighs deep twice."""
    shares = [
        training_order(config([flat, deep], temperature=t), open_datasets(config([flat, deep])), seed=0).shares
        for t in (1.0, 1e9)
    ]
    assert shares[0] == pytest.approx((13 / 21, 8 / 21), rel=1e-6)
    assert shares[1] == pytest.approx((1 / 3, 2 / 3), rel=1e-6)


def test_resuming_at_a_step_equals_never_having_stopped(flat: Prepared, deep: Prepared) -> None:
    data = config([flat, deep])
    with stream(data) as loader:
        unbroken = [copied(batch) for _ in range(10) for batch in loader.take(2)]
    with stream(data, step=6) as loader:
        assert [copied(batch) for _ in range(4) for batch in loader.take(2)] == unbroken[12:]


def test_the_batches_of_a_take_keep_their_values_until_the_next(flat: Prepared) -> None:
    with stream(config([flat], read_ahead_bytes=3 * BATCH_BYTES, threads=3)) as loader:
        for _ in range(6):
            batches = loader.take(2)
            before = [copied(batch) for batch in batches]
            wait(row for making in loader._making for row in making.rows)  # every other buffer has been filled
            assert [copied(batch) for batch in batches] == before


def test_memory_is_a_fixed_number_of_buffers(flat: Prepared) -> None:
    with stream(config([flat], read_ahead_bytes=3 * BATCH_BYTES)) as loader:
        places = {batch.fields.data_ptr() for _ in range(40) for batch in loader.take(2)}
    assert len(places) <= 3 + 2


def test_small_batches_are_not_read_ahead_without_end(flat: Prepared) -> None:
    with stream(config([flat], read_ahead_bytes=2**30)) as loader:
        loader.take(2)
        assert len(loader._making) == MOST_AHEAD


def test_prefetch_is_what_is_read_ahead(flat: Prepared) -> None:
    with stream(config([flat], read_ahead_bytes=3 * BATCH_BYTES, threads=4)) as loader:
        loader.take(2)
        assert len(loader._making) == 3


def test_costs_count_windows_bytes_and_requests(flat: Prepared) -> None:
    with evaluation(config([prepare_valid(flat)]), max_windows=5) as loader:
        assert sum(num_scored for _, num_scored in loader.scored()) == 5
    assert (loader.cost.windows, loader.cost.requests) == (5, 5)
    assert loader.cost.bytes_read >= 5 * 3 * 4 * 6 * 3 * 4


def test_an_error_comes_in_its_turn_and_names_the_window(flat: Prepared) -> None:
    data = config([flat], threads=4, read_ahead_bytes=8 * BATCH_BYTES)
    datasets = open_datasets(data)
    order = training_order(data, datasets, seed=5)
    spoil_frame(flat, trajectory=0, frame=4)
    bad = next(
        number
        for number in range(100)
        for window in order.windows(number // 2, first=2 * (number % 2), count=2)
        if window.trajectory == 0 and window.start <= 4 < window.start + 3
    )
    with stream(data) as loader:
        good = [batch.windows for _ in range(bad) for batch in loader.take(1)]
        with pytest.raises(
            IntegrityError, match=r"dataset flat, shard .*shard-0, window of 3 frames from frame [234] of"
        ):
            loader.take(1)
        with pytest.raises(IntegrityError):
            loader.take(1)
    assert good == [(2 * number, 2 * number + 1) for number in range(bad)]


def test_closing_early_and_again_is_fine(flat: Prepared) -> None:
    loader = stream(config([flat], read_ahead_bytes=8 * BATCH_BYTES, threads=4))
    with loader:
        loader.take(1)
        loader.close()
    loader.close()


def test_an_interrupt_in_the_block_ends_the_threads(flat: Prepared) -> None:
    def interrupted() -> None:
        with stream(config([flat])) as loader:
            loader.take(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_a_loader_that_is_never_entered_starts_nothing(flat: Prepared) -> None:
    before = threading.active_count()
    stream(config([flat]))
    assert threading.active_count() == before


def test_a_global_batch_that_does_not_divide_is_refused(flat: Prepared) -> None:
    with pytest.raises(RefusedError, match=r"data\.batch_size is 4, which 3 ranks"):
        stream(config([flat]), share=Share(0, 3))


def test_evaluation_visits_each_window_once_over_all_ranks(flat: Prepared, deep: Prepared) -> None:
    data = config([prepare_valid(flat), prepare_valid(deep)])
    scored, work = [], []
    for rank in range(3):
        with evaluation(data, share=Share(rank, 3), max_windows=7) as loader:
            found = [(batch.dataset, batch.windows, num_scored) for batch, num_scored in loader.scored()]
        scored += [(name, window) for name, windows, num_scored in found for window in windows[:num_scored]]
        work.append([(name, len(windows)) for name, windows, _ in found])
    assert sorted(scored) == [("deep", number) for number in range(4)] + [("flat", number) for number in range(7)]
    assert work[0] == work[1] == work[2]


def test_evaluation_gives_the_same_windows_each_time(flat: Prepared) -> None:
    data = config([prepare_valid(flat)])
    passes = []
    for _ in range(2):
        with evaluation(data) as loader:
            passes.append([copied(batch) for batch, _ in loader.scored()])
    assert passes[0] == passes[1]


def test_buffers_are_float32_and_whole(flat: Prepared) -> None:
    with stream(config([flat])) as loader:
        [batch] = loader.take(1)
        assert batch.fields.dtype == torch.float32
        assert batch.fields.is_contiguous()


def prepare_valid(prepared: Prepared) -> Prepared:
    """The same values, all in the valid split, beside the original."""
    spec = prepared.manifest.dataset
    return prepare(
        Path(f"{prepared.url}-valid"),
        name=spec.name,
        resolution=spec.resolution,
        constant_fields=spec.constant_fields,
        lengths=[trajectory.num_steps for trajectory in prepared.manifest.trajectories],
        splits=["valid"] * len(prepared.manifest.trajectories),
    )


def spoil_frame(prepared: Prepared, *, trajectory: int, frame: int) -> None:
    """Flip a bit of one stored frame."""
    row = np.load(Path(prepared.url, "index.npy"))[prepared.manifest.trajectories[trajectory].first_record + frame]
    data = bytearray(prepared.shard_path(int(row["shard"])).read_bytes())
    data[int(row["offset"]) + int(row["bytes"]) - 1] ^= 1
    prepared.shard_path(int(row["shard"])).write_bytes(data)


def test_a_batch_knows_its_step_and_the_parameters_of_its_simulations(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, lengths=(3, 3), scalars={"gamma": (1.25, 1.5)})
    first_values = [prepared.frames[trajectory][0, 0, 0, 0] for trajectory in (0, 1)]
    with stream(config([prepared]), step=7) as loader:
        for step in (7, 8):
            for batch in loader.take(2):
                values = batch.physical(batch.fields)[:, 0, 0, 0, 0].numpy()
                gammas = [(1.25, 1.5)[int(np.argmin(np.abs(first_values - value)))] for value in values]
                assert (batch.step, batch.scalars["gamma"].tolist()) == (step, gammas)
