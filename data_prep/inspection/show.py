"""Says what a corpus or a prepared dataset contains, and what is wrong with it: a table for people."""

from collections.abc import Iterator, Sequence

import numpy as np

from data_prep.contract.manifest import SPLITS, Rounding
from data_prep.conversion.scan import Scan
from data_prep.inspection.findings import header_findings, value_findings
from data_prep.sources.prepared import PreparedSource
from data_prep.sources.protocol import Source


def describe_source(source: Source, scan: Scan | None = None, *, disagreements: Sequence[str] = ()) -> str:
    """A table, then what is wrong. `scan`: of the values, if they were read; `disagreements` of shipped statistics."""
    spec = source.spec
    lines = [f"{spec.name}  ({source.url})", ""]
    lines += _describe_grid(source)
    lines += ["", *_describe_splits(source)]
    lines += ["", *_describe_channels(source, scan)]
    lines += [f"scalar {name}: {_scalar_range(source, name)}" for name in spec.scalars]
    if isinstance(source, PreparedSource):
        manifest = source.manifest
        stored = sum(shard.bytes for shard in manifest.shards)
        tiles = f", tiles of {'x'.join(map(str, manifest.tile))}" if manifest.tile else ""
        how = f"{manifest.layout}, {manifest.codec}{tiles}" if not manifest.reference else manifest.reference.url
        where = "refers to " if manifest.reference else ""
        lines += ["", f"{where}{how}: {len(manifest.shards)} objects, {_size(stored)}"]
    else:
        lines += ["", f"{len(source.files)} files, {_size(sum(file.bytes for file in source.files))}"]
    found = [*header_findings(source), *(value_findings(source, scan) if scan else ()), *disagreements]
    lines += ["", *([f"! {text}" for text in found] or ["nothing wrong" if scan else "nothing wrong by the headers"])]
    if scan is None:
        lines += ["  (`--scan` reads the values too, and finds what is wrong with those)"]
    return "\n".join(lines)


def _describe_grid(source: Source) -> Iterator[str]:
    spec = source.spec
    yield f"{len(spec.resolution)}D, {spec.grid_type}"
    axes = zip(spec.spatial_dims, spec.resolution, spec.boundaries, spec.coordinates, strict=True)
    for name, size, (low, high), coordinates in axes:
        sides = str(low) if low is high else f"{low} | {high}"
        yield f"  {name}: {size} points from {coordinates[0]:g} to {coordinates[-1]:g}{_spacing(coordinates)}, {sides}"


def _spacing(coordinates: tuple[float, ...]) -> str:
    steps = np.diff(coordinates)
    uneven = len(steps) > 0 and float(np.ptp(steps)) > 1e-3 * abs(float(steps.mean()))
    return ", unevenly spaced" if uneven else ""


def _describe_splits(source: Source) -> Iterator[str]:
    frame_bytes = 4 * int(np.prod(source.spec.frame_shape))
    yield f"{'split':8}{'trajectories':>13}{'frames':>10}{'steps':>12}{'values':>12}"
    for split in SPLITS:
        steps = [run.num_steps for run in source.trajectories if run.split == split]
        if steps:
            spread = str(steps[0]) if min(steps) == max(steps) else f"{min(steps)} to {max(steps)}"
            yield f"{split:8}{len(steps):13}{sum(steps):10}{spread:>12}{_size(sum(steps) * frame_bytes):>12}"


def _describe_channels(source: Source, scan: Scan | None) -> Iterator[str]:
    spec, prepared = source.spec, source.manifest if isinstance(source, PreparedSource) else None
    statistics = scan.statistics if scan else prepared.statistics if prepared else None
    if statistics is None:
        yield f"channels: {', '.join(spec.channels)}"
        if spec.constant_fields:
            yield f"constant channels: {', '.join(spec.constant_channels)}"
        return
    rounding = (prepared.rounding if prepared else None) or {}
    rounded = f"{'kept bits':>11}{'VRMSE':>11}{'of change':>11}" if rounding else ""
    yield f"{'channel':24}{'mean':>13}{'std':>13}{'rms':>13}{'std of change':>15}{rounded}"
    for name in spec.channels + spec.constant_channels:
        moments = statistics[name]
        change = "constant" if name in spec.constant_channels else f"{moments.std_delta:.5g}"
        cost = _describe_rounding(rounding.get(name)) if rounding else ""
        yield f"{name:24}{moments.mean:13.5g}{moments.std:13.5g}{moments.rms:13.5g}{change:>15}{cost}"


def _describe_rounding(rounding: Rounding | None) -> str:
    if rounding is None:
        return f"{'exact':>11}"
    costs = ("-" if cost is None else f"{cost:.2g}" for cost in (rounding.vrmse, rounding.vrmse_delta))
    return f"{rounding.kept_bits:11}" + "".join(f"{cost:>11}" for cost in costs)


def _scalar_range(source: Source, name: str) -> str:
    values: set[float] = set()
    for run in source.trajectories:
        value = run.scalars[name]
        values.update(value if isinstance(value, tuple) else (value,))
    if len(values) <= 6:
        return ", ".join(f"{value:g}" for value in sorted(values))
    return f"{min(values):g} to {max(values):g}, {len(values)} values"


def _size(num_bytes: int) -> str:
    """In powers of 1000, as disks are sold."""
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.4g} {unit}"
        amount /= 1000
    return f"{amount:.4g} TB"
