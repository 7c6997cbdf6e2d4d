"""Of the layout `zarr`, everything but the shards: zarr-python's metadata, and the small arrays beside `fields`.

Apart from `zarr_writer`, since who makes shards alone need not wait for zarr to be imported.
"""

import warnings
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from data_prep.contract.errors import RefusedError
from data_prep.contract.manifest import SPLITS, Split
from data_prep.contract.sample import BLOSC_LEVELS, ITEM_BYTES
from data_prep.planning.plan import Plan


def metadata_objects(plan: Plan) -> dict[str, bytes]:
    """Everything but the shards, by path: zarr's metadata, and small arrays by which the groups explain themselves."""
    objects: dict[str, Any] = {}
    store = MemoryStore(store_dict=objects)
    facts = plan.spec.model_dump(mode="json", exclude={"coordinates"})
    facts |= {"channels": plan.spec.channels, "constant_channels": plan.spec.constant_channels}
    if plan.options.kept_bits:
        facts["kept_bits"] = plan.options.kept_bits
    root = zarr.create_group(store, zarr_format=3, attributes=facts)
    for split in SPLITS:
        if plan.of_split(split):
            _describe_split(root.create_group(split, attributes=facts), plan, split)
            _consolidate(store, split)
    _consolidate(store, "")
    return {path: value.to_bytes() for path, value in sorted(objects.items())}


def _consolidate(store: MemoryStore, path: str) -> None:
    """One request for all metadata instead of one for each array."""
    with warnings.catch_warnings():
        # consolidated metadata is not in the core specification yet; readers that do not know it ignore it
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(store, path=path)


def _describe_split(group: zarr.Group, plan: Plan, split: Split) -> None:
    spec, runs = plan.spec, [plan.trajectories[number] for number in plan.of_split(split)]
    group.attrs["trajectories"] = [run.name for run in runs]
    longest = max(run.num_steps for run in runs)
    block = plan.frames_block(split)
    tile = plan.tile or spec.resolution
    # a shard spans whole tiles, be it that the last ones reach beyond the edge
    space = tuple(-(-size // length) * length for size, length in zip(spec.resolution, tile, strict=True))
    channels, constants = len(spec.channels), len(spec.constant_channels)
    _create_fused(
        group,
        "fields",
        shape=(len(runs), longest, *spec.frame_shape),
        chunks=(1, 1, channels, *tile),
        shards=(block.num_trajectories, block.num_steps, channels, *space),
        names=("trajectory", "time", "channel", *spec.spatial_dims),
        codecs=_codecs(plan),
    )
    if spec.constant_fields:
        _create_fused(
            group,
            "constant_fields",
            shape=(len(runs), *spec.constant_shape),
            chunks=(1, constants, *tile),
            shards=(plan.constants_block(split).num_trajectories, constants, *space),
            names=("trajectory", "constant_channel", *spec.spatial_dims),
            codecs=_codecs(plan),
        )
    _add_small(group, "num_steps", np.array([run.num_steps for run in runs], np.int64), names=("trajectory",))
    _add_small(group, "times", _padded([run.times for run in runs], longest), names=("trajectory", "time"))
    for dim, coordinates in zip(spec.spatial_dims, spec.coordinates, strict=True):
        _add_small(group, dim, np.array(coordinates, np.float64), names=(dim,))
    for name in spec.scalars:
        _add_scalar(group, f"scalar_{name}", [run.scalars[name] for run in runs], longest)


def _create_fused(
    group: zarr.Group,
    name: str,
    *,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...],
    names: tuple[str, ...],
    codecs: list[BloscCodec | Crc32cCodec],
) -> None:
    group.create_array(
        name,
        shape=shape,
        dtype="float32",
        chunks=chunks,
        shards=shards,
        fill_value=float("nan"),
        compressors=codecs,
        dimension_names=names,
    )


def _codecs(plan: Plan) -> list[BloscCodec | Crc32cCodec]:
    if plan.options.codec == "none":
        return [Crc32cCodec()]
    compressor, level = BLOSC_LEVELS[plan.options.codec]
    return [BloscCodec(typesize=ITEM_BYTES, cname=compressor, clevel=level, shuffle=plan.shuffle), Crc32cCodec()]


def _add_scalar(group: zarr.Group, name: str, values: list[float | tuple[float, ...]], longest: int) -> None:
    rows = [value for value in values if isinstance(value, tuple)]
    if rows:
        full = [value if isinstance(value, tuple) else (value,) * longest for value in values]
        _add_small(group, name, _padded(full, longest), names=("trajectory", "time"))
    else:
        _add_small(group, name, np.array(values, np.float64), names=("trajectory",))


def _add_small(group: zarr.Group, name: str, values: np.ndarray[Any, Any], *, names: tuple[str, ...]) -> None:
    if name in group:
        raise RefusedError(
            f"`{name}` names two arrays of the zarr group {group.path}; rename the axis or the parameter"
        )
    fill_value = float("nan") if values.dtype.kind == "f" else 0
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        compressors=None,
        fill_value=fill_value,
        dimension_names=names,
    )
    array[...] = values


def _padded(rows: list[tuple[float, ...]], length: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(row, length), NaN behind the end of a short row."""
    full = np.full((len(rows), length), np.nan)
    for number, row in enumerate(rows):
        full[number, : len(row)] = row
    return full
