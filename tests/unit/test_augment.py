"""Augmented batches: the stored windows, moved; the same for any ranks and threads; never in evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from data_prep.contract.fields import Field
from data_prep.contract.manifest import load_manifest, save_manifest
from data_prep.contract.storage import Storage
from tests.unit.prepared import Prepared, prepare
from trainer.config.schema import AugmentConfig, DataConfig
from trainer.data.augment import augmenters
from trainer.data.loader import Loader
from trainer.data.stream import evaluation_loader, open_datasets, training_loader, training_order, vocabulary
from trainer.errors import RefusedError

SEED, BATCH_SIZE = 5, 24
EVERYTHING = {"turns": "all", "rolls": True}


@dataclass(frozen=True)
class Share:
    rank: int = 0
    size: int = 1


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Periodic along x; a wall below and open above along y."""
    return prepare(
        tmp_path_factory.mktemp("augment") / "square",
        resolution=(6, 6),
        lengths=(9, 8, 7),
        splits=("train", "train", "valid"),
        constant_fields=(Field(name="wind", rank=1),),
        codec="blosc-lz4",
    )


def config(prepared: Prepared | str, **more: object) -> DataConfig:
    url = prepared if isinstance(prepared, str) else prepared.url
    sections = {"datasets": ({"url": url},), "window": {"frames": 3}, "batch_size": BATCH_SIZE}
    return DataConfig.model_validate({**sections, **more})


def stream(data: DataConfig, *, share: Share | None = None, micro_batch_size: int = 4, step: int = 0) -> Loader:
    datasets = open_datasets(data)
    return training_loader(
        data,
        datasets,
        seed=SEED,
        step=step,
        share=share or Share(),
        micro_batch_size=micro_batch_size,
        field_ids={name: row for row, name in enumerate(vocabulary(datasets))},
        pin=False,
    )


Found = Mapping[int, tuple[bytes, tuple[tuple[str, str], ...]]]


