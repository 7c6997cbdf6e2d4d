"""Re-reads a prepared dataset: every shard against its checksum, every record against the index, statistics against the
values and, if wanted, every value against the source, bit by bit."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from data_prep.contract.errors import RefusedError
from data_prep.contract.manifest import INDEX_NAME, MANIFEST_NAME, Index, Manifest, load_manifest, shards_of
from data_prep.contract.storage import Storage
from data_prep.conversion.not_finite import PartialSource
from data_prep.inspection.places import array_of, zarr_block
from data_prep.inspection.recount import Recount
from data_prep.inspection.shard_check import ShardChecker
from data_prep.sources.origin import Origin
from data_prep.sources.prepared import PreparedReader
from data_prep.sources.protocol import Source
from data_prep.sources.well import open_well

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Report:
    """What was looked at and what is wrong with it."""

    num_shards: int
    """Objects with records, as `convert` counts them."""
    num_metadata: int
    """Objects without: zarr's own descriptions."""
    num_records: int
    differences: tuple[str, ...]
    unexpected: tuple[str, ...]
    """Objects at the destination that the manifest does not know; no fault."""


def verify(destination: Storage, *, source: Source | None, shard_path: str | None, advance: Advance) -> Report:
    """Look at everything (or one shard) and list what is wrong."""
    manifest, index = load_manifest(destination)
    source = PartialSource(source, manifest.provenance.left_out) if source else None
    shards = _chosen(destination, manifest, shard_path)
    differences = list(_compare_facts(manifest, source)) if source else []
    rows_of = _rows_by_shard(manifest, index)
    num_records = 0
    blocks = _zarr_blocks(destination, manifest, differences)
    origin = _origin(manifest, differences)
    stored = shards_of(destination, manifest)
    recount = None if shard_path else Recount(manifest, PreparedReader(destination, manifest, index))
    # facts that differ have been reported; then comparing values record by record would only repeat them
    with source.reader() if source and not differences else nullcontext() as reader:
        runs = source.trajectories if source else ()
        checker = ShardChecker(manifest, index, blocks, origin, reader, runs, recount)
        for number in shards:
            differences += checker.check(stored, manifest.shards[number], rows_of[number])
            num_records += len(rows_of[number])
            advance(manifest.shards[number].bytes)
    if recount and not differences:  # what is damaged or out of place would show in sums over all of it too
        differences += _recounted(recount)
    unexpected = () if shard_path else _unexpected(destination, manifest)
    num_shards = sum(bool(rows_of[number]) for number in shards)
    return Report(num_shards, len(shards) - num_shards, num_records, tuple(differences), unexpected)


def _recounted(recount: Recount) -> Iterator[str]:
    """What the values say otherwise than the manifest."""
    if recount.is_complete():
        yield from recount.differences()
    else:
        yield f"{MANIFEST_NAME}: statistics could not be counted again, since some record lies in several shards"


def _chosen(destination: Storage, manifest: Manifest, shard_path: str | None) -> list[int]:
    chosen = [number for number, shard in enumerate(manifest.shards) if shard_path in (None, shard.path)]
    if not chosen:
        raise RefusedError(
            f"{destination.locate(MANIFEST_NAME)}: lists no shard `{shard_path}`; "
            f"it has {len(manifest.shards)}, the first is `{manifest.shards[0].path}`"
        )
    return chosen


def _rows_by_shard(manifest: Manifest, index: Index) -> list[list[int]]:
    """Rows of each shard, ascending, so that the source is read in order."""
    order = np.argsort(index["shard"], kind="stable")
    edges = np.searchsorted(index["shard"][order], np.arange(len(manifest.shards) + 1))
    return [order[edges[number] : edges[number + 1]].tolist() for number in range(len(manifest.shards))]


def _zarr_blocks(destination: Storage, manifest: Manifest, differences: list[str]) -> dict[str, tuple[int, int]]:
    """Shape of a shard for each fused zarr array."""
    if manifest.layout != "zarr":
        return {}
    blocks = {}
    sizes = {shard.path: shard.bytes for shard in manifest.shards}
    for array in sorted({array_of(path) for path in sizes if "fields/c/" in path}):
        path = f"{array}/zarr.json"
        try:
            blocks[array] = zarr_block(destination.get(path, max_bytes=sizes.get(path, 0)))
        except (RefusedError, ValueError, KeyError, TypeError) as error:
            differences.append(f"{path}: cannot be used: {error}")
    return blocks


def _origin(manifest: Manifest, differences: list[str]) -> Origin | None:
    """Where the source's own files say that the values lie; None where nothing refers to them, or they do not say."""
    if manifest.reference is None:
        return None
    try:
        origin = open_well(manifest.reference.url).origin()
    except RefusedError as error:
        differences.append(f"{MANIFEST_NAME}: reference.url: {error}")
        return None
    if origin.reference.kept != manifest.reference.kept:
        differences.append(
            f"{MANIFEST_NAME}: reference.kept is {manifest.reference.kept}, but in the files {origin.reference.kept}"
        )
    return origin


def _compare_facts(manifest: Manifest, source: Source) -> Iterator[str]:
    """What the manifest says of the source, against the source's headers."""
    for key, stored in manifest.dataset.__dict__.items():
        found = source.spec.__dict__[key]
        if stored != found and key != "name":  # a renamed folder is still the same data
            yield f"{MANIFEST_NAME}: dataset.{key} is {str(stored)[:100]}, but the source has {str(found)[:100]}"
    stored_names = [run.source for run in manifest.trajectories]
    found_names = [run.name for run in source.trajectories]
    if stored_names != found_names:
        missing = sorted(set(found_names) - set(stored_names)) or sorted(set(stored_names) - set(found_names))
        yield f"{MANIFEST_NAME}: trajectories differ from the source's, for example `{(missing or found_names)[0]}`"
        return
    for run, original in zip(manifest.trajectories, source.trajectories, strict=True):
        if run.times != original.times or run.scalars != original.scalars:
            yield f"{MANIFEST_NAME}: times or scalars of {run.source} differ from the source's"


def _unexpected(destination: Storage, manifest: Manifest) -> tuple[str, ...]:
    shards = () if manifest.reference else manifest.shards
    known = {MANIFEST_NAME, INDEX_NAME, *(shard.path for shard in shards)}
    return tuple(path for path in destination.list() if path not in known)
