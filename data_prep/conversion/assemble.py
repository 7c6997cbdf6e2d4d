"""Results of all units -> the manifest and its index. Pure but for the versions of what is installed."""

import importlib.metadata
import platform
from collections.abc import Mapping
from functools import reduce

import numpy as np

from data_prep.contract.manifest import (
    INDEX_DTYPE,
    Index,
    Manifest,
    NotFinite,
    Provenance,
    Shard,
    SourceFile,
    Trajectory,
    describe_index,
)
from data_prep.conversion.journal import UnitResult, Work
from data_prep.numbers.tally import Tally
from data_prep.planning.plan import Plan
from data_prep.sources.reading import ByChannel
from data_prep.sources.stretches import Stretch, joined

VERSIONED = ("numpy", "h5py", "numcodecs", "zarr", "webdataset")


def assemble(work: Work, plan: Plan, results: list[UnitResult], *, metadata: list[Shard]) -> tuple[Manifest, Index]:
    """`results`: of every unit, in the order of the plan, by which sums merge alike whoever made them."""
    index: Index = np.zeros(plan.num_rows, INDEX_DTYPE)
    for number, result in enumerate(results):
        for record in result.records:
            index[record.row] = (number, record.offset, record.bytes, record.crc32c)
    tally = reduce(Tally.merge, (result.tally for result in results), Tally.none(plan.spec))
    manifest = Manifest(
        dataset=plan.spec,
        layout=plan.options.layout,
        codec=plan.options.codec,
        tile=plan.tile,
        reference=plan.origin.reference if plan.origin else None,
        shards=tuple([result.shard for result in results] + metadata),
        trajectories=stored_trajectories(plan, _not_finite(results)),
        index=describe_index(index),
        statistics=tally.statistics(plan.spec),
        rounding=work.rounding or tally.rounding(plan.spec, plan.channel_bits) or None,
        provenance=Provenance(
            command=work.command, versions=_versions(), files=_files(work, results), left_out=work.left_out
        ),
    )
    return manifest, index


def _files(work: Work, results: list[UnitResult]) -> tuple[SourceFile, ...]:
    """With the checksum of each that was read on a local disk, whoever read which part of it.

    None of one whose arrays overlap: their bytes don't add up to the file.
    """
    read: dict[str, list[Stretch]] = {}
    for result in results:
        for path, stretches in result.read.items():
            read.setdefault(path, []).extend(stretches)
    files = []
    for file in work.files:
        parts = joined(set(read.get(file.path, ())))  # a set: two names of one array read its bytes twice
        is_whole = [(part.offset, part.stop) for part in parts] == [(0, file.bytes)]
        files.append(SourceFile(path=file.path, bytes=file.bytes, crc32c=parts[0].crc32c if is_whole else None))
    return tuple(files)


def stored_trajectories(plan: Plan, not_finite: Mapping[int, ByChannel]) -> tuple[Trajectory, ...]:
    """The plan's trajectories as the manifest has them. `not_finite`: of those that have such values, by position."""
    return tuple(
        Trajectory(
            split=run.split,
            source=run.name,
            num_steps=run.num_steps,
            first_record=first_record,
            times=run.times,
            scalars=run.scalars,
            not_finite=not_finite.get(number, {}),
        )
        for number, (run, first_record) in enumerate(zip(plan.trajectories, plan.first_records, strict=True))
    )


def _not_finite(results: list[UnitResult]) -> dict[int, ByChannel]:
    """By trajectory, the counts of all its segments together."""
    total: dict[int, ByChannel] = {}
    for result in results:
        for number, found in result.not_finite:
            sums = total.setdefault(number, {})
            for name, counts in found.items():
                before = sums.get(name, NotFinite(nan=0, infinite=0))
                sums[name] = NotFinite(nan=before.nan + counts.nan, infinite=before.infinite + counts.infinite)
    return total


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in VERSIONED}
    return {"python": platform.python_version(), **versions}
