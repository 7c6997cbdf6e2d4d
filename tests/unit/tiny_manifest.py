"""A small manifest and its index, for tests of what is wrong with one."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.fields import Boundary, DatasetSpec, Field
from data_prep.contract.manifest import (
    INDEX_DTYPE,
    Index,
    Manifest,
    Moments,
    Provenance,
    Shard,
    SourceFile,
    Trajectory,
    describe_index,
    save_manifest,
)
from data_prep.contract.storage import Storage

FRAME_BYTES = 4 * 3 * 2 * 3
CONSTANT_BYTES = 4 * 2 * 3
SPEC = DatasetSpec(
    name="tiny",
    grid_type="cartesian",
    spatial_dims=("x", "y"),
    resolution=(2, 3),
    boundaries=((Boundary.PERIODIC, Boundary.PERIODIC), (Boundary.WALL, Boundary.OPEN)),
    fields=(Field(name="pressure"), Field(name="velocity", rank=1)),
    constant_fields=(Field(name="depth"),),
    scalars=("gamma", "forcing"),
    coordinates=((0.0, 0.5), (0.0, 0.25, 1.0)),
)


def make_index() -> Index:
    rows = np.zeros(6, INDEX_DTYPE)
    rows["bytes"] = [FRAME_BYTES, FRAME_BYTES, CONSTANT_BYTES] * 2
    rows["offset"] = np.arange(6) * FRAME_BYTES
    rows["crc32c"] = 7
    return rows


def make_manifest(index: Index) -> Manifest:
    moments = Moments(mean=0.1, std=1.0, rms=1.1, mean_delta=0.0, std_delta=0.2, rms_delta=0.2)
    scalars = {"gamma": 1.4, "forcing": (0.1, 0.2)}
    return Manifest(
        dataset=SPEC,
        layout="zarr",
        codec="none",
        shards=(Shard(path="train/fields/c/0", bytes=6 * FRAME_BYTES, crc32c=1),),
        trajectories=tuple(
            Trajectory(
                split="train",
                source=f"train/a.hdf5#{n}",
                num_steps=2,
                first_record=3 * n,
                times=(0.0, 0.1),
                scalars=scalars,
            )
            for n in range(2)
        ),
        index=describe_index(index),
        statistics=dict.fromkeys(SPEC.channels + SPEC.constant_channels, moments),
        provenance=Provenance(
            command=("convert", "tiny"),
            versions={"numpy": "2"},
            files=(SourceFile(path="train/a.hdf5", bytes=9, crc32c=None),),
        ),
    )


def saved(folder: Path) -> Storage:
    index = make_index()
    save_manifest(Storage(str(folder)), make_manifest(index), index)
    return Storage(str(folder))


def rewrite(storage: Storage, change: Any) -> None:
    stored = json.loads(storage.get("manifest.json", max_bytes=10**6))
    change(stored)
    storage.put("manifest.json", json.dumps(stored).encode())
