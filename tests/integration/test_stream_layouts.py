"""From a Well-format file through both layouts and through an object store to batches: the same values everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract.errors import NotFoundError
from trainer.config.schema import DataConfig
from trainer.data.dataset import open_dataset
from trainer.data.loader import Loader
from trainer.data.ring import Scratch
from trainer.data.source import Source
from trainer.data.stream import open_datasets, training_loader
from trainer.data.windows import Window

FIELD_IDS = {name: row for row, name in enumerate(("density", "energy", "pressure", "momentum_x", "momentum_y"))}


@dataclass(frozen=True)
class Share:
    rank: int = 0
    size: int = 1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny simulated dataset and its conversions `zarr`, `webdataset`."""
    folder = tmp_path_factory.mktemp("corpus")
    system = "euler_multi_quadrants_openBC"
    sizes = (
        "--trajectories",
        "2",
        "--valid",
        "1",
        "--test",
        "1",
        "--resolution",
        "16",
        "--steps",
        "6",
        "--workers",
        "1",
    )
    assert main(["simulate", system, "--out", str(folder), *sizes]) == 0
    for layout in ("zarr", "webdataset"):
        assert main(["convert", str(folder / system), str(folder / layout), "--format", layout]) == 0
    return folder


def stream(urls: Sequence[str], *, step: int = 0, share: Share | None = None) -> Loader:
    data = DataConfig.model_validate(
        {"datasets": tuple({"url": url} for url in urls), "window": {"frames": 3}, "batch_size": 4}
    )
    return training_loader(
        data,
        open_datasets(data),
        seed=1,
        step=step,
        share=share or Share(),
        micro_batch_size=2,
        field_ids=FIELD_IDS,
        pin=False,
    )


def first_batches(urls: Sequence[str]) -> list[bytes]:
    with stream(urls) as loader:
        return [batch.fields.numpy().tobytes() for _ in range(6) for batch in loader.take(2)]


def test_zarr_and_webdataset_give_the_same_batches(corpus: Path) -> None:
    assert first_batches([str(corpus / "zarr")]) == first_batches([str(corpus / "webdataset")])


def test_a_window_has_the_values_of_the_hdf5_file(corpus: Path) -> None:
    dataset = open_dataset(str(corpus / "zarr"), split="valid")
    out = np.empty(dataset.window_shape(4), np.float32)
    Source(dataset, frames=4).read(Window(0, 1), out=out, scratch=Scratch())
    [path] = (corpus / "euler_multi_quadrants_openBC" / "data" / "valid").glob("*.hdf5")
    with h5py.File(path) as file:
        for channel, values in zip(dataset.channels, out.swapaxes(0, 1), strict=True):
            np.testing.assert_array_equal(values, stored_channel(file, channel)[1:5])


def stored_channel(file: h5py.File, channel: str) -> np.ndarray:
    """(time, *space) of the first trajectory."""
    name, _, axis = channel.partition("_")
    if axis:
        return np.asarray(file["t1_fields"][name][0][..., "xy".index(axis)])
    return np.asarray(file["t0_fields"][name][0])


def test_a_stored_window_comes_by_one_request(corpus: Path) -> None:
    for layout in ("zarr", "webdataset"):
        dataset = open_dataset(str(corpus / layout))
        out = np.empty(dataset.window_shape(5), np.float32)
        assert Source(dataset, frames=5).read(Window(1, 1), out=out, scratch=Scratch()).requests == 1


def test_an_object_store_gives_the_same_batches(corpus: Path) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(corpus / "zarr"), "/stream-layouts/zarr", recursive=True)
    assert first_batches(["memory://stream-layouts/zarr"]) == first_batches([str(corpus / "zarr")])


def test_an_object_missing_from_a_store_names_dataset_shard_and_window(corpus: Path) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(corpus / "webdataset"), "/stream-layouts/broken", recursive=True)
    for path in files.find("/stream-layouts/broken"):
        if path.endswith(".tar"):
            files.rm_file(path)
    place = (
        r"dataset euler_multi_quadrants_openBC, shard memory://stream-layouts/broken/.*\.tar, window of 3 frames from"
    )
    with stream(["memory://stream-layouts/broken"]) as loader, pytest.raises(NotFoundError, match=place):
        loader.take(2)


def test_two_resumes_with_other_world_sizes_equal_an_unbroken_run(corpus: Path) -> None:
    urls = [str(corpus / "zarr"), str(corpus / "webdataset")]
    unbroken = steps(urls, range(40), world_size=1)
    broken = steps(urls, range(13), world_size=2) | steps(urls, range(13, 27), world_size=1)
    broken |= steps(urls, range(27, 40), world_size=2)
    assert broken == unbroken


def steps(urls: Sequence[str], wanted: range, *, world_size: int) -> dict[int, bytes]:
    """Position in the global order -> bytes of the window, from all ranks."""
    found: dict[int, bytes] = {}
    for rank in range(world_size):
        with stream(urls, step=wanted.start, share=Share(rank, world_size)) as loader:
            for _ in wanted:
                for batch in loader.take(2 // world_size):
                    rows = zip(batch.windows, batch.fields.numpy(), strict=True)
                    found.update((position, row.tobytes()) for position, row in rows)
    return found
