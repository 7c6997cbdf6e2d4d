"""What a cache would hold of the datasets, before it costs anything: said in words, or refused. Makes nothing."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from trainer.config.schema import CacheConfig
from trainer.data.cache import EVICTED_SHARE
from trainer.data.dataset import Dataset
from trainer.errors import RefusedError


def cache_lines(
    cache: CacheConfig, datasets: Sequence[Dataset], *, shards_in_group: int | None, size: Callable[[int], str]
) -> Iterator[str]:
    """For `check`. `shards_in_group` is that of `data`; `size` words a number of bytes."""
    stored = sum(dataset.stored_bytes for dataset in datasets)
    share = min(1.0, cache.bytes / max(1, stored))
    yield f"cache: {size(cache.bytes)} in {cache.folder}, {share:.0%} of the {size(stored)} stored"
    if shards_in_group is not None:
        group = sum(sorted(_shard_bytes(datasets), reverse=True)[:shards_in_group])
        fits = "fit" if group <= cache.bytes else "do not fit; raise data.cache.bytes or lower data.shards_in_group"
        yield f"cache: the {size(group)} of the {shards_in_group} largest shards {fits}"
    place = _existing(Path(cache.folder).expanduser())
    free = shutil.disk_usage(place).free + _taken(place)
    if free < cache.bytes:
        yield f"cache: only {size(free)} are free in {place}: lower data.cache.bytes"
    for dataset in datasets:
        if dataset.shards.is_local and os.stat(dataset.shards.absolute_url).st_dev == place.stat().st_dev:
            yield f"cache: {dataset.name} lies on the same disk, so keeping its records gains nothing"


def refuse_small(cache: CacheConfig, datasets: Sequence[Dataset], *, shards_in_group: int) -> None:
    """Raises RefusedError for a cache that whole shards would leave before all their windows have come."""
    groups = [sum(sorted(_shard_bytes([one]), reverse=True)[: 2 * shards_in_group]) for one in datasets]
    needed = int(sum(groups) * (1 + EVICTED_SHARE))
    if cache.bytes < needed:
        raise RefusedError(
            f"data.cache.bytes is {cache.bytes}, but whole_shards needs {needed}: two groups of the {shards_in_group} "
            "largest shards of each dataset; raise it, or lower data.shards_in_group"
        )


def _shard_bytes(datasets: Iterable[Dataset]) -> Iterator[int]:
    return (shard.bytes for dataset in datasets for shard in dataset.manifest.shards)


def _existing(place: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return place if place.exists() else _existing(place.absolute().parent)


def _taken(place: Path) -> int:
    """By files that are there already, which a cache may remove."""
    return sum(path.stat().st_size for path in place.glob("records/*/*/*"))
