"""Runs a plan: reads the source segment by segment, writes shards, and last of all the manifest.

Idempotent: stopped at any moment and started again it goes on where it was, and the result is the same to the byte.
"""

import importlib.metadata
import platform
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.contract.checksum import checksum
from data_prep.contract.errors import RefusedError
from data_prep.contract.manifest import (
    INDEX_DTYPE,
    INDEX_NAME,
    MANIFEST_NAME,
    Index,
    Manifest,
    Provenance,
    Shard,
    SourceFile,
    Trajectory,
    describe_index,
    load_manifest,
    save_manifest,
)
from data_prep.contract.storage import Storage
from data_prep.destination import clear_destination, refuse_foreign, refuse_missing
from data_prep.journal import PLAN_PATH, Journal, UnitResult
from data_prep.layout import builder_of, metadata_of
from data_prep.plan import Plan
from data_prep.source import Source
from data_prep.statistics import FrameMoments
from data_prep.unit import Advance, UnitWork, convert_unit

VERSIONED = ("numpy", "h5py", "numcodecs", "zarr", "webdataset")


@dataclass(frozen=True)
class Outcome:
    """What a conversion did."""

    manifest: Manifest
    num_written: int
    num_kept: int
    """Shards that were there already."""


def convert(
    source: Source, destination: Storage, *, plan: Plan, command: tuple[str, ...], overwrite: bool, advance: Advance
) -> Outcome:
    """Convert a whole source. Raises RefusedError when it is not acceptable; finished shards wait for a next try."""
    journal = Journal(destination, plan, source.files)
    is_finished = destination.exists(MANIFEST_NAME)
    objects = metadata_of(plan)
    if is_finished and not overwrite:
        return _finished(source, destination, plan, objects=objects)
    if is_finished or (overwrite and not journal.is_of_this_plan()):
        clear_destination(destination)
    if not destination.exists(PLAN_PATH):
        refuse_foreign(destination)
    journal.begin(paths=[unit.path for unit in plan.units] + [*objects, INDEX_NAME])
    results, num_written = _run_units(source, destination, plan=plan, journal=journal, advance=advance)
    metadata = _write_metadata(destination, objects)
    manifest, index = _assemble(source, plan, results, metadata=metadata, command=command)
    save_manifest(destination, manifest, index)
    journal.clear()
    destination.delete_leftovers()
    return Outcome(manifest, num_written=num_written, num_kept=len(results) - num_written)


def _finished(source: Source, destination: Storage, plan: Plan, *, objects: dict[str, bytes]) -> Outcome:
    """The destination has a manifest: fine when it is of this very conversion."""
    manifest, _ = load_manifest(destination)
    expected = {
        "dataset": plan.spec,
        "layout": plan.options.layout,
        "codec": plan.options.codec,
        "trajectories": _stored_trajectories(plan),
    }
    different = [key for key, value in expected.items() if manifest.__dict__[key] != value]
    paths = [unit.path for unit in plan.units] + list(objects)
    if not different and [shard.path for shard in manifest.shards] != paths:
        different = ["shards"]
    if not different and manifest.provenance.files != _source_files(source, {}):
        different = ["provenance.files"]
    if different:
        raise RefusedError(
            f"{destination.locate(MANIFEST_NAME)}: is of another conversion (`{different[0]}` differs); "
            "give another destination, or `--overwrite` to replace it"
        )
    for shard in manifest.shards:
        refuse_missing(destination, shard)
    Journal(destination, plan, source.files).clear()
    destination.delete_leftovers()
    return Outcome(manifest, num_written=0, num_kept=len(plan.units))


def _run_units(
    source: Source, destination: Storage, *, plan: Plan, journal: Journal, advance: Advance
) -> tuple[list[UnitResult], int]:
    """(results in the order of the plan, how many shards were written now)."""
    results: list[UnitResult] = []
    checksums: dict[str, int | None] = {}
    num_written = 0
    with source.reader() as reader:
        for unit in plan.units:
            result = journal.result_of(unit)
            if result is None:
                work = UnitWork(source, reader, plan, unit, checksums, advance)
                result = _write_unit(work, destination, journal, is_first=not results)
                num_written += 1
            else:
                advance(plan.unit_bytes(unit))
            checksums |= result.source_checksums
            results.append(result)
    return results, num_written


def _write_unit(work: UnitWork, destination: Storage, journal: Journal, *, is_first: bool) -> UnitResult:
    """Make one shard, store it and make a note of it, in this order."""
    try:
        data, result = convert_unit(work, builder_of(work.plan, work.unit))
    except RefusedError:
        if is_first:  # there is nothing that a next try could go on from
            journal.clear()
        raise
    destination.put(work.unit.path, data)
    journal.note(work.unit, result)
    return result


def _write_metadata(destination: Storage, objects: dict[str, bytes]) -> list[Shard]:
    """Listed in the manifest like the shards, so that `verify` covers them."""
    for path, data in objects.items():
        destination.put(path, data)
    return [Shard(path=path, bytes=len(data), crc32c=checksum(data)) for path, data in objects.items()]


def _assemble(
    source: Source, plan: Plan, results: list[UnitResult], *, metadata: list[Shard], command: tuple[str, ...]
) -> tuple[Manifest, Index]:
    index: Index = np.zeros(plan.num_records, INDEX_DTYPE)
    for number, result in enumerate(results):
        for record in result.records:
            index[record.row] = (number, record.offset, record.bytes, record.crc32c)
    checksums = {path: crc32c for result in results for path, crc32c in result.source_checksums.items()}
    manifest = Manifest(
        dataset=plan.spec,
        layout=plan.options.layout,
        codec=plan.options.codec,
        shards=tuple([result.shard for result in results] + metadata),
        trajectories=_stored_trajectories(plan),
        index=describe_index(index),
        statistics=_statistics(plan, results),
        provenance=Provenance(command=command, versions=_versions(), files=_source_files(source, checksums)),
    )
    return manifest, index


def _stored_trajectories(plan: Plan) -> tuple[Trajectory, ...]:
    return tuple(
        Trajectory(
            split=run.split,
            source=run.name,
            num_steps=run.num_steps,
            first_record=first_record,
            times=run.times,
            scalars=run.scalars,
        )
        for run, first_record in zip(plan.trajectories, plan.first_records, strict=True)
    )


def _statistics(plan: Plan, results: list[UnitResult]) -> dict[str, Any]:
    frames = FrameMoments.none(len(plan.spec.channels))
    constants = FrameMoments.none(len(plan.spec.constant_channels))
    for result in results:
        frames = frames.merge(result.moments)
        constants = constants.merge(result.constant_moments)
    return frames.records(plan.spec.channels) | constants.records(plan.spec.constant_channels)


def _source_files(source: Source, checksums: dict[str, int | None]) -> tuple[SourceFile, ...]:
    """Provenance of all files; checksums that are not known yet are computed."""
    return tuple(
        SourceFile(
            path=file.path,
            bytes=file.bytes,
            crc32c=checksums[file.path] if file.path in checksums else source.checksum_of(file),
        )
        for file in source.files
    )


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in VERSIONED}
    return {"python": platform.python_version(), **versions}
