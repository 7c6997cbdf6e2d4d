"""Puts the room together: a config section becomes the loader of one rank."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from trainer.config.schema import DataConfig
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.loader import Capacity, Loader
from trainer.data.order import MicroBatch, Order, RankOrder, WindowShape, evaluation_order, evaluation_windows
from trainer.data.reader import WindowReader
from trainer.data.source import Source
from trainer.errors import RefusedError

__all__ = [
    "Share",
    "evaluation_loader",
    "open_datasets",
    "space_rank",
    "training_loader",
    "training_order",
    "vocabulary",
]


class Share(Protocol):
    """Which of the ranks this is."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...


def open_datasets(data: DataConfig, *, split: str = "train") -> list[Dataset]:
    """All datasets of a config. Raises RefusedError for the first that is none."""
    return [open_dataset(entry.url, split=split) for entry in data.datasets]


def vocabulary(datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """Every field component of the datasets, by name, in alphabetical order."""
    return tuple(sorted({channel for dataset in datasets for channel in dataset.channels}))


def space_rank(datasets: Sequence[Dataset]) -> int:
    """Space axes of the datasets. Raises RefusedError where they differ."""
    ranks = {dataset.name: len(dataset.manifest.dataset.spatial_dims) for dataset in datasets}
    if len(set(ranks.values())) != 1:
        found = ", ".join(f"{name} {rank}D" for name, rank in ranks.items())
        raise RefusedError(f"data.datasets: one model takes data of one dimension, found {found}; train them apart")
    return next(iter(ranks.values()))


def training_order(data: DataConfig, datasets: Sequence[Dataset], *, seed: int) -> Order:
    """The sequence of global batches. Raises RefusedError for a dataset without a window."""
    shape = WindowShape(data.window.frames, data.window.stride)
    return Order(
        seed,
        [dataset.windows(shape) for dataset in datasets],
        weights=[entry.weight for entry in data.datasets],
        batch_size=data.batch_size,
    )


def training_loader(
    data: DataConfig,
    datasets: Sequence[Dataset],
    *,
    seed: int,
    step: int,
    share: Share,
    micro_batch_size: int,
    field_ids: Mapping[str, int],
    pin: bool,
) -> Loader:
    """This rank's endless stream from `step` on; each step takes `RankOrder.micro_batches` batches.

    Raises RefusedError when the global batch does not divide, or a dataset has no window or unknown fields.
    """
    order = RankOrder(training_order(data, datasets, seed=seed), share.rank, share.size, micro_batch_size)
    shape = WindowShape(data.window.frames, data.window.stride)
    return Loader(
        _readers(data, datasets, shape=shape, field_ids=field_ids),
        order.micro_batch,
        capacity=Capacity(
            micro_batch_size,
            largest_take=order.micro_batches,
            prefetch=data.prefetch_batches,
            threads=data.threads,
            pin=pin,
        ),
        first=step * order.micro_batches,
    )


def evaluation_loader(
    data: DataConfig,
    datasets: Sequence[Dataset],
    *,
    shape: WindowShape,
    max_windows: int,
    share: Share,
    micro_batch_size: int,
    field_ids: Mapping[str, int],
    pin: bool,
) -> Loader:
    """This rank's share of at most `max_windows` windows of each dataset; read them with `Loader.scored`."""
    windows = [evaluation_windows(dataset.windows(shape), max_windows) for dataset in datasets]
    micro_batches = evaluation_order(windows, rank=share.rank, world_size=share.size, micro_batch_size=micro_batch_size)

    def schedule(number: int) -> MicroBatch | None:
        return micro_batches[number] if number < len(micro_batches) else None

    return Loader(
        _readers(data, datasets, shape=shape, field_ids=field_ids),
        schedule,
        capacity=Capacity(micro_batch_size, prefetch=data.prefetch_batches, threads=data.threads, pin=pin),
    )


def _readers(
    data: DataConfig, datasets: Sequence[Dataset], *, shape: WindowShape, field_ids: Mapping[str, int]
) -> list[WindowReader]:
    return [
        WindowReader(
            Source(dataset, shape, verify=data.verify_checksums),
            normalisation=data.normalisation,
            field_ids=field_ids,
        )
        for dataset in datasets
    ]
