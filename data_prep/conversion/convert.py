"""Runs a plan, or a part of it: the shards that are missing, and last of all the manifest.

Idempotent: stopped at any moment and started again it goes on where it was, and the result is the same to the byte,
however many workers and machines had a share in it.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from data_prep.contract.checksum import checksum
from data_prep.contract.errors import RefusedError
from data_prep.contract.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    Manifest,
    Shard,
    SourceFile,
    load_manifest,
    save_manifest,
    shards_of,
)
from data_prep.contract.storage import Storage
from data_prep.conversion.assemble import assemble, stored_trajectories
from data_prep.conversion.destination import clear_destination, clear_progress, refuse_foreign, refuse_missing
from data_prep.conversion.journal import Journal, UnitResult, Work, read_work
from data_prep.conversion.unit import Task, make_units
from data_prep.conversion.workers import share
from data_prep.layouts.build import metadata_of
from data_prep.planning.part import Part, part_numbers
from data_prep.planning.plan import Options, Unit
from data_prep.sources.protocol import Source
from data_prep.sources.reading import ByChannel


@dataclass(frozen=True)
class Outcome:
    """What a conversion did."""

    manifest: Manifest | None
    """None while shards of other parts are missing."""
    num_written: int = 0
    num_kept: int = 0
    """Shards that were there already."""


class Progress(Protocol):
    """Told what is done, in bytes before compression."""

    def skip(self, num_bytes: int) -> None:
        """Done before we came."""

    def advance(self, num_bytes: int) -> None:
        """Done just now."""


def convert(
    source: Source, destination: Storage, *, work: Work, part: Part, num_workers: int, overwrite: bool, bar: Progress
) -> Outcome:
    """Convert a source, or a part of it; whoever makes the last shard writes the manifest.

    Raises RefusedError when the source is not acceptable; finished shards wait for a next try.
    """
    journal = Journal(destination, work)
    is_finished = destination.exists(MANIFEST_NAME)
    if is_finished and not overwrite:
        return _finished(source, destination, journal)
    if is_finished or (overwrite and not journal.is_of_this_plan()):
        clear_destination(destination)
    if not journal.is_begun():
        refuse_foreign(destination)
    journal.begin(paths=[*journal.plan.written_paths, *metadata_of(journal.plan), INDEX_NAME])
    results, num_written = _run_units(Task(source, destination, journal), part, num_workers=num_workers, bar=bar)
    num_kept = len(results) - num_written
    others = [unit for unit in journal.plan.units if unit.path not in results]
    if others and journal.has_notes_of(others):
        results |= journal.results(others)
    if len(results) < len(journal.plan.units):
        return Outcome(None, num_written=num_written, num_kept=num_kept)
    return Outcome(_complete(destination, journal, results), num_written=num_written, num_kept=num_kept)


def finish(destination: Storage) -> Manifest:
    """Write the manifest of a conversion whose parts are all done. Raises RefusedError naming those that are not."""
    if destination.exists(MANIFEST_NAME):
        manifest, _ = load_manifest(destination)
        clear_progress(destination)
        return manifest
    journal = Journal(destination, read_work(destination))
    results = journal.results(journal.plan.units)
    missing = [unit for unit in journal.plan.units if unit.path not in results]
    if missing:
        raise RefusedError(_explain_missing(destination, journal, missing))
    return _complete(destination, journal, results)


def _run_units(task: Task, part: Part, *, num_workers: int, bar: Progress) -> tuple[dict[str, UnitResult], int]:
    """(results by path, how many shards were written now)."""
    plan, units = task.plan, part.units_of(task.plan)
    results = task.journal.results(units)
    bar.skip(sum(plan.unit_bytes(unit) for unit in units if unit.path in results))
    missing = [unit for unit in units if unit.path not in results]
    try:
        for unit, result in share(partial(make_units, task), missing, num_workers=num_workers, advance=bar.advance):
            results[unit.path] = result
    except RefusedError:
        if part.count == 1:
            task.journal.clear_if_empty()  # there is nothing that a next try could go on from
        raise
    finally:
        if len(results) < len(units):
            task.destination.delete_leftovers()  # of writes that were ended half-way, ours or a worker's
    return results, len(missing)


def _complete(destination: Storage, journal: Journal, results: dict[str, UnitResult]) -> Manifest:
    """All shards are there: describe them."""
    plan = journal.plan
    metadata = _write_metadata(destination, metadata_of(plan))
    ordered = [results[unit.path] for unit in plan.units]
    manifest, index = assemble(journal.work, plan, ordered, metadata=metadata)
    save_manifest(destination, manifest, index)
    clear_progress(destination)
    return manifest


def _write_metadata(destination: Storage, objects: dict[str, bytes]) -> list[Shard]:
    """Listed in the manifest like the shards, so that `verify` covers them."""
    for path, data in objects.items():
        destination.put(path, data)
    return [Shard(path=path, bytes=len(data), crc32c=checksum(data)) for path, data in objects.items()]


def _finished(source: Source, destination: Storage, journal: Journal) -> Outcome:
    """The destination has a manifest: fine when it is of this very conversion."""
    manifest, _ = load_manifest(destination)
    plan, options = journal.plan, journal.work.options
    expected = {
        "dataset": plan.spec,
        "layout": options.layout,
        "codec": options.codec,
        "tile": plan.tile,
        "reference": plan.origin.reference if plan.origin else None,
        "trajectories": stored_trajectories(plan, _counted(manifest, options)),
    }
    different = [key for key, value in expected.items() if manifest.__dict__[key] != value]
    if not different and manifest.kept_bits != plan.channel_bits:
        different = ["rounding"]
    paths = [unit.path for unit in plan.units] + list(metadata_of(plan))
    if not different and [shard.path for shard in manifest.shards] != paths:
        different = ["shards"]
    if not different and manifest.provenance.files != _source_files(source):
        different = ["provenance.files"]
    if different:
        raise RefusedError(
            f"{destination.locate(MANIFEST_NAME)}: is of another conversion (`{different[0]}` differs); "
            "give another destination, or `--overwrite` to replace it"
        )
    for shard in manifest.shards:
        refuse_missing(shards_of(destination, manifest), shard)
    clear_progress(destination)
    return Outcome(manifest, num_kept=len(plan.units))


def _counted(manifest: Manifest, options: Options) -> dict[int, ByChannel]:
    """What a finished conversion has counted, if this one would have kept it too."""
    runs = enumerate(manifest.trajectories) if options.not_finite == "keep" else ()
    return {number: run.not_finite for number, run in runs}


def _source_files(source: Source) -> tuple[SourceFile, ...]:
    return tuple(SourceFile(path=file.path, bytes=file.bytes, crc32c=source.checksum_of(file)) for file in source.files)


def _explain_missing(destination: Storage, journal: Journal, missing: Sequence[Unit]) -> str:
    """Which shards are not there, and the command that makes them."""
    work, plan, paths = journal.work, journal.plan, {unit.path for unit in missing}
    numbers = part_numbers(plan, work.num_parts)
    parts = sorted({number for unit, number in zip(plan.units, numbers, strict=True) if unit.path in paths})
    names = ", ".join(str(Part(number, work.num_parts)) for number in parts)
    verb, source, *options = work.command
    command = ["python", "-m", "data_prep", verb, source, destination.url, *options]
    command += ["--part", str(Part(parts[0], work.num_parts))] if work.num_parts > 1 else []
    return (
        f"{destination.url}: {len(missing)} of {len(plan.units)} shards are not done, the first of them "
        f"{missing[0].path}; of part {names}: run `{shlex.join(command)}`"
    )
