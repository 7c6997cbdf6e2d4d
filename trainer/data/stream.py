"""Puts the room together: a config section becomes the loader of one rank."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from data_prep.contract.storage import Retries, Storage
from trainer.config.schema import DataConfig, WindowConfig
from trainer.config.share import micro_batch_size_of
from trainer.data.augment import Augmenter, augmenters
from trainer.data.cache import Cache, refuse_unusable
from trainer.data.cache_report import refuse_small
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.loader import Capacity, Loader
from trainer.data.normalise import normaliser_of, refuse_unknown_transforms
from trainer.data.order import MicroBatch, Order, RankOrder, evaluation_order, evaluation_windows
from trainer.data.reader import WindowReader
from trainer.data.source import Source
from trainer.data.troubles import Ranks, Skips
from trainer.data.windows import WindowSet, WindowShape
from trainer.errors import RefusedError

__all__ = [
    "Share",
    "evaluation_loader",
    "open_datasets",
    "refuse_unknown_conditions",
    "sources",
    "space_rank",
    "training_loader",
    "training_order",
    "vocabulary",
    "window_sets",
]


class Share(Protocol):
    """Which of the ranks this is."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...


def open_datasets(data: DataConfig, *, split: str = "train", is_whole: bool = False) -> list[Dataset]:
    """All datasets of a config, their windows cropped as in training unless they are to be whole.

    Raises RefusedError for the first that is none, or has not what the config names.
    """
    retries = Retries(**dict(data.retries))
    datasets = [open_dataset(Storage(entry.url, retries), split=split) for entry in data.datasets]
    if not is_whole:
        datasets = [_cropped(data, number, dataset) for number, dataset in enumerate(datasets)]
    augmenters(data.augments, datasets, seed=0)  # refused here, before anything is written
    refuse_unknown_transforms(data, datasets)
    for dataset in datasets:
        normaliser_of(data, dataset)
    if data.cache is not None:
        refuse_unusable(data.cache.folder)
        if data.cache.whole_shards and data.shards_in_group is not None:
            refuse_small(data.cache, datasets, shards_in_group=data.shards_in_group)
    return datasets


def _cropped(data: DataConfig, number: int, dataset: Dataset) -> Dataset:
    own = data.datasets[number].window
    key = "data.window.crop" if own is None else f"data.datasets.{number}.window.crop"
    return dataset.cropped(data.windows[number].crop, key=key)


