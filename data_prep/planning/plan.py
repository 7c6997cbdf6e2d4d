"""Trajectories -> work units, each of which is one shard. Pure: the same corpus and options give the same shards.

That is what makes a conversion resumable, and independent of who does which unit and when.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Literal

from data_prep.contract.errors import RefusedError
from data_prep.contract.fields import DatasetSpec
from data_prep.contract.manifest import MAX_PIECE_BYTES, MAX_TILES, SPLITS, Codec, Layout, Split
from data_prep.contract.pieces import Pieces, Shape, num_tiles, pieces_of, tile_of
from data_prep.contract.sample import Shuffle
from data_prep.numbers.rounding import KeptBits, channel_bits
from data_prep.sources.origin import Origin
from data_prep.sources.protocol import SourceTrajectory

NotFinitePolicy = Literal["refuse", "skip", "keep"]
"""What happens to values that are not finite: an error, their trajectories left out, or stored as they are."""

DEFAULT_SHARD_BYTES = 2**28
"""Before compression. Large enough for a request to an object store to pay, small enough to hold in memory."""
DEFAULT_TILE_BYTES = 2**23
"""A frame that takes more is cut into tiles, so that no read fetches and decodes much at once."""
SEGMENT_BYTES = 2**25
"""The most frames that are in memory at once, and what one sample of a tar holds."""


@dataclass(frozen=True)
class Options:
    """What a person chooses about a conversion."""

    layout: Layout
    codec: Codec
    shard_bytes: int = DEFAULT_SHARD_BYTES
    not_finite: NotFinitePolicy = "refuse"
    """Changes no byte of a shard."""
    tile_bytes: int = DEFAULT_TILE_BYTES
    """Of the layout zarr; samples of tars are whole arrays."""
    kept_bits: KeptBits = field(default_factory=dict)
    """Mantissa bits that are kept, by field; fields that are not named are exact."""


@dataclass(frozen=True)
class Segment:
    """Frames `start` to `stop` of one trajectory; its constant record too, where `with_constants`."""

    trajectory: int
    """Position in the plan's trajectories."""
    start: int
    stop: int
    with_constants: bool = False

    @property
    def num_steps(self) -> int:
        """Frames of the segment."""
        return self.stop - self.start


@dataclass(frozen=True)
class Block:
    """How the trajectories and steps of one split are cut into zarr shards: (trajectories, steps) of one shard."""

    num_trajectories: int
    num_steps: int


@dataclass(frozen=True)
class Unit:
    """One shard and the segments that go into it, in order."""

    path: str
    split: Split
    kind: Literal["frames", "constants", "samples", "file"]
    segments: tuple[Segment, ...]
    first_trajectory: int = 0
    """Of a zarr shard: the first of its trajectories, counted within the split."""
    first_step: int = 0


