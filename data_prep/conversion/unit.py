"""Work units: some segments of a source -> one shard at the destination, its records and its sums."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from data_prep.contract.errors import RefusedError
from data_prep.contract.sample import FrameArray
from data_prep.contract.storage import Storage
from data_prep.conversion.journal import Journal, UnitResult
from data_prep.layouts.build import builder_of
from data_prep.layouts.shard import BuiltShard, ShardBuilder
from data_prep.numbers.rounding import Rounded
from data_prep.numbers.tally import Tally
from data_prep.planning.plan import Plan, Segment, Unit
from data_prep.sources.protocol import InputFile, Reader, Source
from data_prep.sources.reading import (
    ByChannel,
    by_channel,
    count_not_finite,
    read_constants,
    read_frames,
    refuse_constants,
    refuse_frames,
)
from data_prep.sources.room import Room
from data_prep.sources.stretches import Stretch, joined

Advance = Callable[[int], None]
"""Told the decoded bytes of each piece of work that is done."""


@dataclass(frozen=True)
class Task:
    """One conversion: all that is needed to make any of its units. Picklable, for workers get a copy."""

    source: Source
    destination: Storage
    journal: Journal

    @property
    def plan(self) -> Plan:
        """How the source is cut into shards."""
        return self.journal.plan


def make_units(task: Task, units: Iterable[Unit], *, advance: Advance) -> Iterator[tuple[Unit, UnitResult]]:
    """Make shards one after the other, store each and make a note of it, in this order."""
    files = {file.path: file for file in task.source.files}
    first_uses = _first_uses(task.plan)
    shard_room, frames_room = Room(), Room()
    with task.source.reader() as reader:
        for unit in units:
            used = {path: files[path] for path in _paths_of(task.plan, unit)}
            new = [file for path, file in used.items() if first_uses[path] == unit.path]
            work = UnitWork(
                task.source, reader, task.plan, unit, tuple(used.values()), tuple(new), frames_room, advance
            )
            built, result = convert_unit(work, builder_of(task.plan, unit, shard_room))
            if built.data is not None:
                task.destination.put(unit.path, built.data)
            task.journal.note(unit, result)
            yield unit, result


@dataclass(frozen=True)
class UnitWork:
    """All that one unit needs."""

    source: Source
    reader: Reader
    plan: Plan
    unit: Unit
    files: tuple[InputFile, ...]
    """Those that it reads."""
    new_files: tuple[InputFile, ...]
    """Those of them that no earlier unit of the plan reads: it tells what no unit reads of them."""
    room: Room
    """For the frames of a segment, unless they are read to their place in the shard."""
    advance: Advance


def convert_unit(work: UnitWork, builder: ShardBuilder) -> tuple[BuiltShard, UnitResult]:
    """Read, check and encode: the shard, and what is kept of it."""
    source, trajectories = work.source, work.plan.trajectories
    read: Read = {file.path: [] for file in work.files}
    tally, not_finite = _encode_segments(work, builder, read)
    for file in work.new_files:
        read[file.path] += source.unread_of(file, (run for run in trajectories if run.file == file.path))
    for file in work.files:
        if source.fingerprint_of(file) != file.fingerprint:
            raise RefusedError(f"{file.path} of {source.url}: changed while it was read; convert when it is complete")
    built = builder.finish()
    return built, UnitResult(
        shard=built.shard,
        records=built.records,
        tally=tally,
        read={path: tuple(joined(stretches)) for path, stretches in read.items()},
        not_finite=not_finite,
    )


def _first_uses(plan: Plan) -> dict[str, str]:
    """Of each source file: the path of the first unit that reads it."""
    first_uses: dict[str, str] = {}
    for unit in plan.units:
        for path in _paths_of(plan, unit):
            first_uses.setdefault(path, unit.path)
    return first_uses


def _paths_of(plan: Plan, unit: Unit) -> list[str]:
    """The source files of a unit, each once, in the order of its segments."""
    return list(dict.fromkeys(plan.trajectories[segment.trajectory].file for segment in unit.segments))


NotFinites = list[tuple[int, ByChannel]]
"""Of trajectories, by their position in the plan."""
Read = dict[str, list[Stretch]]
"""What was read of the files."""


@dataclass(frozen=True)
class _Values:
    """What was read of a segment."""

    segment: Segment
    frames: Rounded
    constants: Rounded | None


def _encode_segments(work: UnitWork, builder: ShardBuilder, read: Read) -> tuple[Tally, NotFinites]:
    """Feed the builder with every segment; each trajectory's constants count once. Adds to `read`."""
    tally, not_finite = Tally.none(work.plan.spec), []
    last: tuple[Segment, FrameArray] | None = None
    for segment in work.unit.segments:
        place = builder.place_of(segment)
        values = _read_values(work, segment, place, read)
        more = _count(work, values, before=_frame_before(work, segment, last) if _is_counted(work) else None)
        not_finite += _count_not_finite(work, values, num_finite=more.num_finite)
        tally = tally.merge(more)
        frames, constants = values.frames, values.constants
        builder.add(segment, frames.stored, constants=None if constants is None else constants.stored[0])
        # what is in the shard stays there; a room is read into again
        last = (segment, frames.exact[-1:] if place is not None else frames.exact[-1:].copy())
        work.advance(frames.exact.nbytes + (0 if constants is None else constants.exact.nbytes))
    return tally, not_finite