def windows_of(data: DataConfig, *, ranks: int = 1, micro_batch_size: int = 4, steps: int = 3, step: int = 0) -> Found:
    """Position in the global order -> its values and what lies at its sides, from all ranks."""
    found = {}
    for rank in range(ranks):
        with stream(data, share=Share(rank, ranks), micro_batch_size=micro_batch_size, step=step) as loader:
            for batch in (one for _ in range(steps) for one in loader.take(BATCH_SIZE // ranks // micro_batch_size)):
                for position, fields in zip(batch.windows, batch.fields.numpy(), strict=True):
                    found[position] = (fields.tobytes(), batch.boundary)
    return found


def test_a_batch_is_the_stored_windows_moved(square: Prepared) -> None:
    data = config(square, augment=EVERYTHING)
    datasets = open_datasets(data)
    [augmenter] = augmenters(data.augments, datasets, seed=SEED)
    assert augmenter is not None
    windows, num_moved = training_order(data, datasets, seed=SEED).windows(2), 0
    with stream(data, micro_batch_size=BATCH_SIZE, step=2) as loader:
        [batch] = loader.take(1)
        values = batch.physical(batch.fields).numpy()
    for row, window in enumerate(windows):
        stored = square.expected(window.trajectory, window.start, frames=3)
        expected = np.empty_like(stored)
        turn, shift = augmenter.turn(batch.draw, batch.windows[row])
        augmenter.apply(stored, expected, turn=turn, shift=shift)
        np.testing.assert_allclose(values[row], expected, rtol=1e-5, atol=1e-5)
        num_moved += not turn.is_identity
    assert num_moved > BATCH_SIZE / 2


@pytest.mark.parametrize(("ranks", "micro_batch_size"), [(2, 12), (3, 2), (3, 8), (4, 6), (8, 3)])
def test_ranks_and_accumulation_change_no_augmented_window(square: Prepared, ranks: int, micro_batch_size: int) -> None:
    data = config(square, augment=EVERYTHING)
    assert windows_of(data, ranks=ranks, micro_batch_size=micro_batch_size) == windows_of(data)


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_threads_change_no_augmented_window(square: Prepared, threads: int) -> None:
    assert windows_of(config(square, augment=EVERYTHING, threads=threads)) == windows_of(
        config(square, augment=EVERYTHING)
    )


def test_a_resumed_stream_moves_its_windows_alike(square: Prepared) -> None:
    data = config(square, augment=EVERYTHING)
    unbroken = windows_of(data, steps=4)
    resumed = windows_of(data, step=2, steps=2)
    assert resumed == {position: unbroken[position] for position in resumed}


def test_the_sides_turn_with_the_windows(square: Prepared) -> None:
    found = {sides for _, sides in windows_of(config(square, augment=EVERYTHING), steps=30).values()}
    periodic = ("periodic", "periodic")
    upwards, downwards = ("wall", "open"), ("open", "wall")
    assert found == {(periodic, upwards), (periodic, downwards), (upwards, periodic), (downwards, periodic)}


def test_a_window_comes_otherwise_in_the_next_epoch(square: Prepared) -> None:
    """13 windows: each step of 24 has one epoch and most of the next."""
    plain, moved = (windows_of(config(square, augment=one), steps=1) for one in ({}, EVERYTHING))
    values = [fields for fields, _ in plain.values()]
    assert len(set(values)) == 13
    assert len({fields for fields, _ in moved.values()}) > 20


def test_evaluation_sees_windows_as_they_are_stored(square: Prepared) -> None:
    found = []
    for data in (config(square), config(square, augment=EVERYTHING)):
        datasets = open_datasets(data, split="valid")
        with evaluation_loader(
            data,
            datasets,
            frames=None,
            max_windows=5,
            share=Share(),
            micro_batch_size=2,
            field_ids={name: row for row, name in enumerate(vocabulary(datasets))},
            pin=False,
        ) as loader:
            found.append([(batch.fields.numpy().tobytes(), batch.boundary) for batch, _ in loader.scored()])
    assert found[0] == found[1]


def test_a_dataset_may_have_symmetries_of_its_own(square: Prepared) -> None:
    own = {"turns": "flips", "axes": ("x",)}
    data = config(square, augment=EVERYTHING, datasets=({"url": square.url, "augment": own},))
    assert {sides for _, sides in windows_of(data, steps=8).values()} == {(("periodic",) * 2, ("wall", "open"))}
    [augmenter] = augmenters(data.augments, open_datasets(data), seed=0)
    assert str(augmenter) == "seen under 2 turns, rolled along no axis"


def test_axes_that_a_dataset_does_not_have_are_refused(square: Prepared) -> None:
    with pytest.raises(RefusedError, match=r"data\.augment\.axes names z, but the axes of dataset waves are x, y;"):
        open_datasets(config(square, augment={"rolls": True, "axes": ("x", "z")}))


def test_pseudo_fields_that_no_dataset_has_are_refused(square: Prepared) -> None:
    with pytest.raises(RefusedError, match=r"no dataset has a field vorticty; they have density, momentum, wind"):
        open_datasets(config(square, augment={"turns": "flips", "pseudo": ("vorticty",)}))


def test_a_curved_grid_rolls_but_does_not_turn(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "globe")
    storage = Storage(prepared.url)
    manifest, index = load_manifest(storage)
    curved = manifest.dataset.model_copy(update={"grid_type": "equiangular"})
    save_manifest(storage, manifest.model_copy(update={"dataset": curved}), index)
    with pytest.raises(
        RefusedError, match=r"data\.augment\.turns is flips, but the grid of dataset waves is equiangular"
    ):
        open_datasets(config(prepared, augment={"turns": "flips"}))
    [augmenter] = augmenters([AugmentConfig(rolls=True)], open_datasets(config(prepared)), seed=0)
    assert str(augmenter) == "seen under 1 turns, rolled along x"
