"""Small prepared datasets written record by record, so that a test can say where each byte lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.checksum import checksum
from data_prep.contract.fields import Boundary, DatasetSpec, Field
from data_prep.contract.manifest import (
    INDEX_DTYPE,
    Codec,
    Manifest,
    Moments,
    Provenance,
    Shard,
    Split,
    Trajectory,
    describe_index,
    save_manifest,
)
from data_prep.contract.pieces import Pieces, pieces_of
from data_prep.contract.sample import encode_frame
from data_prep.contract.storage import Storage

Frames = np.ndarray[Any, np.dtype[np.float32]]

TINY_RUN = """
name: tiny
output: runs/tiny
steps: 20
stage:
  kind: tokeniser
  tokeniser: {widths: [8], kernels: [{}], blocks: [1], latent_channels: 3}
  compressions: [{levels: [{space: 2}]}]
data:
  datasets: [{url: DATA}]
  window: {frames: 3}
  batch_size: 8
engine: {micro_batch_size: 2}
"""
"""A run of the tokeniser stage on a prepared dataset at DATA."""


@dataclass(frozen=True)
class Prepared:
    """A dataset on disk, and the values that it was made of."""

    url: str
    manifest: Manifest
    frames: tuple[Frames, ...]
    """For each trajectory (time, channel, *space)."""
    constants: tuple[Frames, ...]
    """For each trajectory (channel, *space); empty arrays where there are none."""

    def shard_path(self, number: int = 0) -> Path:
        return Path(self.url, self.manifest.shards[number].path)

    def expected(self, trajectory: int, start: int, *, frames: int, stride: int = 1) -> Frames:
        """(time, channel, *space) of one window, constants included."""
        fields = self.frames[trajectory][start : start + (frames - 1) * stride + 1 : stride]
        constants = np.broadcast_to(self.constants[trajectory], (frames, *self.constants[trajectory].shape))
        return np.concatenate([fields, constants], axis=1)


def prepare(
    folder: Path,
    *,
    name: str = "waves",
    lengths: Sequence[int] = (10, 7),
    splits: Sequence[Split] = (),
    resolution: tuple[int, ...] = (4, 6),
    constant_fields: tuple[Field, ...] = (),
    codec: Codec = "none",
    tile: tuple[int, ...] | None = None,
    padding: int = 0,
    records_per_shard: int = 1000,
    seed: int = 0,
    scalars: Mapping[str, Sequence[float]] | None = None,
) -> Prepared:
    """Random fields `density` and `momentum`. `padding` bytes lie before each record, as in a tar; `scalars` have a
    value for each trajectory."""
    spec = _spec(name, resolution, constant_fields).model_copy(update={"scalars": tuple(scalars or {})})
    random = np.random.default_rng(seed)
    frames = tuple(_random(random, (length, *spec.frame_shape)) for length in lengths)
    constants = tuple(_random(random, spec.constant_shape) for _ in lengths)
    pieces = pieces_of(spec, tile)
    records = [
        encode_frame(piece.take(record), codec)
        for one, constant in zip(frames, constants, strict=True)
        for record, parts in (*((frame, pieces.of_frame) for frame in one), (constant, pieces.of_constants))
        for piece in parts
    ]
    rows, shards = _write_shards(folder, records, padding=padding, records_per_shard=records_per_shard)
    manifest = Manifest(
        dataset=spec,
        layout="zarr",
        codec=codec,
        tile=tile,
        shards=shards,
        trajectories=_trajectories(lengths, splits or ("train",) * len(lengths), pieces=pieces, scalars=scalars or {}),
        index=describe_index(rows),
        statistics=_statistics(spec, frames, constants),
        provenance=Provenance(command=("test",), versions={}, files=()),
    )
    save_manifest(Storage(str(folder)), manifest, rows)
    return Prepared(str(folder), manifest, frames, constants)


def _spec(name: str, resolution: tuple[int, ...], constant_fields: tuple[Field, ...]) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        grid_type="cartesian",
        spatial_dims=("x", "y", "z")[: len(resolution)],
        resolution=resolution,
        boundaries=((Boundary.PERIODIC, Boundary.PERIODIC), *((Boundary.WALL, Boundary.OPEN),) * (len(resolution) - 1)),
        fields=(Field(name="density"), Field(name="momentum", rank=1)),
        constant_fields=constant_fields,
        coordinates=tuple(tuple(np.linspace(0, 1, num_points).tolist()) for num_points in resolution),
    )


def _random(random: np.random.Generator, shape: tuple[int, ...]) -> Frames:
    return (3 + 2 * random.standard_normal(shape)).astype(np.float32)


def _write_shards(
    folder: Path, records: list[bytes], *, padding: int, records_per_shard: int
) -> tuple[np.ndarray[Any, np.dtype[np.void]], tuple[Shard, ...]]:
    folder.mkdir(parents=True, exist_ok=True)
    rows, shards = [], []
    for first in range(0, len(records), records_per_shard):
        data = b""
        for record in records[first : first + records_per_shard]:
            data += b"\xff" * padding
            rows.append((len(shards), len(data), len(record), checksum(record)))
            data += record
        shards.append(Shard(path=f"shard-{len(shards)}", bytes=len(data), crc32c=checksum(data)))
        (folder / shards[-1].path).write_bytes(data)
    return np.array(rows, INDEX_DTYPE), tuple(shards)


def _trajectories(
    lengths: Sequence[int], splits: Sequence[Split], *, pieces: Pieces, scalars: Mapping[str, Sequence[float]]
) -> tuple[Trajectory, ...]:
    trajectories, first_record = [], 0
    for number, (length, split) in enumerate(zip(lengths, splits, strict=True)):
        trajectories.append(
            Trajectory(
                split=split,
                source=f"{split}/a.hdf5#{number}",
                num_steps=length,
                first_record=first_record,
                times=tuple(0.5 * step for step in range(length)),
                scalars={name: values[number] for name, values in scalars.items()},
            )
        )
        first_record += pieces.num_rows(length)
    return tuple(trajectories)


def _statistics(spec: DatasetSpec, frames: tuple[Frames, ...], constants: tuple[Frames, ...]) -> dict[str, Moments]:
    fields = np.concatenate([np.moveaxis(one, 1, 0).reshape(len(spec.channels), -1) for one in frames], axis=1)
    statistics = {name: _moments(values) for name, values in zip(spec.channels, fields, strict=True)}
    for number, name in enumerate(spec.constant_channels):
        statistics[name] = _moments(np.stack([constant[number] for constant in constants]))
    return statistics


def _moments(values: Frames) -> Moments:
    values = values.astype(np.float64)
    rms = float(np.sqrt(np.mean(values**2)))
    return Moments(mean=float(values.mean()), std=float(values.std()), rms=rms, mean_delta=0, std_delta=1, rms_delta=1)