def _read_values(work: UnitWork, segment: Segment, place: FrameArray | None, read: Read) -> _Values:
    """Of one segment. Adds to `read`."""
    spec, (bits, constant_bits) = work.plan.spec, work.plan.channel_bits
    run = work.plan.trajectories[segment.trajectory]
    frames = Rounded.of(_read_segment(work, segment, place, read[run.file]), bits)
    constants = None
    if segment.with_constants:
        constants = Rounded.of(read_constants(work.reader, run, spec)[np.newaxis], constant_bits)
    return _Values(segment, frames, constants)


def _is_counted(work: UnitWork) -> bool:
    return work.unit.split == "train" or bool(work.plan.options.kept_bits)


def _count(work: UnitWork, values: _Values, *, before: FrameArray | None) -> Tally:
    """Of one segment. `before`: the frame before it. Constants count with a trajectory's first."""
    tally, is_train = Tally.none(work.plan.spec), work.unit.split == "train"
    if not _is_counted(work):
        return tally
    bits, _ = work.plan.channel_bits
    tally = tally.with_frames(values.frames, None if before is None else Rounded.of(before, bits), is_train=is_train)
    if values.constants is None or values.segment.start:
        return tally
    return tally.with_constants(values.constants, is_train=is_train)


def _count_not_finite(work: UnitWork, values: _Values, *, num_finite: int) -> NotFinites:
    """Of one segment. `num_finite`: so many values of its frames are known to be finite, most often all of them.

    Raises RefusedError unless such values are to be kept.
    """
    segment, frames, constants = values.segment, values.frames, values.constants
    spec, run = work.plan.spec, work.plan.trajectories[segment.trajectory]
    is_kept, found = work.plan.options.not_finite == "keep", []
    if num_finite < frames.exact.size and (counts := count_not_finite(frames.exact)) is not None:
        if not is_kept:
            refuse_frames(work.reader, run, spec)
        found.append((segment.trajectory, by_channel(spec.channels, counts)))
    if constants is not None and (counts := count_not_finite(constants.exact)) is not None:
        if not is_kept:
            refuse_constants(work.reader, run, spec, counts)
        if segment.start == 0:
            found.append((segment.trajectory, by_channel(spec.constant_channels, counts)))
    return found


def _read_segment(work: UnitWork, segment: Segment, place: FrameArray | None, read: list[Stretch]) -> FrameArray:
    """(time, channel, *space), read to `place` if there is one. Adds to `read`."""
    run, spec = work.plan.trajectories[segment.trajectory], work.plan.spec
    if place is None:
        shape = (segment.num_steps, *spec.frame_shape)
        place = work.room.take(4 * math.prod(shape)).view(np.float32).reshape(shape)
    return read_frames(work.reader, run, spec, start=segment.start, stop=segment.stop, out=place, read=read)


def _frame_before(work: UnitWork, segment: Segment, last: tuple[Segment, FrameArray] | None) -> FrameArray | None:
    """(1, channel, *space) for the first time difference; read again only at the beginning of a unit."""
    if segment.start == 0:
        return None
    if last and (last[0].trajectory, last[0].stop) == (segment.trajectory, segment.start):
        return last[1]
    run = work.plan.trajectories[segment.trajectory]
    return read_frames(work.reader, run, work.plan.spec, start=segment.start - 1, stop=segment.start)
