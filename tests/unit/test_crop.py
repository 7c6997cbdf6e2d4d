"""Crops in space: the stored values of a corner that the place in the order draws; never in evaluation."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from data_prep.contract.fields import Field
from data_prep.contract.manifest import Codec
from tests.unit.prepared import Prepared, prepare
from trainer.config.schema import AugmentConfig, DataConfig, DatasetConfig, WindowConfig
from trainer.data.augment import augmenters
from trainer.data.dataset import open_dataset
from trainer.data.loader import Loader
from trainer.data.order import Order
from trainer.data.ring import Scratch
from trainer.data.source import Source
from trainer.data.stream import evaluation_loader, open_datasets, training_loader, training_order, vocabulary
from trainer.data.windows import Window, WindowSet, WindowShape
from trainer.errors import RefusedError

SEED, BATCH_SIZE, CROP = 5, 12, (3, 4)
WIDE = WindowConfig(frames=3, crop=9)
CONSTANTS = (Field(name="mask"), Field(name="gravity", rank=1))


@dataclass(frozen=True)
class Share:
    rank: int = 0
    size: int = 1


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Periodic along x; a wall below and open above along y."""
    folder = tmp_path_factory.mktemp("crop") / "waves"
    return prepare(folder, resolution=(6, 8), splits=("train", "valid"), constant_fields=CONSTANTS)


def config(prepared: Prepared, **window: object) -> DataConfig:
    sections = {"datasets": ({"url": prepared.url},), "window": {"frames": 3, **window}, "batch_size": BATCH_SIZE}
    return DataConfig.model_validate(sections)


def stream(data: DataConfig, *, share: Share | None = None, micro_batch_size: int = BATCH_SIZE) -> Loader:
    datasets = open_datasets(data)
    return training_loader(
        data,
        datasets,
        seed=SEED,
        step=0,
        share=share or Share(),
        micro_batch_size=micro_batch_size,
        field_ids={name: row for row, name in enumerate(vocabulary(datasets))},
        pin=False,
    )


@pytest.mark.parametrize("codec", get_args(Codec))
@pytest.mark.parametrize("tile", [None, (3, 4), (4, 3), (6, 1)])
@pytest.mark.parametrize("corner", [(0, 0), (2, 3), (3, 4)])
def test_a_crop_has_the_values_that_were_stored_there(
    tmp_path: Path, codec: Codec, tile: tuple[int, ...] | None, corner: tuple[int, ...]
) -> None:
    prepared = prepare(tmp_path, resolution=(6, 8), codec=codec, tile=tile, constant_fields=CONSTANTS, padding=7)
    dataset = open_dataset(prepared.url).cropped(CROP)
    out = np.full(dataset.window_shape(3), np.nan, np.float32)
    Source(dataset, frames=3).read(Window(1, 1, stride=2, corner=corner), out=out, scratch=Scratch())
    whole = prepared.expected(1, 1, frames=3, stride=2)
    x, y = corner
    np.testing.assert_array_equal(out, whole[..., x : x + CROP[0], y : y + CROP[1]])


def test_tiles_that_a_crop_does_not_show_are_not_fetched(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, resolution=(6, 8), tile=(3, 4))
    source = Source(open_dataset(prepared.url).cropped(CROP), frames=2)
    assert len(source.records(Window(0, 0, corner=(3, 4)))) == 2
    assert len(source.records(Window(0, 0, corner=(3, 3)))) == 4