@dataclass(frozen=True)
class Plan:
    """A whole conversion."""

    options: Options
    spec: DatasetSpec
    trajectories: tuple[SourceTrajectory, ...]
    tile: Shape | None
    """The space that one tile spans; None where frames are stored whole."""
    pieces: Pieces
    first_records: tuple[int, ...]
    """Of each trajectory: the row of the index where its records begin."""
    num_rows: int
    """Of the index."""
    units: tuple[Unit, ...]
    origin: Origin | None
    """Of a plan that writes no shards: where the values lie already."""

    @property
    def written_paths(self) -> list[str]:
        """Of the shards that a conversion writes."""
        return [] if self.origin else [unit.path for unit in self.units]

    def of_split(self, split: Split) -> list[int]:
        """Positions of a split's trajectories."""
        return [number for number, trajectory in enumerate(self.trajectories) if trajectory.split == split]

    def frames_block(self, split: Split) -> Block:
        """The shape of one zarr shard of `fields`."""
        steps = [self.trajectories[number].num_steps for number in self.of_split(split)]
        return _block(steps, self.spec.frame_shape, self.options)

    def constants_block(self, split: Split) -> Block:
        """The shape of one zarr shard of `constant_fields`; its one step is no axis there."""
        return _block([1] * len(self.of_split(split)), self.spec.constant_shape, self.options)

    def unit_bytes(self, unit: Unit) -> int:
        """Bytes of a unit's values before compression."""
        frame_bytes, constant_bytes = _record_bytes(self.spec.frame_shape), _record_bytes(self.spec.constant_shape)
        return sum(
            segment.num_steps * frame_bytes + segment.with_constants * constant_bytes for segment in unit.segments
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of all values before compression."""
        return sum(self.unit_bytes(unit) for unit in self.units)

    @property
    def channel_bits(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Kept bits of each channel of a frame, and of each constant channel."""
        return channel_bits(self.spec, self.options.kept_bits)

    @property
    def shuffle(self) -> Shuffle:
        """What a blosc codec does first."""
        return "bitshuffle" if self.options.kept_bits else "shuffle"

    def frame_rows(self, trajectory: int, step: int) -> range:
        """Rows of the index for one frame."""
        return self.pieces.frame_rows(self.first_records[trajectory], step)

    def constant_rows(self, trajectory: int) -> range:
        """Rows of the index for a trajectory's constants."""
        return self.pieces.constant_rows(self.first_records[trajectory], self.trajectories[trajectory].num_steps)


def make_plan(
    spec: DatasetSpec, trajectories: Sequence[SourceTrajectory], options: Options, origin: Origin | None = None
) -> Plan:
    """Cut a corpus into shards, or refer to its `origin`. Raises RefusedError where these options cannot be met."""
    tile = _tile(spec, options)
    pieces = pieces_of(spec, tile, origin.reference.kept if origin else None)
    if pieces.largest_bytes > MAX_PIECE_BYTES:
        raise RefusedError(
            f"a frame of {spec.frame_shape} has a part of {pieces.largest_bytes} bytes, but one record has at most "
            f"{MAX_PIECE_BYTES}; take --format zarr, which cuts it into tiles"
        )
    first_records = [0]
    for trajectory in trajectories:
        first_records.append(first_records[-1] + pieces.num_rows(trajectory.num_steps))
    units: list[Unit] = []
    for split in SPLITS:
        members = [number for number, trajectory in enumerate(trajectories) if trajectory.split == split]
        steps = {number: trajectories[number].num_steps for number in members}
        if origin is not None:
            units.extend(_file_units(spec, split, {number: trajectories[number] for number in members}, origin))
            continue
        cut = _tar_units if options.layout == "webdataset" else _zarr_units
        units.extend(cut(spec, split, steps, options) if members else ())
    return Plan(
        options=options,
        spec=spec,
        trajectories=tuple(trajectories),
        tile=tile,
        pieces=pieces,
        first_records=tuple(first_records[:-1]),
        num_rows=first_records[-1],
        units=tuple(units),
        origin=origin,
    )


def _tile(spec: DatasetSpec, options: Options) -> Shape | None:
    """The space that a tile spans; None where frames are stored whole."""
    if options.layout != "zarr":
        return None
    tile = tile_of(spec.frame_shape, max_bytes=options.tile_bytes)
    if (count := num_tiles(spec.resolution, tile)) > MAX_TILES:
        raise RefusedError(
            f"--tile-bytes {options.tile_bytes}: cuts a frame of {spec.frame_shape} into {count} tiles, but at most "
            f"{MAX_TILES} make sense; give a larger size"
        )
    return None if tile == spec.resolution else tile


def _block(steps: Sequence[int], record_shape: tuple[int, ...], options: Options) -> Block:
    """Whole trajectories where one fits into a shard, else a stretch of one of them. `steps`: of each trajectory."""
    longest, record_bytes, shard_bytes = max(steps), _record_bytes(record_shape), options.shard_bytes
    if longest * record_bytes > shard_bytes:
        return Block(1, max(1, shard_bytes // record_bytes))
    return Block(min(len(steps), max(1, shard_bytes // (longest * record_bytes))), longest)


def cut_evenly(num_steps: int, *, longest: int) -> list[tuple[int, int]]:
    """(start, stop) of the fewest stretches of at most `longest` steps, as equal as they can be."""
    num_parts = max(1, math.ceil(num_steps / max(1, longest)))
    edges = [number * num_steps // num_parts for number in range(num_parts + 1)]
    return list(pairwise(edges))


def _zarr_units(spec: DatasetSpec, split: Split, steps: dict[int, int], options: Options) -> Iterator[Unit]:
    """Shards of the array `fields`: (trajectory, time, channel, *space), then those of `constant_fields`."""
    members, num_dims = list(steps), len(spec.resolution)
    block = _block(list(steps.values()), spec.frame_shape, options)
    longest_segment = SEGMENT_BYTES // _record_bytes(spec.frame_shape)
    for first in range(0, len(members), block.num_trajectories):
        group = members[first : first + block.num_trajectories]
        for start in range(0, max(steps[number] for number in group), block.num_steps):
            segments = [
                Segment(number, start + low, start + high)
                for number in group
                if steps[number] > start
                for low, high in cut_evenly(min(block.num_steps, steps[number] - start), longest=longest_segment)
            ]
            place = [first // block.num_trajectories, start // block.num_steps, *[0] * (num_dims + 1)]
            path = "/".join([split, "fields", "c", *map(str, place)])
            yield Unit(path, split, "frames", tuple(segments), first, start)
    if spec.constant_fields:
        yield from _zarr_constant_units(spec, split, members, options)


def _zarr_constant_units(spec: DatasetSpec, split: Split, members: list[int], options: Options) -> Iterator[Unit]:
    block = _block([1] * len(members), spec.constant_shape, options)
    for first in range(0, len(members), block.num_trajectories):
        group = members[first : first + block.num_trajectories]
        place = [first // block.num_trajectories, *[0] * (len(spec.resolution) + 1)]
        path = "/".join([split, "constant_fields", "c", *map(str, place)])
        segments = tuple(Segment(number, 0, 0, with_constants=True) for number in group)
        yield Unit(path, split, "constants", segments, first)


def _tar_units(spec: DatasetSpec, split: Split, steps: dict[int, int], options: Options) -> Iterator[Unit]:
    """Samples in order, a new tar whenever the next one would make it larger than `shard_bytes`."""
    record_bytes = _record_bytes(spec.frame_shape)
    constant_bytes = _record_bytes(spec.constant_shape) if spec.constant_fields else 0
    longest = min(SEGMENT_BYTES, options.shard_bytes) // record_bytes
    shards: list[list[Segment]] = [[]]
    filled_bytes = 0
    for number, num_steps in steps.items():
        for start, stop in cut_evenly(num_steps, longest=longest):
            sample_bytes = (stop - start) * record_bytes + constant_bytes
            if shards[-1] and filled_bytes + sample_bytes > options.shard_bytes:
                shards.append([])
                filled_bytes = 0
            shards[-1].append(Segment(number, start, stop, with_constants=bool(spec.constant_fields)))
            filled_bytes += sample_bytes
    for position, segments in enumerate(shards):
        yield Unit(f"{split}-{position:06d}.tar", split, "samples", tuple(segments))


def _file_units(spec: DatasetSpec, split: Split, runs: dict[int, SourceTrajectory], origin: Origin) -> Iterator[Unit]:
    """The source's own files, each with all its trajectories."""
    longest = SEGMENT_BYTES // _record_bytes(spec.frame_shape)
    for file, members in groupby(runs, key=lambda number: runs[number].file):
        segments = tuple(
            Segment(number, start, stop, with_constants=bool(spec.constant_fields) and start == 0)
            for number in members
            for start, stop in cut_evenly(runs[number].num_steps, longest=longest)
        )
        yield Unit(origin.shard_path(file), split, "file", segments)


def _record_bytes(shape: tuple[int, ...]) -> int:
    return 4 * math.prod(shape)