def vocabulary(datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """Every field component of the datasets, by name, in alphabetical order."""
    return tuple(sorted({channel for dataset in datasets for channel in dataset.channels}))


def space_rank(datasets: Sequence[Dataset]) -> int:
    """Space axes that a model of these datasets needs: those of the one that has most."""
    return max(len(dataset.manifest.dataset.spatial_dims) for dataset in datasets)


def refuse_unknown_conditions(names: Sequence[str], datasets: Sequence[Dataset]) -> None:
    """Raises RefusedError for a condition that no dataset has."""
    known = {"time_step", *(name for dataset in datasets for name in dataset.manifest.dataset.scalars)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RefusedError(
            f"stage.processor.conditions: no dataset has a parameter {', '.join(unknown)}; "
            f"they have {', '.join(sorted(known))}"
        )


def training_order(data: DataConfig, datasets: Sequence[Dataset], *, seed: int) -> Order:
    """The sequence of global batches. Raises RefusedError for a dataset without a window."""
    sets = window_sets(data, datasets)
    return Order(
        seed,
        sets,
        weights=_weights(data, sets),
        batch_size=data.batch_size,
        batch_sizes=data.batch_sizes,
        parts=data.parts_per_step,
        shards_in_group=data.shards_in_group,
    )


def window_sets(data: DataConfig, datasets: Sequence[Dataset]) -> list[WindowSet]:
    """The windows of each dataset, cut as the config says. Raises RefusedError for a dataset without one."""
    return [dataset.windows(*_shapes(window)) for dataset, window in zip(datasets, data.windows, strict=True)]


def _shapes(window: WindowConfig) -> list[WindowShape]:
    return [WindowShape(window.frames, stride, window.start_every) for stride in window.strides]


def _weights(data: DataConfig, sets: Sequence[WindowSet]) -> list[float]:
    """Rounded to what every machine's arithmetic agrees on."""
    weights = [entry.weight for entry in data.datasets]
    if data.temperature is None:
        return weights
    factors = [windows.total ** (1 / data.temperature) for windows in sets]
    return [float(f"{w * factor / max(factors):.9g}") for w, factor in zip(weights, factors, strict=True)]


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
    ranks: Ranks | None = None,
) -> Loader:
    """This rank's endless stream from `step` on; each step takes `RankOrder.micro_batches` batches.

    Raises RefusedError when the global batch does not divide, or a dataset has no window or unknown fields.
    """
    order = RankOrder(training_order(data, datasets, seed=seed), share.rank, share.size, micro_batch_size)
    return Loader(
        _readers(
            data,
            datasets,
            frames=[window.frames for window in data.windows],
            field_ids=field_ids,
            moved_by=augmenters(data.augments, datasets, seed=seed),
            whole_shards=data.cache is not None and data.cache.whole_shards,
        ),
        order.micro_batch,
        capacity=Capacity(
            order.micro_batch_sizes,
            largest_take=order.micro_batches,
            read_ahead_bytes=data.read_ahead_bytes,
            threads=data.threads,
            pin=pin,
        ),
        first=step * order.micro_batches,
        skips=Skips(data.max_skipped_windows, order.order.spare) if data.max_skipped_windows else None,
        ranks=ranks,
    )


def evaluation_loader(
    data: DataConfig,
    datasets: Sequence[Dataset],
    *,
    frames: int | None,
    max_windows: int,
    share: Share,
    micro_batch_size: int,
    field_ids: Mapping[str, int],
    pin: bool,
    ranks: Ranks | None = None,
) -> Loader:
    """This rank's share of at most `max_windows` windows of each dataset; read them with `Loader.scored`.

    Windows of `frames` frames, or of as many as in training (None), with the first of the strides of training.
    """
    shapes = [WindowShape(frames or window.frames, window.strides[0]) for window in data.windows]
    sizes = [
        micro_batch_size_of(size, batch_size=data.batch_size, micro_batch_size=micro_batch_size)
        for size in data.batch_sizes
    ]
    micro_batches = evaluation_order(
        [evaluation_windows(one.windows(shape), max_windows) for one, shape in zip(datasets, shapes, strict=True)],
        rank=share.rank,
        world_size=share.size,
        micro_batch_sizes=sizes,
    )

    def schedule(number: int) -> MicroBatch | None:
        return micro_batches[number] if number < len(micro_batches) else None

    return Loader(
        _readers(data, datasets, frames=[shape.frames for shape in shapes], field_ids=field_ids),
        schedule,
        capacity=Capacity(sizes, read_ahead_bytes=data.read_ahead_bytes, threads=data.threads, pin=pin),
        ranks=ranks,
    )


def _readers(
    data: DataConfig,
    datasets: Sequence[Dataset],
    *,
    frames: Sequence[int],
    field_ids: Mapping[str, int],
    moved_by: Sequence[Augmenter | None] | None = None,
    whole_shards: bool = False,
) -> list[WindowReader]:
    """Without `moved_by` no dataset is augmented."""
    cache = Cache(data.cache.folder, max_bytes=data.cache.bytes) if data.cache is not None else None
    read_by = sources(data, datasets, frames=frames, cache=cache, whole_shards=whole_shards)
    return [
        WindowReader(source, normaliser=normaliser_of(data, source.dataset), field_ids=field_ids, augmenter=augmenter)
        for source, augmenter in zip(read_by, moved_by or [None] * len(datasets), strict=True)
    ]


def sources(
    data: DataConfig,
    datasets: Sequence[Dataset],
    *,
    frames: Sequence[int] | None = None,
    cache: Cache | None = None,
    whole_shards: bool = False,
) -> list[Source]:
    """What reads windows of so many frames of each dataset; without `frames`, of as many as in training."""
    lengths = frames or [window.frames for window in data.windows]
    return [
        Source(dataset, frames=length, verify=data.verify_checksums, cache=cache, whole_shards=whole_shards)
        for dataset, length in zip(datasets, lengths, strict=True)
    ]