def test_a_batch_is_the_stored_windows_cropped(stored: Prepared) -> None:
    data = config(stored, crop=CROP)
    windows = training_order(data, open_datasets(data), seed=SEED).windows(0)
    with stream(data) as loader:
        [batch] = loader.take(1)
        values = batch.physical(batch.fields).numpy()
    for row, window in enumerate(windows):
        x, y = window.corner
        expected = stored.expected(window.trajectory, window.start, frames=3)[..., x : x + 3, y : y + 4]
        np.testing.assert_allclose(values[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ranks", "micro_batch_size"), [(2, 6), (3, 2), (4, 3)])
def test_ranks_and_accumulation_change_no_crop(stored: Prepared, ranks: int, micro_batch_size: int) -> None:
    def found(ranks: int, micro_batch_size: int) -> dict[int, bytes]:
        by_position = {}
        for rank in range(ranks):
            with stream(config(stored, crop=CROP), share=Share(rank, ranks), micro_batch_size=micro_batch_size) as one:
                for batch in one.take(BATCH_SIZE // ranks // micro_batch_size):
                    for position, fields in zip(batch.windows, batch.fields.numpy(), strict=True):
                        by_position[position] = fields.tobytes()
        return by_position

    assert found(ranks, micro_batch_size) == found(1, BATCH_SIZE)


def test_every_corner_is_about_as_likely_and_epochs_differ() -> None:
    windows = WindowSet([5], WindowShape(1), num_corners=(3, 2))
    order = Order(SEED, [windows], weights=[1.0], batch_size=5)
    epochs = [sorted(order.windows(step), key=lambda window: window.start) for step in range(600)]
    corners = [window.corner for epoch in epochs for window in epoch]
    counts = [corners.count((x, y)) for x in range(3) for y in range(2)]
    assert sum(counts) == 3000
    assert min(counts) > 400
    assert epochs[0] != epochs[1]


def test_without_a_crop_the_order_is_what_it_was(stored: Prepared) -> None:
    def places(data: DataConfig) -> list[tuple[int, int]]:
        order = training_order(data, open_datasets(data), seed=SEED)
        return [(window.trajectory, window.start) for window in order.windows(3)]

    assert places(config(stored)) == places(config(stored, crop=CROP))


def test_what_lies_around_a_crop_is_open(stored: Prepared) -> None:
    cut, wall = ("open", "open"), ("wall", "open")
    for crop, sides in (((3, 4), (cut, cut)), ((3, 8), (cut, wall)), ((6, 8), (("periodic", "periodic"), wall))):
        with stream(config(stored, crop=crop)) as loader:
            assert loader.take(1)[0].boundary == sides


def test_one_number_crops_every_axis(stored: Prepared) -> None:
    assert open_dataset(stored.url).cropped(5).window_shape(2)[2:] == (5, 5)


def test_evaluation_sees_all_of_space(stored: Prepared) -> None:
    data = config(stored, crop=CROP)
    datasets = open_datasets(data, split="valid", is_whole=True)
    field_ids = {name: row for row, name in enumerate(vocabulary(datasets))}
    more = {"share": Share(), "micro_batch_size": 2, "field_ids": field_ids, "pin": False}
    with evaluation_loader(data, datasets, frames=None, max_windows=3, **more) as loader:
        batch, _ = next(loader.scored())
    assert batch.fields.shape[3:] == (6, 8)
    assert batch.boundary == (("periodic", "periodic"), ("wall", "open"))


def test_a_crop_turns_but_does_not_roll_where_it_is_cut(stored: Prepared) -> None:
    section = AugmentConfig(turns="all", rolls=True)
    [augmenter] = augmenters([section], [open_dataset(stored.url).cropped(4)], seed=SEED)
    assert str(augmenter) == "seen under 4 turns, rolled along no axis"


@pytest.mark.parametrize("crop", [(7, 8), (3,), (3, 4, 5), 7])
def test_a_crop_that_no_frame_holds_is_refused(stored: Prepared, crop: int | tuple[int, ...]) -> None:
    said = rf"data\.window\.crop is {re.escape(str(crop if isinstance(crop, int) else list(crop)))}, but"
    with pytest.raises(RefusedError, match=rf"{said} .* have 6 x 8 points \(x, y\); give a number for all"):
        open_datasets(config(stored, crop=crop))


def test_a_crop_of_one_dataset_is_named_by_its_own_key(stored: Prepared) -> None:
    data = config(stored).model_copy(update={"datasets": (DatasetConfig(url=stored.url, window=WIDE),)})
    with pytest.raises(RefusedError, match=r"data\.datasets\.0\.window\.crop is 9, but"):
        open_datasets(data)


def test_what_a_model_is_scored_on_need_not_hold_its_crop(stored: Prepared) -> None:
    assert open_datasets(config(stored, crop=9), is_whole=True)[0].window_shape(1)[2:] == (6, 8)


def test_a_spare_window_shows_another_corner(stored: Prepared) -> None:
    data = config(stored, crop=CROP)
    order = training_order(data, open_datasets(data), seed=SEED)
    assert len({order.spare(0, 3, attempt).corner for attempt in range(20)}) > 5
